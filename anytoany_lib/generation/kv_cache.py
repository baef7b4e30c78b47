"""What a conversation keeps from turn to turn, so that a turn costs only what is new in it: its KV cache, and its files' state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from transformers import DynamicCache

from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.media_files import as_media, content_key


class _Keyed(NamedTuple):
    """A medium (held, so that its identity stays its own), what its file looked like, and its content's key."""

    medium: Any
    stamp: tuple[int, int] | None
    key: str


def _name(medium: Any) -> str | int:
    """What a medium is known by: a file by its path, one in memory by its identity."""
    return str(medium) if isinstance(medium, str | Path) else id(medium)


def _stamp(medium: Any) -> tuple[int, int] | None:
    """Time of change and size of a file; None of one that is gone and of a medium in memory."""
    try:
        status = Path(medium).stat() if isinstance(medium, str | Path) else None
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return status and (status.st_mtime_ns, status.st_size)


class PrefixCache:
    """The KV cache of one conversation, from its beginning to as far as it was read, and the content keys of its media.

    Beside the keys and values it holds what stands at every position: a token's id, or a medium's content and which of its
    soft tokens. Media in memory must not be changed in place while it lives.
    """

    def __init__(self):
        self._keyed: dict[tuple[str, str | int], _Keyed] = {}
        self.forget()

    def forget(self) -> None:
        """Begins to read anew: after an error nobody knows what was read."""
        self.positions: list[Any] = []
        self.past_key_values = DynamicCache()

    def keep(self, positions: list[Any]) -> int:
        """Forgets what does not stand at the beginning of `positions`; how many are known, the last one never."""
        pairs = zip(self.positions, positions[:-1], strict=False)
        known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if known < len(self.positions):
            self.past_key_values.crop(
                known - len(self.positions)
            )  # a negative number is how many to drop
            del self.positions[known:]
        return known

    def media_keys(self, media: Sequence[tuple[str, Any]]) -> list[str]:
        """Content keys of (kind, medium) pairs; those asked for last time are computed only if a file has changed.

        A file that has gone keeps its key. MediaError if one that is new cannot be read.
        """
        keyed = {}
        for kind, medium in media:
            name, stamp = (kind, _name(medium)), _stamp(medium)
            old = self._keyed.get(name)
            if old is None or stamp not in (None, old.stamp):
                old = _Keyed(medium, stamp, content_key(kind, medium))
            keyed[name] = old
        self._keyed = keyed
        return [keyed[kind, _name(medium)].key for kind, medium in media]

    def media_key(self, kind: str, medium: Any) -> str | None:
        """The content key of a medium that was asked for last time, else None."""
        old = self._keyed.get((kind, _name(medium)))
        return old and old.key


class Files:
    """Which files could be read, and what they looked like then: so that one is decoded again only if it has changed."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str | int], tuple[int, int] | None] = {}

    def note(self, parts: Sequence[dict[str, Any]]) -> None:
        """The media of these parts have just been read."""
        for part in parts:
            kind, medium = part["type"], part[part["type"]]
            if kind != "text" and isinstance(medium, str | Path):
                self._read[kind, _name(medium)] = _stamp(medium)

    def readable(self, kind: str, medium: Any) -> bool:
        """Whether a file can still be read as what it was sent as; a medium in memory always can."""
        if not isinstance(medium, str | Path):
            return True
        name, stamp = (kind, _name(medium)), _stamp(medium)
        if stamp is None or self._read.get(name) != stamp:
            try:
                as_media(kind, medium)
            except MediaError:
                return False
            self._read[name] = stamp
        return True
