"""Depth maps, thermal pictures and readings of motion sensors: what ImageBind knows beside pictures and sounds.

In comes a path or arrays in memory; out comes one plain form a kind: depth is float32 (H, W) in metres, thermal float32 (H, W)
from 0 to 1, imu float32 (6, 2000): three axes of an accelerometer, three of a gyroscope, 5 s. Files are a 16-bit PNG of
millimetres (as SUN RGB-D, NYU and most depth cameras write), a grey PNG, JPEG or TIFF of 8 or 16 bits, and an NPY or CSV file.
Which of them a file is does not show in its bytes, since a photograph may have 16 bits too: `file_types.sensed_by_name` reads
it from the name, and a part of a message says it. Whatever cannot be used raises a `MediaError`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from anytoany_lib.media.containers import (
    MediaError,
    check_pixels,
    decoding,
    describe,
    existing_file,
)
from anytoany_lib.media.pictures import with_picture

IMU_SHAPE = (6, 2000)  # channels, readings: what ImageBind was trained on, 5 s of them
MILLIMETRES = 1000.0  # of a metre, as the values of a depth file count
_GREY_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_TEXT_BYTES = 2**22  # of a CSV file: 12,000 numbers take a tenth of it
_PLOT = (448, 224)


def as_depth(media: str | Path | np.ndarray | Image.Image) -> np.ndarray:
    """A depth map as float32 (H, W) in metres, 0 where nothing was measured.

    A path or PIL image of 16 bits, or whole numbers (H, W), count millimetres; an array of floats counts metres.
    """
    values, path = _greys(media, "depth")
    if values.dtype == np.uint8:
        raise MediaError(
            "wrong form",
            "a depth map has 16 bits, which count millimetres; this one has 8: save it as a 16-bit PNG",
            path,
        )
    metres = values if values.dtype.kind == "f" else values / MILLIMETRES
    if not np.isfinite(metres).all() or (metres < 0).any():
        raise MediaError("wrong form", "depths are finite and not below 0", path)
    if not metres.any():
        raise MediaError("empty", "no depth was measured anywhere: all values are 0", path)
    return metres.astype(np.float32)


def as_thermal(media: str | Path | np.ndarray | Image.Image) -> np.ndarray:
    """A thermal picture as float32 (H, W) from 0 to 1: 8 bits as they are, 16 bits from their coldest to their warmest value.

    A path, a PIL image, whole numbers (H, W), or floats that are from 0 to 1 already.
    """
    values, path = _greys(media, "thermal")
    if values.dtype == np.uint8:
        return (values / 255).astype(np.float32)
    values = values.astype(np.float64) if values.dtype.kind in "iu" else values
    least, most = float(values.min()), float(values.max())
    if not np.isfinite([least, most]).all():
        raise MediaError("wrong form", "a thermal picture's values are finite", path)
    if values.dtype == np.float64:  # counts of a sensor, of whose range a scene takes a small part
        return ((values - least) / max(most - least, 1.0)).astype(np.float32)
    if least < 0 or most > 1:
        found = f"found {least:g} to {most:g}"
        raise MediaError(
            "wrong form", f"floats of a thermal picture are from 0 to 1, {found}", path
        )
    return values.astype(np.float32)


def as_imu(media: str | Path | np.ndarray) -> np.ndarray:
    """Readings of a motion sensor as float32 (6, 2000); (2000, 6), a line for each reading, is turned."""
    path = existing_file(media) if isinstance(media, str | Path) else None
    with decoding(path):
        values = np.asarray(media) if path is None else _numbers(path)
    if values.dtype.kind not in "fiu":
        raise MediaError("wrong form", f"readings are numbers, not {describe(values)}", path)
    values = values.T if values.shape == IMU_SHAPE[::-1] else values
    if values.shape != IMU_SHAPE:
        raise MediaError(
            "wrong form",
            f"expected {IMU_SHAPE[0]} channels (accelerometer x, y, z, gyroscope x, y, z) of {IMU_SHAPE[1]} readings, 5 s, "
            f"found {' x '.join(map(str, values.shape)) or 'one number'}: cut it, or resample it",
            path,
        )
    if not np.isfinite(values).all():
        raise MediaError("wrong form", "readings are finite: fill the gaps", path)
    return np.array(values, dtype=np.float32, order="C")


FORMS: dict[str, Callable[[Any], np.ndarray]] = {
    "depth": as_depth,
    "thermal": as_thermal,
    "imu": as_imu,
}


def _greys(media: Any, what: str) -> tuple[np.ndarray, Path | None]:
    """One channel of values (H, W) as uint8, int32 or float32, and the file they are from."""
    if isinstance(media, str | Path):
        path = existing_file(media)
        with decoding(path):
            return with_picture(path, _GREY_FORMATS, lambda image: _channel(image, what)), path
    if isinstance(media, Image.Image):
        return _channel(media, what), None
    values = np.asarray(media)
    if values.ndim != 2 or values.dtype.kind not in "uif":
        expected = f"{what} is a path, a picture of one channel or an array (H, W)"
        raise MediaError("wrong form", f"{expected}, not {describe(media)}")
    check_pixels(values.shape[1], values.shape[0], None)
    kept = values.dtype == np.uint8
    return (
        values if kept else values.astype(np.float32 if values.dtype.kind == "f" else np.int32)
    ), None


def _channel(image: Image.Image, what: str) -> np.ndarray:
    """The one channel of a picture; three equal ones, as JPEG files of infrared cameras have, are one."""
    check_pixels(*image.size, None)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        return np.asarray(image).astype(np.int32)
    if image.mode in ("L", "RGB", "P", "1"):
        values = np.asarray(image.convert("RGB" if image.mode in ("P", "RGB") else "L"))
        if values.ndim == 2:
            return values
        if (values == values[..., :1]).all():
            return values[..., 0]
    raise MediaError(
        "wrong form", f"expected one channel of grey for {what}, found a picture in {image.mode}"
    )


def _numbers(path: Path) -> np.ndarray:
    """The array in an NPY file, or the numbers in lines of text, of which the first may name them."""
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            return np.load(file, allow_pickle=False)
    if path.stat().st_size > _TEXT_BYTES:
        raise MediaError("too large", f"over {_TEXT_BYTES:,} bytes of text", path)
    lines = path.read_text(encoding="utf-8-sig").replace(";", ",").strip().splitlines()
    try:
        return np.loadtxt(lines, delimiter=",", ndmin=2)
    except ValueError:
        return np.loadtxt(lines[1:], delimiter=",", ndmin=2)


def picture(kind: str, media: Any) -> Image.Image:
    """What a page shows of a medium: a depth map dark where it is near, a thermal picture as it is, readings as six lines."""
    values = FORMS[kind](media)
    if kind == "imu":
        return _plot(values)
    if kind == "depth":
        values = values / max(float(values.max()), 1e-6)
    return Image.fromarray((values * 255).astype(np.uint8)).convert("RGB")


def _plot(readings: np.ndarray) -> Image.Image:
    """Six lines, one below the other, each over its own range."""
    width, height = _PLOT
    image = Image.new("RGB", _PLOT, "white")
    draw, row = ImageDraw.Draw(image), height / len(readings)
    for number, values in enumerate(readings):
        span = max(float(np.ptp(values)), 1e-6)
        y = row * (number + 0.9 - 0.8 * (values - values.min()) / span)
        x = np.linspace(0, width - 1, len(values))
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill="black")
    return image


def write(kind: str, media: Any, target: io.BytesIO | Path) -> None:
    """Writes a medium as `FORMS` reads it again: depth as a PNG of millimetres, thermal as one of 8 bits, imu as NPY."""
    values = FORMS[kind](media)
    if kind == "imu":
        # As a file: np.save would add an ending to a path.
        with target.open("wb") if isinstance(target, Path) else nullcontext(target) as file:
            return np.save(file, values)
    whole = values * (MILLIMETRES if kind == "depth" else 255.0)
    top, dtype = (65535, np.uint16) if kind == "depth" else (255, np.uint8)
    Image.fromarray(whole.round().clip(0, top).astype(dtype)).save(target, format="PNG")
