"""What comes into a chat: files, sent through the page in chunks or named by a path, and messages; checked before they count."""

from __future__ import annotations

import io
import os
import re
import secrets
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from anytoany_lib.chat.html import data_uri
from anytoany_lib.generation.foreign_messages import as_content
from anytoany_lib.media import media_files, senses
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.file_types import kind_by_name, shown_by_name, unread_by_name
from anytoany_lib.messages import Message, Part, medium_of, parts_of
from anytoany_lib.modalities import MEDIA_KINDS, SENSED_KINDS, SPEECH

Content = str | list[Part]
LIMIT = 200 * 2**20  # bytes through the page; a path has no limit
_THUMBNAIL_PIXELS = 64


@dataclass(frozen=True)
class Attachment:
    """A medium that will go with the next message."""

    id: str
    kind: str
    name: str
    medium: Any
    """A path, or what a message of the conversation has."""
    thumbnail: str
    """A data URI; "" for sounds."""

    def shown(self) -> dict[str, str]:
        """What the page needs to show it."""
        return {key: getattr(self, key) for key in ("id", "kind", "name", "thumbnail")}


def part_of(path: Path, name: str) -> Part:
    """A file as a part of a message, of the kind that is in it, whatever its name says; see `_kind_of` for depth and the like.

    MediaError if it is none, with the `name` that the user gave; ValueError if the name is none of a medium either.
    """
    try:
        kind = _kind_of(path, name)
    except MediaError as error:
        if error.reason != "missing":
            check_name(name)
        raise MediaError(error.reason, error.detail, name) from error
    return {"type": kind, kind: path}


def _kind_of(path: str | Path, name: str) -> str:
    """The kind of medium that is in a file. Depth and thermal pictures are what somebody names so (`room.depth.png`): a
    picture of 16 bits is a photograph else. Tables of numbers (.npy, .csv) are readings of a motion sensor.
    """
    named = "imu" if Path(name).suffix.lower() in (".npy", ".csv") else shown_by_name(name)
    return named if named in SENSED_KINDS else media_files.kind_in(path)


def check_name(name: str) -> None:
    """ValueError that says what is expected, if by its name a file is no picture, sound or clip."""
    if kind_by_name(name) not in MEDIA_KINDS:
        raise ValueError(
            f"{name}: expected a picture, a sound or a clip, found no known type"
            + (f"; {reason}" if (reason := unread_by_name(name)) else "")
        )


def attachment(id: str, kind: str, name: str, medium: Any, exact: bool = False) -> Attachment:
    """A medium as an attachment, of the kind that is in its file unless `kind` is `exact`.

    MediaError, with the name that the user gave, if it cannot be read.
    """
    try:
        if isinstance(medium, str | Path) and not exact:
            kind = _kind_of(medium, name)
        thumbnail = _thumbnail(kind, media_files.as_media(kind, medium))
        return Attachment(id, kind, Path(name).name or name, medium, thumbnail)
    except MediaError as error:
        raise MediaError(error.reason, error.detail, name) from error


def attachments_of(
    content: list[Part], names: dict[str, str]
) -> tuple[list[Attachment], list[str]]:
    """The media of a message as attachments, and why others cannot be read; `names` are those that users gave to files."""
    readable, lost = [], []
    for number, part in enumerate(content):
        kind, medium = part["type"], medium_of(part)
        if kind != "text":
            name = names.get(str(medium)) or kind
            try:
                readable.append(attachment(f"again-{number}", kind, name, medium, exact=True))
            except MediaError as error:
                lost.append(str(error))
    return readable, lost


_QUOTES = ("''", '""', "``", "“”", "‘’", "«»", "<>")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):")
_DRIVE = re.compile(r"[a-zA-Z]:[\\/]|\\\\")


def pasted_path(text: str) -> Path:
    """The file that somebody means who pastes this: a path, quoted, escaped, with ~, or a file:// address.

    ValueError with what to do for what cannot be read here: an address of the web, a path of Windows.
    """
    text = text.strip()
    while len(text) > 1 and text[0] + text[-1] in _QUOTES:
        text = text[1:-1].strip()
    if not text or "\0" in text:
        raise ValueError("expected the path of a file")
    if _DRIVE.match(text) and os.sep == "/":
        here = "this chat reads files of the machine it runs on, whose paths begin with /"
        raise ValueError(f"{text} is a path of Windows: {here}; attach the file instead")
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() == "file":
        return _path_of_address(text)
    if scheme and text[scheme.end() :].startswith("//"):
        raise ValueError(f"{text} is an address: save what is there as a file and attach that")
    if text.startswith("data:"):
        raise ValueError("what was pasted is an address that holds data: save it as a file")
    path = _at_home(text)
    if not path.exists() and "\\" in text:  # as a terminal writes spaces
        unescaped = _at_home(re.sub(r"\\(.)", r"\1", text))
        path = unescaped if unescaped.exists() else path
    return path


def _path_of_address(text: str) -> Path:
    """The path in a file:// address of this machine."""
    address = urllib.parse.urlsplit(text)
    if address.netloc not in ("", "localhost"):
        raise ValueError(f"{text} is a file of another machine, {address.netloc}: attach it")
    rest = text.split(":", 1)[1].removeprefix("//").removeprefix(address.netloc)
    whole = Path(urllib.parse.unquote(rest))
    # An address ends at ? and #, but a file manager may not have escaped them.
    return whole if whole.exists() else Path(urllib.parse.unquote(address.path))


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: there is no such user") from error


def _thumbnail(kind: str, medium: Any) -> str:
    """A small picture of a picture, or of a clip's first frame."""
    if kind == "audio":
        return ""
    if kind in SENSED_KINDS:
        picture = senses.picture(kind, medium)
    else:
        picture = Image.fromarray(medium[0]) if kind == "video" else medium.copy()
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG")
    return data_uri("image/jpeg", file.getvalue())


def delete_unused(
    gone: list[Attachment], left: list[Attachment], messages: list[Message], folder: Path
) -> None:
    """Deletes the files of attachments that are `gone`, if they came through the page and nothing else shows them."""
    parts = [part for message in messages for part in message["content"]]
    in_messages = [part.get(key) for part in parts for key in (part["type"], SPEECH)]
    media_kept = (*in_messages, *(one.medium for one in left))
    kept = {str(medium) for medium in media_kept if isinstance(medium, str | Path)}
    for path in (one.medium for one in gone):
        if isinstance(path, Path) and path.parent == folder and str(path) not in kept:
            path.unlink(missing_ok=True)


def checked(content: Content) -> list[Part]:
    """A user's content as a list of parts, every medium of which can be read."""
    parts = parts_of({"role": "user", "content": as_content(content)}, "the message")
    if not any(part["type"] != "text" or part["text"].strip() for part in parts):
        raise ValueError("the message is empty: write something or attach a medium")
    readable = []
    for part in parts:
        kind, medium = part["type"], medium_of(part)
        readable.append({"type": kind, kind: medium if kind == "text" else _own(kind, medium)})
    return readable


def _own(kind: str, medium: Any) -> Any:
    """A medium as the history keeps it, if it can be read: a file's path, or a copy that nobody else changes."""
    read = media_files.as_media(kind, medium)
    if isinstance(medium, str | Path):
        return medium
    if kind != "video":  # as_media has made a copy
        return read
    return (read.copy(), medium[1]) if isinstance(medium, tuple) else read.copy()


class Uploads:
    """Files on their way from the page into a folder; a chunk that does not fit what came before is refused.

    A file may have `limit` bytes, all files in the folder together `quota` (None: as many as there is room for).
    """

    def __init__(self, limit: int = LIMIT, quota: int | None = None) -> None:
        self._paths: dict[str, Path] = {}
        self._limit, self._quota = limit, quota

    def take(self, header: dict[str, Any], chunk: bytes, folder: Path) -> tuple[int, Path | None]:
        """Writes a chunk (header: id, name, at, size); bytes there by now, and the path once the file is whole.

        ValueError if the file is too large or the chunk out of place, OSError if there is no room.
        """
        name, at, size = header["name"], header["at"], header["size"]
        if size > self._limit or at + len(chunk) > size:
            other = "; use a path instead" if self._quota is None else ""
            raise ValueError(f"{name} has {size:,} bytes, the page may send {self._limit:,}{other}")
        if self._quota is not None:
            there = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
            if there + len(chunk) > self._quota:
                raise ValueError(
                    f"{name}: what is attached in this conversation has {self._quota:,} bytes at most; remove something"
                )
        if at == 0:
            # Only the ending is the user's: a name may be anything.
            suffix = Path(name).suffix[:8]
            suffix = suffix if suffix[1:].isalnum() else ""
            self.forget(header["id"])
            # Drawn, not counted: a name is never another file's, whatever was removed meanwhile.
            self._paths[header["id"]] = folder / f"{secrets.token_hex(8)}{suffix}"
            self._paths[header["id"]].write_bytes(b"")
        path = self._paths.get(header["id"])
        if path is None or path.stat().st_size != at:
            raise ValueError(f"{name}: a part of the file was lost on its way; attach it again")
        with path.open("ab") as file:
            file.write(chunk)
        if at + len(chunk) < size:
            return at + len(chunk), None
        return size, self._paths.pop(header["id"])

    def forget(self, id: str) -> None:
        """Deletes what has come of a file that is no longer wanted."""
        if path := self._paths.pop(id, None):
            path.unlink(missing_ok=True)
