"""Reads, checks and writes pictures, sounds and clips.

In comes a path or a medium in memory; out comes one plain form a kind: an image is an RGB
`PIL.Image`, audio is `(float32 mono samples in [-1, 1], rate)`, video is uint8 `(T, H, W, 3)`.
Whatever cannot be used raises a `MediaError`; pixels, bytes and seconds are bounded.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from PIL import Image, UnidentifiedImageError

from anytoany_lib.media import senses, sounds
from anytoany_lib.media.clips import decode_video, encode_video
from anytoany_lib.media.containers import (
    ROOM,
    MediaError,
    check_pixels,
    check_video_bytes,
    decoding,
    describe,
    existing_file,
    track_kind,
)
from anytoany_lib.media.downmixing import downmix
from anytoany_lib.media.pictures import on_white, upright, with_picture
from anytoany_lib.modalities import SHOWN_KINDS
from anytoany_lib.system.files import appearing_file

MAX_AUDIO_SECONDS = 600.0
MIN_AUDIO_SECONDS = 0.05  # two windows of the encoders' filter banks

MAX_CHANNELS = 8

# What is left out either has no fixed meaning as a picture or, as EPS, is handed to another program.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

MOVING = ("GIF", "WEBP", "PNG", "AVIF")  # the picture formats of which several are an animation

MIME = {
    **{"image": "image/png", "audio": "audio/wav", "video": "video/mp4"},
    **{"depth": "image/png", "thermal": "image/png", "imu": "application/octet-stream"},
}
SUFFIX = {
    **{"image": ".png", "audio": ".wav", "video": ".mp4"},
    **{"depth": ".depth.png", "thermal": ".thermal.png", "imu": ".imu.npy"},
}


def check_kind(kind: str) -> str:
    """`kind` itself, if it is one of SHOWN_KINDS; ValueError otherwise."""
    if kind not in SHOWN_KINDS:
        raise ValueError(f"unknown media kind {kind!r}: expected one of {', '.join(SHOWN_KINDS)}")
    return kind


def load_image(path: str | Path) -> Image.Image:
    """The picture in a file (an animation's first), upright, in RGB, transparency laid on white."""
    path = existing_file(path)

    def read(image: Image.Image) -> Image.Image:
        check_pixels(*image.size, path)
        with ROOM.taken(12 * image.width * image.height):
            image.load()
            return _rgb(image, path)

    with decoding(path):
        return with_picture(path, IMAGE_FORMATS, read)


def load_audio(
    path: str | Path, rate: int | None = None, max_seconds: float = MAX_AUDIO_SECONDS
) -> tuple[np.ndarray, int]:
    """The sound in a file, or a film's first sound track: mono float32 in [-1, 1] and its rate in Hz.

    `rate` resamples. Only the first `max_seconds` are read. Channels are averaged, and a sound that
    goes beyond 1 is scaled down to it.
    """
    path = existing_file(path)
    with decoding(path):
        mono, found = sounds.read_mono(path, max_seconds)
        return _finished(mono, found, rate, path)


def load_video(
    path: str | Path,
    num_frames: int | None = None,
    max_seconds: float | None = None,
    short_side: int | None = None,
) -> tuple[np.ndarray, float]:
    """Upright frames of a clip, uint8 (T, H, W, 3), and the rate (per second) at which they play true.

    `num_frames` takes that many, evenly spread (the middles of equal parts), seeking in long files;
    without it every frame is read. `max_seconds` looks no further than that. `short_side` shrinks
    larger frames to it.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, not {num_frames}")
    path = existing_file(path)
    with decoding(path):
        return decode_video(path, num_frames, max_seconds, short_side)


def kind_in(path: str | Path) -> str:
    """The kind of medium that is in a file, whatever its name says: an animation is a video, a cover is no film.

    MediaError if it is none, which names forms that are known and not read.
    """
    path = existing_file(path)
    with decoding(path):
        try:
            moving = with_picture(path, IMAGE_FORMATS, _moves)
            return "video" if moving else "image"
        except UnidentifiedImageError:
            return "audio" if sounds.by_libsndfile_alone(path) else track_kind(path)


def _moves(image: Image.Image) -> bool:
    """Whether several pictures are an animation, and not the pages of a document."""
    return image.format in MOVING and getattr(image, "n_frames", 1) > 1


def load(kind: str, path: str | Path, **options: Any) -> Any:
    """What load_image, load_audio or load_video, or for another sense `as_media`, give for this path."""
    return _LOADERS[check_kind(kind)](path, **options)


def as_image(media: str | Path | Image.Image) -> Image.Image:
    """A path or PIL image as an upright RGB PIL image."""
    if isinstance(media, str | Path):
        return load_image(media)
    if not isinstance(media, Image.Image):
        raise MediaError("wrong form", f"an image is a path or a PIL.Image, not {describe(media)}")
    check_pixels(*media.size, None)
    with decoding(None):
        return _rgb(media, None)


def as_audio(
    media: str | Path | tuple[np.ndarray, int], rate: int | None = None
) -> tuple[np.ndarray, int]:
    """A path or `(samples, rate)` as mono float32 in [-1, 1] and its rate; `rate` resamples.

    Samples are float or signed integer, (N,), (N, channels) or (channels, N). A sound that goes
    beyond 1 is scaled down to it.
    """
    if isinstance(media, str | Path):
        return load_audio(media, rate)
    if not (isinstance(media, tuple | list) and len(media) == 2 and np.ndim(media[1]) == 0):
        raise MediaError(
            "wrong form", f"audio is a path or (samples, rate in Hz), not {describe(media)}"
        )
    if int(media[1]) <= 0:
        raise MediaError("wrong form", f"the sampling rate must be above 0, not {media[1]}")
    samples = _by_channel(_array(media[0], "samples"))
    return _finished(downmix(lambda: iter([samples])), int(media[1]), rate, None)


def as_video(
    media: str | Path | np.ndarray | tuple[np.ndarray, float],
    num_frames: int | None = 32,
    short_side: int | None = 256,
) -> np.ndarray:
    """A path, frames or `(frames, fps)` as uint8 (T, H, W, 3); the options are load_video's, for paths."""
    if isinstance(media, str | Path):
        return load_video(media, num_frames=num_frames, short_side=short_side)[0]
    frames = _array(media[0] if isinstance(media, tuple) else media, "frames")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise MediaError("wrong form", f"video is uint8 (T, H, W, 3), not {describe(frames)}")
    if 0 in frames.shape:
        raise MediaError("empty", f"the video has no frames or no pixels: {describe(frames)}")
    if len(frames) < 2:
        raise MediaError("too short", "a video has at least two frames")
    count, height, width = frames.shape[:3]
    check_video_bytes(count, height, width, None)
    return frames


def as_media(kind: str, media: Any) -> Any:
    """What as_image, as_audio or as_video, or those of `senses`, give: the form in memory that the encoder takes."""
    return _FORMS[check_kind(kind)](media)


_LOADERS: dict[str, Callable[..., Any]] = {
    "image": load_image,
    "audio": load_audio,
    "video": load_video,
    **senses.FORMS,
}
_FORMS: dict[str, Callable[[Any], Any]] = {
    **{"image": as_image, "audio": as_audio, "video": as_video},
    **senses.FORMS,
}


def to_bytes(kind: str, media: Any, fps: float = 8.0) -> bytes:
    """A medium (whatever `as_media` takes) as PNG, 16-bit WAV, H.264 MP4 or NPY; `fps` is for bare frames."""
    buffer = io.BytesIO()
    with decoding(None):  # an encoder has limits of its own: x264 writes 16,384 pixels a side
        _encode(kind, media, buffer, "PNG", fps, {})
    return buffer.getvalue()


def save(kind: str, path: str | Path, media: Any, fps: float = 8.0) -> Path:
    """Write a medium, whole or not at all: an image by its suffix, 16-bit mono WAV, H.264 MP4."""
    path = Path(path)
    image_format = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    with appearing_file(path) as beside:
        _encode(kind, media, beside, image_format, fps, {"movflags": "faststart"})
    return path


def save_image(path: str | Path, image: Image.Image) -> Path:
    """Write a picture in the format of the path's suffix (PNG if it says nothing)."""
    return save("image", path, image)


def save_audio(path: str | Path, samples: np.ndarray, rate: int) -> Path:
    """Write a sound as 16-bit mono WAV."""
    return save("audio", path, (samples, rate))


def save_video(path: str | Path, frames: np.ndarray, fps: float) -> Path:
    """Write uint8 (T, H, W, 3) as H.264 yuv420p MP4; an odd size gains one repeated row or column."""
    return save("video", path, frames, fps)


def content_key(kind: str, media: Any) -> str:
    """32 hex digits naming this content: a file's bytes, or in memory the values, shape and rate."""
    digest = hashlib.blake2b(check_kind(kind).encode(), digest_size=16)
    if isinstance(media, str | Path):
        with existing_file(media).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
    media = as_media(kind, media)
    array, rate = media if kind == "audio" else (np.asarray(media), 0)
    digest.update(f"{array.dtype} {array.shape} {rate}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _rgb(image: Image.Image, path: Path | None) -> Image.Image:
    short = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
    image = upright(image)
    # PIL's own conversion clips 16-bit values at 255 instead of scaling them.
    if short:
        image = _of_16_bits(np.asarray(image), image.info.get("transparency"))
    if image.mode in ("I", "F"):
        raise MediaError("wrong form", "pixels of 32 bits have no known range", path)
    return on_white(image)


def _of_16_bits(values: np.ndarray, clear: object) -> Image.Image:
    """Greys (H, W) of 16 bits as a picture of 8; those of the value `clear` are transparent."""
    grey = Image.fromarray((values // 257).clip(0, 255).astype(np.uint8))
    if not isinstance(clear, int):
        return grey
    seen = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, seen))


def _array(values: Any, name: str) -> np.ndarray:
    """What was given as samples or frames; MediaError if it has no one shape, such as samples with their rate."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise MediaError("wrong form", f"{name} are an array, not {describe(values)}") from error


def _by_channel(samples: np.ndarray) -> np.ndarray:
    """Samples as they come -> float32 (N, channels)."""
    if samples.dtype.kind not in "fi" or samples.ndim not in (1, 2):
        expected = "samples are float or signed integer, (N,) or (N, channels)"
        raise MediaError("wrong form", f"{expected}, not {describe(samples)}")
    if samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    samples = samples[:, None] if samples.ndim == 1 else samples
    if samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.shape[1] > MAX_CHANNELS:
        raise MediaError("wrong form", f"over {MAX_CHANNELS} channels: {describe(samples)}")
    return samples.astype(np.float32)


def _finished(
    mono: np.ndarray, found: int, rate: int | None, path: Path | None
) -> tuple[np.ndarray, int]:
    """Mono float32 (N,) at `found` Hz -> checked (M,) at `rate` Hz."""
    if mono.size == 0:
        raise MediaError("empty", "the sound has no samples", path)
    if len(mono) < MIN_AUDIO_SECONDS * found:
        detail = f"{len(mono) / found:.3f} s, under {MIN_AUDIO_SECONDS} s"
        raise MediaError("too short", detail, path)
    if rate is not None and rate != found:
        mono, found = soxr.resample(mono, found, rate), rate
    peak = float(np.abs(mono).max())
    return np.ascontiguousarray(mono / max(peak, 1.0), dtype=np.float32), int(found)


def _encode(
    kind: str, media: Any, target: io.BytesIO | Path, image_format: str, fps: float, options: dict
) -> None:
    """Encode into a file or buffer; `options` go to the MP4 writer."""
    if kind in senses.FORMS:
        return senses.write(kind, media, target)
    if kind == "video" and isinstance(media, tuple):
        media, fps = media
    media = as_media(kind, media)
    if kind == "image":
        media.save(target, format=image_format, quality=95)
    elif kind == "audio":
        soundfile.write(target, media[0], media[1], format="WAV", subtype="PCM_16")
    else:
        encode_video(target, media, fps, options)
