"""Which way up a picture is: the one thing that is read of what stands around its pixels.

EXIF is never decoded whole and never rewritten. Where the orientation cannot be read, the picture is as it is stored.
"""

from __future__ import annotations

import re
import struct

from PIL import Image

_TAG, _SHORT = 0x0112, 3
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])\b')
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """The picture, turned as its metadata say; Pillow has turned a TIFF by itself."""
    image.load()
    turn = None if image.format == "TIFF" else _TURNS.get(_of(image))
    return image if turn is None else image.transpose(turn)


def _of(image: Image.Image) -> int:
    """1 to 8; 1 if nothing says so, or what does is damaged."""
    exif = image.info.get("exif")
    if exif is None and isinstance(raw := image.info.get("Raw profile type exif"), str):
        exif = _from_hex(raw)
    found = in_exif(exif) if isinstance(exif, bytes) else None
    if found is None:
        for key in ("XML:com.adobe.xmp", "xmp"):
            xmp = image.info.get(key)
            xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
            if isinstance(xmp, bytes) and (match := _XMP.search(xmp)):
                return int(match[1])
    return found or 1


def _from_hex(text: str) -> bytes | None:
    """The EXIF that ImageMagick writes into a PNG's text: three lines, then hexadecimal digits."""
    digits = re.sub(r"\s", "", "".join(text.split("\n")[3:]))
    return bytes.fromhex(digits) if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits) else None


def in_exif(exif: bytes) -> int | None:
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
        if tag == _TAG:
            (value,) = struct.unpack_from(order + "H", exif, entry + 8)
            return value if form == _SHORT and 1 <= value <= 8 else None
    return None
