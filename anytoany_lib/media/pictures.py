"""Opens pictures, turns them upright and lays them on white.

A picture whose metadata keep it from being read is read without them: only what stands around the pixels is left out. Of the
metadata nothing but the orientation is read; EXIF is never decoded whole and never rewritten. Where the orientation cannot be
read, the picture is as it is stored.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

from anytoany_lib.media.containers import MediaError

Result = TypeVar("Result")

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND")
_LARGEST = 2**28  # bytes of a file of which a copy is made
_STRIP = 2**20  # pixels that are laid on white at a time
_ORIENTATION, _SHORT = 0x0112, 3
_ORIENTATION_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])\b')
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def with_picture(
    path: Path, formats: tuple[str, ...], use: Callable[[Image.Image], Result]
) -> Result:
    """What `use` makes of the opened picture; what Pillow raises comes through if it is not the metadata's fault."""
    try:
        with Image.open(path, formats=formats) as image:
            return use(image)
    except (MediaError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        bare = _bare(path)
        if bare is None:
            raise
    with Image.open(io.BytesIO(bare), formats=formats) as image:
        return use(image)


def _bare(path: Path) -> bytes | None:
    """The file without the metadata around its pixels; None if it has none, or is of another form."""
    if path.stat().st_size > _LARGEST:
        return None
    data = path.read_bytes()
    if data.startswith(_PNG):
        found = _bare_png(data)
    elif data.startswith(_JPEG):
        found = _bare_jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        found = _bare_webp(data)
    else:
        return None
    return found if found != data else None


def _bare_png(data: bytes) -> bytes:
    """Chunks of pixels, and EXIF if it is whole: it may turn the picture."""
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name, checked = data[at + 4 : at + 8], data[at + 4 : end - 4]
        whole = zlib.crc32(checked).to_bytes(4, "big") == data[end - 4 : end]
        if name in _PNG_PIXELS or (name == b"eXIf" and whole):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _bare_jpeg(data: bytes) -> bytes:
    """Segments without applications' own, but for JFIF and Adobe's, which say what the colours are, and comments."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        name = data[at + 1]
        if not (0xE1 <= name <= 0xED or name in (0xEF, 0xFE)):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _bare_webp(data: bytes) -> bytes:
    kept, at = [], 12
    while at + 8 <= len(data):
        end = at + 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
        if data[at : at + 4] not in (b"ICCP", b"EXIF", b"XMP "):
            kept.append(data[at:end])
        at = end
    body = b"".join([b"WEBP", *kept])
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def on_white(image: Image.Image) -> Image.Image:
    """The picture in RGB, with white where it is transparent."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image.convert("RGB")
    whole = Image.new("RGB", image.size)
    # A strip at a time: the whole in RGBA would be there three times.
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return whole


def upright(image: Image.Image) -> Image.Image:
    """The picture, turned as its metadata say; Pillow has turned a TIFF by itself."""
    image.load()
    transposed = None if image.format == "TIFF" else _TRANSPOSED.get(_orientation(image))
    return image if transposed is None else image.transpose(transposed)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 if nothing says so, or what does is damaged."""
    exif = image.info.get("exif")
    if exif is None and isinstance(raw := image.info.get("Raw profile type exif"), str):
        exif = _from_hex(raw)
    found = orientation_in_exif(exif) if isinstance(exif, bytes) else None
    if found is None:
        for key in ("XML:com.adobe.xmp", "xmp"):
            xmp = image.info.get(key)
            xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
            if isinstance(xmp, bytes) and (match := _ORIENTATION_IN_XMP.search(xmp)):
                return int(match[1])
    return found or 1


def _from_hex(text: str) -> bytes | None:
    """The EXIF that ImageMagick writes into a PNG's text: three lines, then hexadecimal digits."""
    digits = re.sub(r"\s", "", "".join(text.split("\n")[3:]))
    return bytes.fromhex(digits) if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits) else None


def orientation_in_exif(exif: bytes) -> int | None:
    """The orientation in a block of EXIF, 1 to 8; None if it has none that is one."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(order + "I", exif, 4)
    if at + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(order + "H", exif, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, form, _ = struct.unpack_from(order + "HHI", exif, entry)
        if tag == _ORIENTATION:
            (value,) = struct.unpack_from(order + "H", exif, entry + 8)
            return value if form == _SHORT and 1 <= value <= 8 else None
    return None
