"""The one table of files: which endings are of which kind of medium, their MIME types, and formats that are not read.

Types never come from the tables of the operating system, which differ from machine to machine.
"""

from __future__ import annotations

from pathlib import PurePath

# The first type that an ending stands for; what is in a file decides in the end (`media.kind_in`).
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


def kind_by_name(name: str | PurePath) -> str | None:
    """The kind of medium that a file is by the ending of its name, in any case; None if it is none."""
    ending = PurePath(name).suffix.lower()
    return next((kind for kind, endings in SUFFIXES.items() if ending in endings), None)
