"""Opens media files and containers for `media`: bounds, errors, and how long what is in them lasts.

Whatever cannot be used raises a `MediaError`, which carries the path and a reason word that a data report can count.
`sounds` and `clips` decode what is opened here.
"""

import itertools
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, UnidentifiedImageError

from anytoany_lib.media.file_types import unread
from anytoany_lib.system.files import DiskFull

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 8 * 2**30
MAX_VIDEO_BYTES = 2**30
MAX_HELD_BYTES = 2**31
_REORDERED = 8  # packets among which the first to be shown is
_BEHIND_EVERYTHING = 2**40  # in any time base

# Containers that hold media themselves: playlists and concat scripts, which name other files, are out.
_FORMATS = (
    "mov,mp4,m4a,3gp,matroska,webm,avi,ogg,wav,flac,mp3,aac,mpegts,mpeg,gif,flv,asf,aiff,au,caf,amr"
)


class MediaError(ValueError):
    """A medium that cannot be used.

    Attributes: `reason` ("missing", "unreadable", "empty", "too short", "too large", "silent",
    "wrong form", "outside the folder"), `detail` (a sentence), `path` (None for a medium in memory).
    """

    def __init__(self, reason: str, detail: str, path: str | Path | None = None):
        super().__init__(reason, detail, path)
        self.reason, self.detail, self.path = reason, detail, path

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        return f"{where}{self.reason}: {self.detail}"


def existing_file(path: str | Path) -> Path:
    """The path of a regular file with something in it, not more than MAX_FILE_BYTES."""
    path = Path(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError("missing", "no such file", path) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError("unreadable", str(error), path) from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("unreadable", "not a regular file", path)
    size = status.st_size
    if size == 0:
        raise MediaError("empty", "the file has no bytes", path)
    if size > MAX_FILE_BYTES:
        raise MediaError("too large", f"{size:,} bytes, over {MAX_FILE_BYTES:,}", path)
    return path


@contextmanager
def decoding(path: Path | None) -> Iterator[None]:
    """Turns whatever the decoders raise into MediaError, with the path. DiskFull is of no medium, and stays."""
    try:
        yield
    except DiskFull:
        raise
    except MediaError as error:
        if error.path is None:
            error.path = path
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        detail = str(error) or "more than there is memory for"
        raise MediaError("too large", detail, path) from error
    except UnidentifiedImageError as error:
        detail = "no picture in a form that is read"
        raise MediaError("unreadable", _known(path) or detail, path) from error
    # Damaged files make decoders raise anything: SyntaxError, struct.error, KeyError, TypeError and others were seen.
    except Exception as error:
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MediaError("unreadable", _known(path) or detail, path) from error


def _known(path: Path | None) -> str | None:
    """What a file that no decoder takes is, if its first bytes say so."""
    if path is None:
        return None
    with path.open("rb") as file:
        return unread(file.read(64))


def check_pixels(width: int, height: int, path: Path | None) -> None:
    """MediaError unless a picture has pixels, and not more than MAX_PIXELS."""
    if width * height == 0:
        raise MediaError("empty", f"{width} x {height} pixels", path)
    if width * height > MAX_PIXELS:
        raise MediaError("too large", f"{width} x {height} is over {MAX_PIXELS:,} pixels", path)


def check_video_bytes(frames: int, height: int, width: int, path: Path | None) -> None:
    """MediaError if frames of this size are over MAX_VIDEO_BYTES."""
    if frames * height * width * 3 > MAX_VIDEO_BYTES:
        detail = f"{frames} frames of {width} x {height} are over {MAX_VIDEO_BYTES:,} bytes"
        raise MediaError("too large", f"{detail}: ask for fewer or smaller ones", path)


class _Room:
    """Memory that all threads' decoders share: who wants much waits until there is room for it."""

    def __init__(self) -> None:
        self._held, self._change = 0, threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Holds so many bytes; alone, a medium may have more than there is."""
        with self._change:
            self._change.wait_for(lambda: not self._held or self._held + size <= MAX_HELD_BYTES)
            self._held += size
        try:
            yield
        finally:
            with self._change:
                self._held -= size
                self._change.notify_all()


ROOM = _Room()


def describe(value: Any) -> str:
    """What was given, for a message: type and shape of an array, else the type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def open_container(path: Path, options: dict[str, str] | None = None) -> Any:
    """The file as FFmpeg opens it; `options` are its demuxer's."""
    # "file:" keeps a name such as "concat:a" from being taken for a protocol.
    settings = {"format_whitelist": _FORMATS, **(options or {})}
    return av.open(f"file:{path}", container_options=settings, metadata_errors="replace")


def stream_of(container: Any, kind: str, path: Path) -> Any:
    """The first track of a kind that can be decoded; a cover is a picture, and no track of a film."""
    streams = _own_tracks(container, kind)
    if not streams:
        raise MediaError("unreadable", f"the file holds no {kind}", path)
    usable = [stream for stream in streams if stream.codec_context is not None]
    if not usable:
        raise MediaError("unreadable", f"no decoder for the file's {kind}", path)
    return usable[0]


def _own_tracks(container: Any, kind: str) -> list[Any]:
    streams = getattr(container.streams, kind)
    return [one for one in streams if not one.disposition & Disposition.attached_pic]


def track_kind(path: Path) -> str:
    """ "video" or "audio", by the tracks in a container; MediaError if it has none that can be decoded."""
    with open_container(path) as container:
        for kind in ("video", "audio"):
            if _own_tracks(container, kind):
                return kind
    raise MediaError("unreadable", "neither a sound nor a clip is in the file", path)


def stream_span(path: Path, kind: str) -> tuple[float, float]:
    """(second at which the first track of a kind begins, seconds it lasts), as its packets say, undecoded.

    What is stated stands where it agrees with them; it may count another track, begin elsewhere, or be damaged.
    MediaError where the file ends long before what it states.
    """
    with open_container(path) as container:
        stream = stream_of(container, kind, path)
        begin = _first(container, stream)
        end, sought = _last(path, container, stream)
        if end is None:
            raise MediaError("unreadable", f"no {kind} in the file's {kind} track", path)
        found = max(end - begin, 1e-3)
        close = max(0.02 * found, 1.5 / _rate(stream) if kind == "video" else 0.1)
        if stream.duration:
            stated = float(stream.duration * stream.time_base)
            _check_end(end - begin if not sought else stated, stated, path)
            return begin, stated if abs(stated - found) <= close else found
        if container.duration:
            whole = container.duration / av.time_base
            for stated in (whole, whole - begin):
                if abs(stated - found) <= close:
                    return begin, stated
            tracks = [*container.streams.video, *container.streams.audio]
            ends = [_last(path, container, other)[0] or 0.0 for other in tracks]
            _check_end(max(end, *ends), whole, path)
        return begin, found


def _rate(stream: Any) -> float:
    """Frames a second of a film; of a sound, about its packets."""
    stated = stream.average_rate or stream.guessed_rate if stream.type == "video" else None
    return float(stated or 25)


def _check_end(end: float, stated: float, path: Path) -> None:
    """Slide shows hold a frame for seconds: only what is far from the stated end is called cut."""
    if stated - end > max(2.0, 0.25 * stated):
        detail = f"the track ends at {end:.1f} s of {stated:.1f} s: the file is cut"
        raise MediaError("unreadable", detail, path)


def _first(container: Any, stream: Any) -> float:
    """The second at which a track begins: as stated, unless its first packets come much later."""
    packets = itertools.islice(container.demux(stream), _REORDERED)
    times = [packet.pts for packet in packets if packet.size and packet.pts is not None]
    found = float(min(times) * stream.time_base) if times else 0.0
    if stream.start_time is None:
        return found
    stated = float(stream.start_time * stream.time_base)
    return found if times and found - stated > max(0.5, _REORDERED / _rate(stream)) else stated


def _last(path: Path, container: Any, stream: Any) -> tuple[float | None, bool]:
    """(the second at which a track's last packet ends, whether a seek found it); a walk does where no seek can."""
    try:
        container.seek(_BEHIND_EVERYTHING, stream=stream)
        end = _end_of_packets(container, stream)
    except av.FFmpegError:  # a format in which nothing can be sought
        end = None
    if end is not None:
        return end, True
    with open_container(path) as again:
        return _end_of_packets(again, again.streams[stream.index]), False


def _end_of_packets(container: Any, stream: Any) -> float | None:
    end = None
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            at = packet.pts + (packet.duration or 0)
            end = at if end is None else max(at, end)
        elif packet.size and packet.duration:  # some formats time one packet in many
            end = packet.duration + (end or stream.start_time or 0)
    return None if end is None else float(end * stream.time_base)


def video_codec(path: Path) -> str:
    """What a clip's pictures are encoded with, as FFmpeg names its decoder: "h264", "hevc", "libdav1d"."""
    with decoding(path), open_container(path) as container:
        return stream_of(container, "video", path).codec_context.name
