"""Segments: a part of a film or sound that a record means, cut into a file of its own.

A reader names one as `film.mp4#t=12,15.5`: seconds from the beginning of what there is to see or hear.
"""

import hashlib
import re
from fractions import Fraction
from pathlib import Path, PurePosixPath
from threading import get_ident
from typing import Any

import av
import numpy as np
import soundfile

from anytoany_lib.media import media_files
from anytoany_lib.media.clips import even, h264_stream
from anytoany_lib.media.containers import (
    MediaError,
    check_pixels,
    decoding,
    existing_file,
    open_container,
    stream_of,
)
from anytoany_lib.system.files import room_for

MAX_SECONDS = 3600.0
_SEGMENT = re.compile(r"(.+)#t=(\d+(?:\.\d+)?(?:e[+-]?\d+)?),(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.S)
_TICKS = 90_000  # per second, in the clips that are written


def segment_in(name: str) -> tuple[str, float, float] | None:
    """(path, start, end) of a segment's name; None if it is a whole medium's."""
    found = _SEGMENT.fullmatch(name)
    return (found[1], float(found[2]), float(found[3])) if found else None


def name_of_cut(name: str, kind: str) -> str:
    """What the file of a segment is called, which no other is: `films/a.mp4#t=12,15.5` -> `films/a_12-15.5_1b2c3d4e5f.mp4`."""
    path, start, end = segment_in(name) or (name, 0.0, 0.0)
    whole, own = PurePosixPath(path), hashlib.sha256(f"{kind} {name}".encode()).hexdigest()[:10]
    file_name = f"{whole.stem[:150]}_{start:g}-{end:g}_{own}{media_files.SUFFIX[kind]}"
    return whole.with_name(file_name).as_posix()


def cut(kind: str, path: Path, start: float, end: float, target: Path) -> None:
    """Writes seconds `start` to `end` of a clip (pictures alone) or sound. MediaError if they are none, too many or damaged; DiskFull."""
    path = existing_file(path)
    if end - start > MAX_SECONDS:
        raise MediaError("too large", f"{end - start:,.0f} s, over {MAX_SECONDS:,.0f} s", path)
    if target.exists():
        return  # another row means the same
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{get_ident()}{target.suffix}")
    try:
        with decoding(path):
            (_cut_clip if kind == "video" else _cut_sound)(path, start, end, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _cut_sound(path: Path, start: float, end: float, target: Path) -> None:
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            file.seek(min(int(start * rate), file.frames))
            samples = file.read(int((end - start) * rate), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        if end > media_files.MAX_AUDIO_SECONDS:
            raise MediaError("too large", f"a segment that ends at {end:,.0f} s", path) from None
        whole, rate = media_files.load_audio(path, max_seconds=end)
        samples = whole[int(start * rate) :, None]
    if not len(samples):
        raise MediaError("empty", f"nothing between {start:g} and {end:g} s", path)
    media_files.save_audio(target, samples.mean(axis=1), rate)


def _cut_clip(path: Path, start: float, end: float, target: Path) -> None:
    """Frame by frame, each at its own time: memory does not grow with the segment."""
    with open_container(path) as source:
        stream = stream_of(source, "video", path)
        check_pixels(stream.width, stream.height, path)
        first = float((stream.start_time or 0) * stream.time_base)
        if start > 1:
            source.seek(int((first + start) / stream.time_base), stream=stream)
        with room_for(target), av.open(f"file:{target}", "w", format="mp4") as made:
            _write_clip(source, stream, made, (first + start, first + end), path)


def _write_clip(source: Any, stream: Any, made: Any, span: tuple[float, float], path: Path) -> None:
    rate = float(stream.average_rate or 25)
    writer: Any = None
    last = -1
    shown = None  # what is on screen when the segment begins was drawn before
    for frame in source.decode(stream):
        at = span[0] if frame.time is None else frame.time
        if at >= span[1]:
            break
        if at < span[0]:
            shown = frame
            continue
        for one, time in ((shown, span[0]), (frame, at)):
            if one is None or (one is shown and at - span[0] < 1 / rate):
                continue
            pixels = even(np.rot90(one.to_ndarray(format="rgb24"), round(one.rotation / 90)))
            if writer is None:
                writer = h264_stream(made, rate, *pixels.shape[:2])
                writer.codec_context.time_base = Fraction(1, _TICKS)
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            last = max(last + 1, round((time - span[0]) * _TICKS))
            image.pts, image.time_base = last, Fraction(1, _TICKS)
            made.mux(writer.encode(image))
        shown = None
    if writer is None:
        raise MediaError("empty", f"no frame between {span[0]:g} and {span[1]:g} s", path)
    made.mux(writer.encode())
