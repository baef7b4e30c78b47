"""Opens pictures; one whose metadata keep it from being read is read without them.

Only what stands around the pixels is left out, so they are those that are in the file.
"""

from __future__ import annotations

import io
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
