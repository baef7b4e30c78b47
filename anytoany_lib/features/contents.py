"""What the rows of a manifest need embedded by the frozen models: media, captions, and media that are to be generated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from anytoany_lib.data.rows import Row
from anytoany_lib.messages import parts_of
from anytoany_lib.modalities import MEDIA_KINDS


@dataclass
class Contents:
    """What rows of a manifest need embedded, each once and in order of first use."""

    media: dict[str, dict[str, str | None]] = field(
        default_factory=lambda: {kind: {} for kind in MEDIA_KINDS}
    )
    """kind -> path -> its content key, if the manifest says it."""
    captions: dict[str, dict[str, None]] = field(
        default_factory=lambda: {kind: {} for kind in MEDIA_KINDS}
    )
    """kind -> captions that a medium of it is to be generated from."""
    targets: dict[str, dict[str, str | None]] = field(
        default_factory=lambda: {kind: {} for kind in MEDIA_KINDS}
    )
    """kind -> path of a medium that is to be generated -> its content key, if the manifest says it."""

    def add(self, row: Row) -> None:
        """Takes in what one more row needs."""
        known = row.meta.get("content", {})
        if "caption" in row.meta:
            self.captions[row.meta["kind"]][row.meta["caption"]] = None
        for message in row.messages:
            for part in parts_of(message):
                kind = part["type"]
                if kind not in MEDIA_KINDS:
                    continue
                made = message["role"] == "assistant"
                if made:
                    self.captions[kind][part["caption"]] = None
                else:
                    self.media[kind][part[kind]] = known.get(part[kind])
                if part.get(kind) is not None and (made or "caption" in row.meta):
                    self.targets[kind][part[kind]] = known.get(part[kind])


def contents(rows: Iterable[Row]) -> Contents:
    """What the rows of a manifest need embedded."""
    found = Contents()
    for row in rows:
        found.add(row)
    return found
