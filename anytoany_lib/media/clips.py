"""Decodes and encodes clips by FFmpeg, and animated WebP, PNG and AVIF files by Pillow (FFmpeg reads GIF).

In come paths, out come uint8 frames (T, H, W, 3); only the frames that are asked for are held. Of an animation a first pass
asks how long each picture is shown, a second keeps those that are asked for: one picture at a time is decoded.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from anytoany_lib.media.containers import (
    MediaError,
    check_pixels,
    check_video_bytes,
    open_container,
    stream_of,
    stream_span,
)
from anytoany_lib.media.pictures import on_white, with_picture

SEEK_SECONDS = 10.0  # about one group of pictures: nearer than that, decoding on beats a seek
MAX_RATE = 240.0  # frames a second
STRANGEST_PIXEL = 8.0  # times as wide as high, or the other way
_SHOWN = 100  # milliseconds of an animation's picture that does not say, as browsers have it
_ANIMATIONS = ("WEBP", "PNG", "AVIF")


def video_header(path: Path) -> tuple[float, int, int]:
    """(seconds, width, height) of a clip without decoding it, the size before any turning; bounded as `check_pixels` says."""
    if _is_animation(path):
        return with_picture(
            path, _ANIMATIONS, lambda image: (_ends(image, None, path)[-1], *image.size)
        )
    with open_container(path) as container:
        stream = stream_of(container, "video", path)
        width, height = stream.width, stream.height
    check_pixels(width, height, path)
    return stream_span(path, "video")[1], width, height


def decode_video(
    path: Path, num_frames: int | None, max_seconds: float | None, short_side: int | None
) -> tuple[np.ndarray, float]:
    """What `media_files.load_video` gives; the decoder's own errors come through."""
    if _is_animation(path):
        how = (num_frames, max_seconds, short_side, path)
        return with_picture(path, _ANIMATIONS, lambda image: _animation_frames(image, *how))
    begin, span = stream_span(path, "video")
    span = span if max_seconds is None else min(span, max_seconds)
    with open_container(path) as container:
        stream = stream_of(container, "video", path)
        size = _frame_size(stream, short_side, path)
        if num_frames is None:
            found = _every_frame(_timed_frames(container, stream, begin), size, max_seconds, path)
            return np.stack(found), _true_rate(stream, len(found), span)
        check_video_bytes(num_frames, size[1], size[0], path)
        times = [(i + 0.5) / num_frames * span for i in range(num_frames)]
        frames = _frames_at(container, stream, begin, size, times, True, path)
    if frames is None:  # the format cannot be sought in: from its beginning, then
        with open_container(path) as container:
            stream = stream_of(container, "video", path)
            frames = _frames_at(container, stream, begin, size, times, False, path)
    if frames is None:
        raise MediaError("unreadable", f"no frame at {times[-1]:.1f} s: the file is cut", path)
    return np.stack(frames), num_frames / span


def _true_rate(stream: Any, count: int, span: float) -> float:
    """Frames a second: as stated, unless that is a variable rate's greatest, which some containers state."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    right = stated > 0 and abs(stated * span - count) <= 1 + 0.1 * count
    return stated if right else count / span


def _frame_size(stream: Any, short_side: int | None, path: Path) -> tuple[int, int]:
    """Width and height to decode to: square pixels, shrunk to `short_side`."""
    check_pixels(stream.width, stream.height, path)
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / STRANGEST_PIXEL <= aspect <= STRANGEST_PIXEL:
        aspect = 1.0  # no camera has such pixels: the number is damaged
    size = _shrunk(stream.width * aspect, stream.height, short_side)
    check_pixels(*size, path)
    return size


def _shrunk(width: float, height: float, short_side: int | None) -> tuple[int, int]:
    """(width, height) with a short side of at most `short_side`."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _timed_frames(container: Any, stream: Any, begin: float) -> Iterator[tuple[float, Any]]:
    """(seconds from the track's beginning, frame), decoded from where the container stands."""
    for index, frame in enumerate(container.decode(stream)):
        untimed = index / float(stream.average_rate or 25)
        yield (untimed if frame.time is None else frame.time - begin), frame


def _pixels(frame: Any, size: tuple[int, int]) -> np.ndarray:
    turns = round(frame.rotation / 90)
    if any(component.is_alpha for component in frame.format.components):
        seen = frame.to_ndarray(format="rgba")
        if seen[..., 3].min() < 255:
            picture = on_white(Image.fromarray(seen)).resize(size)
            return np.ascontiguousarray(np.rot90(np.asarray(picture), turns))
    array = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
    return np.ascontiguousarray(np.rot90(array, turns))


def _every_frame(
    source: Iterator[tuple[float, Any]],
    size: tuple[int, int],
    max_seconds: float | None,
    path: Path,
) -> list[np.ndarray]:
    """All that can be decoded, whatever the file says of its length."""
    frames: list[np.ndarray] = []
    for seconds, frame in source:
        if frames and max_seconds is not None and seconds >= max_seconds:
            break
        frames.append(_pixels(frame, size))
        check_video_bytes(len(frames), size[1], size[0], path)
    _check_count(len(frames), path)
    return frames


def _frames_at(
    container: Any,
    stream: Any,
    begin: float,
    size: tuple[int, int],
    times: list[float],
    seeking: bool,
    path: Path,
) -> list[np.ndarray] | None:
    """The frame on screen at each of the ascending `times`, seconds from the beginning; None if a seek leads nowhere."""
    source = _timed_frames(container, stream, begin)
    frames, shown, ahead, decoded, at, sought, ended = [], None, None, 0, 0.0, False, False
    for time in times:
        if seeking and time - at > SEEK_SECONDS:
            try:
                container.seek(int((begin + time) / stream.time_base), stream=stream)
            except av.FFmpegError:
                return None
            source, shown, ahead = _timed_frames(container, stream, begin), None, None
            sought = True
        while ahead is None or ahead[0] <= time:
            following = next(source, None)
            if following is None:
                ended = True
                break
            shown, ahead, decoded = ahead, following, decoded + 1
        if ahead is None and sought:
            return None
        if ended and not sought:
            _check_count(decoded, path)
        assert ahead is not None
        reached, frame = ahead if shown is None or ahead[0] <= time else shown
        if time - reached > max(2.0, 0.25 * time) and ahead[0] <= time:
            detail = f"the frames end at {reached:.1f} s of {time:.1f} s: the file is cut"
            raise MediaError("unreadable", detail, path)
        at = max(at, reached) if reached <= time else at
        frames.append(_pixels(frame, size))
    return frames


def _check_count(count: int, path: Path) -> None:
    if count == 0:
        raise MediaError("unreadable", "no frame could be decoded", path)
    if count == 1:
        raise MediaError("too short", "one frame only, a video has at least two", path)


def encode_video(target: io.BytesIO | Path, frames: np.ndarray, fps: float, options: dict) -> None:
    """Write (T, H, W, 3) as H.264 in yuv420p, which every browser plays; it wants even sizes."""
    if not 0 < fps <= MAX_RATE:
        expected = f"frames per second are above 0, at most {MAX_RATE:g}"
        raise MediaError("wrong form", f"{expected}, not {fps}")
    frames = even(frames)
    where = f"file:{target}" if isinstance(target, Path) else target
    with av.open(where, "w", format="mp4", options=options) as container:
        stream = h264_stream(container, fps, *frames.shape[1:3])
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def even(frames: np.ndarray) -> np.ndarray:
    """(..., H, W, 3) with one row or column repeated where the encoder wants an even size."""
    height, width = frames.shape[-3:-1]
    return np.pad(
        frames, [(0, 0)] * (frames.ndim - 3) + [(0, height % 2), (0, width % 2), (0, 0)], "edge"
    )


def h264_stream(container: Any, rate: float, height: int, width: int) -> Any:
    """A new track of a container for frames of an even size, `rate` of them a second."""
    stream = container.add_stream("libx264", rate=Fraction(float(rate)).limit_denominator(1001))
    stream.height, stream.width = height, width
    stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
    return stream


# --- animations ---


def _is_animation(path: Path) -> bool:
    """Whether Pillow reads a file's form as an animation; it may hold one picture only."""
    with path.open("rb") as file:
        head = file.read(12)
    webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:] in (b"avif", b"avis")
    return webp or avif or head[:8] == b"\x89PNG\r\n\x1a\n"


def _animation_frames(
    image: Image.Image,
    num_frames: int | None,
    max_seconds: float | None,
    short_side: int | None,
    path: Path,
) -> tuple[np.ndarray, float]:
    size = _shrunk(*image.size, short_side)
    ends = _ends(image, max_seconds, path)
    span = ends[-1] if max_seconds is None else min(ends[-1], max_seconds)
    wanted = np.arange(len(ends))
    if num_frames is not None:
        times = (np.arange(num_frames) + 0.5) / num_frames * span
        wanted = np.minimum(np.searchsorted(ends, times, side="right"), len(ends) - 1)
    check_video_bytes(len(wanted), size[1], size[0], path)
    frames: list[np.ndarray] = []
    first = _first_shown(image)
    for number in range(wanted[-1] + 1):
        image.seek(first + number)
        image.load()  # each picture is laid over the one before
        if times_shown := int((wanted == number).sum()):
            frames += [np.asarray(on_white(image).resize(size))] * times_shown
    return np.stack(frames), len(frames) / span


def _first_shown(image: Image.Image) -> int:
    """Where the animation begins: a PNG may hold a picture before it, for those who cannot play it."""
    return int(bool(image.info.get("default_image")))


def _ends(image: Image.Image, max_seconds: float | None, path: Path) -> list[float]:
    """The second at which each picture ends, of those that begin before `max_seconds`."""
    check_pixels(*image.size, path)
    ends = [0.0]  # in milliseconds, which add up exactly
    for number in range(_first_shown(image), getattr(image, "n_frames", 1)):
        if len(ends) > 1 and max_seconds is not None and ends[-1] >= 1000 * max_seconds:
            break
        image.seek(number)
        image.load()
        shown = image.info.get("duration") or _SHOWN
        ends.append(ends[-1] + (shown if 0 < shown < 1e9 else _SHOWN))
    if (len(ends) == 2 and max_seconds is None) or len(ends) == 1:
        raise MediaError("too short", "one frame only, a video has at least two", path)
    return [end / 1000 for end in ends[1:]]
