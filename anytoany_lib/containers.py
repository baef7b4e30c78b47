"""Opens media files and containers for `media`: bounds, errors, headers, and what PyAV decodes and encodes.

In come paths, out come raw arrays. Whatever cannot be used raises a `MediaError`, which carries the
path and a reason word that a data report can count. Only the frames asked for are decoded.
"""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image, ImageSequence

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 8 * 2**30
MAX_VIDEO_BYTES = 2**30
SEEK_SECONDS = 10.0  # about one group of pictures: nearer than that, decoding on beats a seek

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
def decoding(path: Path) -> Iterator[None]:
    """Turns the decoders' errors into MediaError."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise MediaError("too large", str(error), path) from error
    except MediaError:
        raise
    # Pillow's plugins also raise SyntaxError, ValueError and the like on damaged files.
    except (OSError, EOFError, SyntaxError, ValueError, av.FFmpegError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise MediaError("unreadable", detail, path) from error


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


def describe(value: Any) -> str:
    """What was given, for a message: type and shape of an array, else the type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def _container(path: Path) -> Any:
    # "file:" keeps a name such as "concat:a" from being taken for a protocol.
    return av.open(f"file:{path}", container_options={"format_whitelist": _FORMATS})


def _stream(container: Any, kind: str, path: Path) -> Any:
    streams = getattr(container.streams, kind)
    if not streams:
        raise MediaError("unreadable", f"the file holds no {kind}", path)
    if streams[0].codec_context is None:
        raise MediaError("unreadable", f"no decoder for the file's {kind}", path)
    return streams[0]


def sound_header(path: Path) -> float:
    """Seconds of sound that the file's header states."""
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError:
        with _container(path) as container:
            return _duration(container, _stream(container, "audio", path), path)


def video_header(path: Path) -> tuple[float, int, int]:
    """(seconds, width, height) that the file's header states, the size before any turning; bounded as `check_pixels` says."""
    if _is_webp(path):
        with Image.open(path, formats=["WEBP"]) as image:
            width, height = image.size
        # Only its frames say how long an animated WebP lasts: they are read, and kept as single pixels.
        return _webp_frames(path, None, 1)[1][-1], width, height
    with _container(path) as container:
        stream = _stream(container, "video", path)
        check_pixels(stream.width, stream.height, path)
        return _duration(container, stream, path), stream.width, stream.height


def video_codec(path: Path) -> str:
    """What a clip's pictures are encoded with, as FFmpeg names its decoder: "h264", "hevc", "libdav1d"."""
    with decoding(path), _container(path) as container:
        return _stream(container, "video", path).codec_context.name


def decode_audio(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """The first sound track as float32 (N, channels) and its rate, by PyAV."""
    with _container(path) as container:
        stream = _stream(container, "audio", path)
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)
        limit, blocks, read = int(max_seconds * stream.rate), [], 0
        for frame in container.decode(stream):
            for block in resampler.resample(frame):
                blocks.append(block.to_ndarray().T)
                read += block.samples
            if read >= limit:
                break
        samples = np.concatenate(blocks)[:limit] if blocks else np.empty((0, 1), np.float32)
        return samples, stream.rate


def decode_video(
    path: Path, num_frames: int | None, max_seconds: float | None, short_side: int | None
) -> tuple[np.ndarray, float]:
    """What `media.load_video` gives; the decoder's own errors come through."""
    if _is_webp(path):
        return _decode_webp(path, num_frames, max_seconds, short_side)
    with _container(path) as container:
        stream = _stream(container, "video", path)
        width, height = _frame_size(stream, short_side, path)
        span = _duration(container, stream, path)
        span = span if max_seconds is None else min(span, max_seconds)
        if num_frames is None:
            frames = _read_every_frame(container, stream, (width, height), span, path)
            fps = _true_rate(stream, len(frames), span)
        else:
            check_video_bytes(num_frames, height, width, path)
            times = [(i + 0.5) / num_frames * span for i in range(num_frames)]
            frames = _read_frames_at(container, stream, (width, height), times, path)
            fps = num_frames / span
    return np.stack(frames), fps


def _true_rate(stream: Any, count: int, span: float) -> float:
    """Frames a second: as stated, unless that is a variable rate's greatest, which some containers state."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    return stated if abs(stated * span - count) <= 1 + 0.1 * count else count / span


def _frame_size(stream: Any, short_side: int | None, path: Path) -> tuple[int, int]:
    """Width and height to decode to: square pixels, shrunk to `short_side`."""
    check_pixels(stream.width, stream.height, path)
    return _shrunk(stream.width * float(stream.sample_aspect_ratio or 1), stream.height, short_side)


def _shrunk(width: float, height: float, short_side: int | None) -> tuple[int, int]:
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _duration(container: Any, stream: Any, path: Path) -> float:
    """Seconds of the stream; a recording that does not state them is walked, undecoded, to its end."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / av.time_base
    ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
    if not ends:
        raise MediaError("unreadable", "no frame found", path)
    container.seek(0)
    return max(float((max(ends) - (stream.start_time or 0)) * stream.time_base), 1e-3)


def _timed_frames(container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
    """(seconds from the stream's start, frame), decoded from where the container stands."""
    start = float((stream.start_time or 0) * stream.time_base)
    for index, frame in enumerate(container.decode(stream)):
        untimed = index / float(stream.average_rate or 25)
        yield (untimed if frame.time is None else frame.time - start), frame


def _pixels(frame: Any, size: tuple[int, int]) -> np.ndarray:
    array = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
    return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))


def _read_every_frame(
    container: Any, stream: Any, size: tuple[int, int], span: float, path: Path
) -> list[np.ndarray]:
    frames: list[np.ndarray] = []
    seconds = 0.0
    for seconds, frame in _timed_frames(container, stream):
        if seconds >= span and frames:
            break
        frames.append(_pixels(frame, size))
        check_video_bytes(len(frames), size[1], size[0], path)
    _check_decoded(len(frames), seconds, span, path)
    return frames


def _read_frames_at(
    container: Any, stream: Any, size: tuple[int, int], times: list[float], path: Path
) -> list[np.ndarray]:
    """The frame on screen at each of the ascending `times`, seconds from the stream's start."""
    source = _timed_frames(container, stream)
    frames, shown, ahead, decoded, at = [], None, None, 0, 0.0
    for time in times:
        if time - at > SEEK_SECONDS:
            container.seek((stream.start_time or 0) + int(time / stream.time_base), stream=stream)
            source, shown, ahead = _timed_frames(container, stream), None, None
        while ahead is None or ahead[0] <= time:
            following = next(source, None)
            if following is None:
                break
            shown, ahead, decoded = ahead, following, decoded + 1
        _check_decoded(decoded, at if ahead is None else ahead[0], time, path)
        if ahead is None:  # nothing is left where the seek landed
            raise MediaError("unreadable", f"no frame at {time:.1f} s: the file is cut", path)
        at, frame = ahead if shown is None or ahead[0] <= time else shown
        frames.append(_pixels(frame, size))
    return frames


def _check_decoded(count: int, seconds: float, wanted: float, path: Path) -> None:
    """`count` frames were found up to `seconds` when looking for what is shown at `wanted`."""
    if count == 0:
        raise MediaError("unreadable", "no frame could be decoded", path)
    if count == 1:
        raise MediaError("too short", "one frame only, a video has at least two", path)
    # Slide shows hold a frame for seconds, and the stated length may be that of a longer sound track.
    if wanted - seconds > max(2.0, 0.25 * wanted):
        detail = f"the frames end at {seconds:.1f} s of {wanted:.1f} s: the file is cut"
        raise MediaError("unreadable", detail, path)


def _is_webp(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def _decode_webp(
    path: Path, num_frames: int | None, max_seconds: float | None, short_side: int | None
) -> tuple[np.ndarray, float]:
    """`decode_video` for an animated WebP, of which FFmpeg reads nothing."""
    frames, ends = _webp_frames(path, max_seconds, short_side)
    span = ends[-1] if max_seconds is None else min(ends[-1], max_seconds)
    if num_frames is not None:
        height, width = frames[0].shape[:2]
        check_video_bytes(num_frames, height, width, path)
        times = (np.arange(num_frames) + 0.5) / num_frames * span
        frames = [frames[at] for at in np.searchsorted(ends, times, side="right")]
    return np.stack(frames), len(frames) / span


def _webp_frames(
    path: Path, max_seconds: float | None, short_side: int | None
) -> tuple[list[np.ndarray], list[float]]:
    """The frames (H, W, 3) of an animated WebP that begin before `max_seconds`, and the second at which each ends."""
    frames: list[np.ndarray] = []
    ends = [0]  # in milliseconds, which add up exactly
    with Image.open(path, formats=["WEBP"]) as image:
        check_pixels(*image.size, path)
        size = _shrunk(*image.size, short_side)
        for frame in ImageSequence.Iterator(image):
            if frames and max_seconds is not None and ends[-1] >= 1000 * max_seconds:
                break
            check_video_bytes(len(frames) + 1, size[1], size[0], path)
            frames.append(np.asarray(frame.convert("RGB").resize(size)))
            ends.append(ends[-1] + (frame.info["duration"] or 100))
    seconds = [end / 1000 for end in ends[1:]]
    _check_decoded(len(frames), seconds[-1], seconds[-1], path)
    return frames, seconds


def encode_video(target: io.BytesIO | Path, frames: np.ndarray, fps: float, options: dict) -> None:
    """Write (T, H, W, 3) as H.264 in yuv420p, which every browser plays; it wants even sizes."""
    if not 0 < fps <= 240:
        raise MediaError("wrong form", f"frames per second are above 0, at most 240, not {fps}")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    where = f"file:{target}" if isinstance(target, Path) else target
    with av.open(where, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(float(fps)).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
