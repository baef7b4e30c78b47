"""Files that come into a chat: sent through the page in chunks, or named by a path; checked before they are attached."""

from __future__ import annotations

import io
import mimetypes
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from anytoany_lib import media
from anytoany_lib.messages import Message
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.rendering import data_uri

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


def kind_of(name: str, mime: str = "") -> str:
    """The kind of medium that a file is by its MIME type or, without one, its name. ValueError if it is none."""
    for found in (mime, mimetypes.guess_type(name)[0] or ""):
        if found.split("/")[0] in MEDIA_KINDS:
            return found.split("/")[0]
    raise ValueError(
        f"{name}: expected a picture, a sound or a clip, found {mime or 'no known type'}"
    )


def attachment(id: str, kind: str, name: str, medium: Any) -> Attachment:
    """A medium as an attachment. MediaError if it cannot be read."""
    return Attachment(id, kind, name, medium, _thumbnail(kind, media.as_media(kind, medium)))


def _thumbnail(kind: str, medium: Any) -> str:
    """A small picture of a picture, or of a clip's first frame."""
    if kind == "audio":
        return ""
    picture = Image.fromarray(medium[0]) if kind == "video" else medium.copy()
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG")
    return data_uri("image/jpeg", file.getvalue())


def delete_unused(
    gone: list[Attachment], left: list[Attachment], messages: list[Message], folder: Path
) -> None:
    """Deletes the files of attachments that are gone, if they came through the page and nothing else shows them."""
    said = [part.get(part["type"]) for message in messages for part in message["content"]]
    media_kept = (*said, *(one.medium for one in left))
    kept = {str(medium) for medium in media_kept if isinstance(medium, str | Path)}
    for path in (one.medium for one in gone):
        if isinstance(path, Path) and path.parent == folder and str(path) not in kept:
            path.unlink(missing_ok=True)


class Uploads:
    """Files on their way from the page into a folder; a chunk that does not fit what came before is refused.

    A file has `limit` bytes at most, all that lie in the folder `quota` (None: no more is asked than that there is room).
    """

    def __init__(self, limit: int = LIMIT, quota: int | None = None) -> None:
        self._paths: dict[str, Path] = {}
        self._limit, self._quota = limit, quota

    def take(self, told: dict[str, Any], chunk: bytes, folder: Path) -> tuple[int, Path | None]:
        """Writes a chunk (told: id, name, at, size); bytes there by now, and the path once the file is whole.

        ValueError if the file is too large or the chunk out of place, OSError if there is no room.
        """
        name, at, size = told["name"], told["at"], told["size"]
        if size > self._limit or at + len(chunk) > size:
            raise ValueError(f"{name} has {size:,} bytes, the page may send {self._limit:,}")
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
            self.forget(told["id"])
            # Drawn, not counted: a name is never another file's, whatever was removed meanwhile.
            self._paths[told["id"]] = folder / f"{secrets.token_hex(8)}{suffix}"
            self._paths[told["id"]].write_bytes(b"")
        path = self._paths.get(told["id"])
        if path is None or path.stat().st_size != at:
            raise ValueError(f"{name}: a part of the file was lost on its way; attach it again")
        with path.open("ab") as file:
            file.write(chunk)
        if at + len(chunk) < size:
            return at + len(chunk), None
        return size, self._paths.pop(told["id"])

    def forget(self, id: str) -> None:
        """Deletes what has come of a file that is no longer wanted."""
        if path := self._paths.pop(id, None):
            path.unlink(missing_ok=True)
