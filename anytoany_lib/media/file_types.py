"""The one table of files: which endings are of which kind of medium, their MIME types, and formats that are not read.

Types never come from the tables of the operating system, which differ from machine to machine.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePath

# The first type that an ending stands for; what is in a file decides in the end (`media_files.kind_in`).
_TYPES = {
    "image": {
        "image/jpeg": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        "image/png": (".png",),
        "image/webp": (".webp",),
        "image/bmp": (".bmp", ".dib"),
        "image/tiff": (".tif", ".tiff"),
        "image/avif": (".avif",),
        "image/x-portable-anymap": (".pbm", ".pgm", ".ppm", ".pnm"),
    },
    "audio": {
        "audio/wav": (".wav", ".wave", ".w64", ".rf64"),
        "audio/flac": (".flac",),
        "audio/mpeg": (".mp3", ".mp2", ".mpga"),
        "audio/ogg": (".ogg", ".oga", ".opus", ".spx"),
        "audio/mp4": (".m4a", ".m4b"),
        "audio/aac": (".aac",),
        "audio/aiff": (".aiff", ".aif", ".aifc"),
        "audio/basic": (".au", ".snd"),
        "audio/x-caf": (".caf",),
        "audio/amr": (".amr",),
        "audio/x-ms-wma": (".wma",),
        "audio/webm": (".weba",),
        "audio/x-matroska": (".mka",),
    },
    "video": {
        "video/mp4": (".mp4", ".m4v"),
        "video/webm": (".webm",),
        "video/quicktime": (".mov", ".qt"),
        "video/x-msvideo": (".avi",),
        "video/x-matroska": (".mkv",),
        "video/mpeg": (".mpg", ".mpeg", ".mpe", ".m2v", ".vob"),
        "video/mp2t": (".ts", ".m2ts", ".mts"),
        "video/ogg": (".ogv",),
        "video/3gpp": (".3gp", ".3g2"),
        "video/x-flv": (".flv", ".f4v"),
        "video/x-ms-wmv": (".wmv", ".asf"),
        "image/gif": (".gif",),
        "image/apng": (".apng",),
    },
}

SUFFIXES: dict[str, tuple[str, ...]] = {
    kind: tuple(ending for endings in types.values() for ending in endings)
    for kind, types in _TYPES.items()
}
"""Endings, in lower case with their dot, of the files that `media` reads as each kind."""

MIME_OF = {
    ending: mime
    for types in _TYPES.values()
    for mime, endings in types.items()
    for ending in endings
}
"""The MIME type of every ending in SUFFIXES."""


_KIND_OF = {ending: kind for kind, endings in SUFFIXES.items() for ending in endings}


@lru_cache(4096)  # a record's media are asked for several times
def kind_by_name(name: str | PurePath) -> str | None:
    """The kind of medium that a file is by the ending of its name, in any case; None if it is none."""
    return _KIND_OF.get(PurePath(name).suffix.lower())


# How the name of a file says that it is no photograph: `room.depth.png`. Bytes cannot, since photographs have 16 bits too.
_SENSED = {
    "depth": (".depth.png", ".depth.tif", ".depth.tiff"),
    "thermal": (".thermal.png", ".thermal.jpg", ".thermal.jpeg", ".thermal.tif", ".thermal.tiff"),
    "imu": (".imu.npy", ".imu.csv"),
}


def shown_by_name(name: str | PurePath) -> str | None:
    """`kind_by_name`, and of names that end in .depth.png, .thermal.png, .imu.npy and the like the sense that they name."""
    ending = "".join(PurePath(name).suffixes[-2:]).lower()
    sensed = (kind for kind, endings in _SENSED.items() if ending in endings)
    return next(sensed, None) or kind_by_name(name)


# What is not read, by its first bytes: (place, bytes, what it is, what to save it as).
_UNREAD = (
    (4, b"ftyphei", "a HEIC photograph", "JPEG or PNG"),
    (4, b"ftyphev", "a HEIC photograph", "JPEG or PNG"),
    (4, b"ftypmif1", "a HEIC photograph", "JPEG or PNG"),
    (4, b"ftypmsf1", "a HEIC photograph", "JPEG or PNG"),
    (4, b"ftypcrx", "a raw photograph", "JPEG or PNG"),
    (
        4,
        b"ftypavi",
        "an AVIF picture, which this installation of Pillow cannot read",
        "JPEG or PNG",
    ),
    (4, b"JXL ", "a JPEG XL picture", "JPEG or PNG"),
    (0, b"\xff\x0a", "a JPEG XL picture", "JPEG or PNG"),
    (4, b"jP  ", "a JPEG 2000 picture", "JPEG or PNG"),
    (0, b"8BPS", "a Photoshop document", "PNG"),
    (0, b"%PDF", "a PDF document", "PNG, page by page"),
    (0, b"%!PS", "a PostScript document", "PNG"),
    (0, b"<svg", "an SVG drawing", "PNG"),
    (0, b"\0\0\1\0", "an icon", "PNG"),
    (0, b"MThd", "MIDI notes", "WAV or MP3"),
    (0, b"PK\3\4", "an archive or office document", "the media in it"),
    (0, b"#EXTM3U", "a playlist", "the sound or clip itself"),
)


_BEGINNINGS = {
    ".heic": b"\0\0\0\0ftyphei",
    ".heif": b"\0\0\0\0ftyphei",
    ".pdf": b"%PDF",
    ".svg": b"<svg",
}


def unread_by_name(name: str | PurePath) -> str | None:
    """What to tell of a file of which nothing but the name is known, as `unread` does."""
    head = _BEGINNINGS.get(PurePath(name).suffix.lower())
    return unread(head) if head else None


def unread(head: bytes) -> str | None:
    """What to tell of a file that begins so, if it is of a known form that is not read; None otherwise."""
    for at, begins, what, instead in _UNREAD:
        if head[at : at + len(begins)] == begins:
            return f"it is {what}, which is not read: save it as {instead}"
    return None
