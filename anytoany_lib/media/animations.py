"""Animated WebP, PNG and AVIF files as clips, by Pillow; FFmpeg reads GIF.

A first pass asks how long each picture is shown, a second keeps those that are asked for: one picture at a time is decoded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anytoany_lib.media.containers import MediaError, check_pixels, check_video_bytes
from anytoany_lib.media.pictures import with_picture

_SHOWN = 100  # milliseconds of a picture that does not say, as browsers have it
_STRIP = 2**20  # pixels
FORMATS = ("WEBP", "PNG", "AVIF")


def is_one(path: Path) -> bool:
    """Whether a file is of a form that is read here; it may hold one picture only."""
    with path.open("rb") as file:
        head = file.read(12)
    webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:] in (b"avif", b"avis")
    return webp or avif or head[:8] == b"\x89PNG\r\n\x1a\n"


def header(path: Path) -> tuple[float, int, int]:
    """(seconds, width, height) of an animation."""
    return with_picture(path, FORMATS, lambda image: (_ends(image, None, path)[-1], *image.size))


def decode(
    path: Path, num_frames: int | None, max_seconds: float | None, short_side: int | None
) -> tuple[np.ndarray, float]:
    """Frames (T, H, W, 3) uint8 and frames a second, as `clips.decode_video` gives them."""
    return with_picture(
        path, FORMATS, lambda image: _decoded(image, num_frames, max_seconds, short_side, path)
    )


def _decoded(
    image: Image.Image,
    num_frames: int | None,
    max_seconds: float | None,
    short_side: int | None,
    path: Path,
) -> tuple[np.ndarray, float]:
    size = shrunk(*image.size, short_side)
    ends = _ends(image, max_seconds, path)
    span = ends[-1] if max_seconds is None else min(ends[-1], max_seconds)
    wanted = np.arange(len(ends))
    if num_frames is not None:
        times = (np.arange(num_frames) + 0.5) / num_frames * span
        wanted = np.minimum(np.searchsorted(ends, times, side="right"), len(ends) - 1)
    check_video_bytes(len(wanted), size[1], size[0], path)
    frames: list[np.ndarray] = []
    first = _first(image)
    for number in range(wanted[-1] + 1):
        image.seek(first + number)
        image.load()  # each picture is laid over the one before
        if times_shown := int((wanted == number).sum()):
            frames += [np.asarray(on_white(image).resize(size))] * times_shown
    return np.stack(frames), len(frames) / span


def shrunk(width: float, height: float, short_side: int | None) -> tuple[int, int]:
    """(width, height) with a short side of at most `short_side`."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def on_white(image: Image.Image) -> Image.Image:
    """The picture in RGB, with white where it is transparent."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image.convert("RGB")
    whole = Image.new("RGB", image.size)
    rows = max(
        1, _STRIP // image.width
    )  # a strip at a time: the whole in RGBA would be there three times
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return whole


def _first(image: Image.Image) -> int:
    """Where the animation begins: a PNG may hold a picture before it, for those who cannot play it."""
    return int(bool(image.info.get("default_image")))


def _ends(image: Image.Image, max_seconds: float | None, path: Path) -> list[float]:
    """The second at which each picture ends, of those that begin before `max_seconds`."""
    check_pixels(*image.size, path)
    ends = [0.0]  # in milliseconds, which add up exactly
    first = _first(image)
    for number in range(first, getattr(image, "n_frames", 1)):
        if len(ends) > 1 and max_seconds is not None and ends[-1] >= 1000 * max_seconds:
            break
        image.seek(number)
        image.load()
        shown = image.info.get("duration") or _SHOWN
        ends.append(ends[-1] + (shown if 0 < shown < 1e9 else _SHOWN))
    if (len(ends) == 2 and max_seconds is None) or len(ends) == 1:
        raise MediaError("too short", "one frame only, a video has at least two", path)
    return [end / 1000 for end in ends[1:]]
