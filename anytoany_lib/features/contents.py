"""What the rows of a manifest need embedded by the frozen models: media, captions, and media that are to be generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest, splits_in
from anytoany_lib.data.rows import Row
from anytoany_lib.messages import parts_of
from anytoany_lib.modalities import MEDIA_KINDS, SHOWN_KINDS


@dataclass
class Contents:
    """What rows of a manifest need embedded, each once and in order of first use."""

    media: dict[str, dict[str, str | None]] = field(
        default_factory=lambda: {kind: {} for kind in MEDIA_KINDS}
    )
    """kind -> path -> its content key, if the manifest says it; of a kind that can only be shown once a row shows it."""
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
        for sort, kind, name in needs_of(row):
            if sort == "captions":
                self.captions[kind][name] = None
            elif sort == "latents":
                self.targets[kind][name] = known.get(name)
            else:
                self.media.setdefault(kind, {})[name] = known.get(name)
                self.captions.setdefault(kind, {})  # of what can only be shown none comes


def needs_of(row: Row) -> Iterator[tuple[str, str, str]]:
    """(sort, kind, name) of all that a row needs: "media" that it shows by their paths, "captions" that media are generated from, and
    "latents" of media that are to be generated, by their paths.
    """
    captioned = "caption" in row.meta
    if captioned and row.meta["kind"] in MEDIA_KINDS:
        yield "captions", row.meta["kind"], row.meta["caption"]
    for message in row.messages:
        generated = message["role"] == "assistant"
        for part in parts_of(message):
            kind = part["type"]
            if kind not in SHOWN_KINDS:
                continue
            yield ("captions", kind, part["caption"]) if generated else ("media", kind, part[kind])
            made = kind in MEDIA_KINDS and (generated or captioned)
            if made and part.get(kind) is not None:
                yield "latents", kind, part[kind]


def contents(rows: Iterable[Row]) -> Contents:
    """What the rows of a manifest need embedded."""
    needed = Contents()
    for row in rows:
        needed.add(row)
    return needed


def rows_to_embed(data: Path) -> Iterator[Row]:
    """The rows of a dataset whose features training reads: all but those of the test split, which are for generating.

    DataError if the folder holds no dataset.
    """
    splits = splits_in(data) or ["train"]  # of which it is said that it is missing
    manifests = [read_manifest(data, split) for split in splits if split != "test"]
    rows = (row for manifest in manifests for row in manifest)
    # Only a manifest of very many rows takes long enough to look at.
    return iter(tqdm(rows, "rows looked through", sum(map(len, manifests)), leave=False, delay=2))


def contents_to_embed(profile: Profile, data: Path) -> Contents:
    """What training on a dataset needs embedded. ValueError if it generates or shows what the profile has no model for."""
    needed = contents(rows_to_embed(data))
    unseen = {kind for kind, paths in needed.media.items() if paths} - set(profile.encoder.kinds)
    if unseen:
        raise ValueError(
            f"the data shows {', '.join(sorted(unseen))}, profile {profile.name} shows its encoder "
            f"{', '.join(profile.encoder.kinds)}: add it to encoder.kinds, if the encoder has that sense"
        )
    unknown = {kind for kind, texts in needed.captions.items() if texts} - set(profile.decoders)
    if unknown:
        raise ValueError(
            f"the data generates {', '.join(unknown)}, profile {profile.name} has no decoder for it"
        )
    return needed
