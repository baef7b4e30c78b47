"""What a stage reads of a dataset: its rows as encoded conversations, in batches of like length.

Stages 1 and 2 read captioned media, each in its direction; stage 3 reads conversations, or captioned media in both
directions if there is nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch

from anytoany_lib.batches import Batch, collate
from anytoany_lib.data import Row, as_comprehension, as_generation, media_in, read_manifest
from anytoany_lib.features import DatasetFeatures
from anytoany_lib.messages import Encoded, MessageEncoder

_WINDOW_BATCHES = 50


class StageData:
    """The rows of a dataset's split that a stage reads, as batches of encoded conversations in a fixed order."""

    def __init__(
        self,
        data: Path,
        split: str,
        reads: str,
        encoder: MessageEncoder,
        features: DatasetFeatures,
        seed: int,
    ):
        self._rows = read_manifest(data, split)
        self._reads, self._encoder, self._features, self._seed = reads, encoder, features, seed
        self._indices = [n for n, row in enumerate(self._rows) if self._fits(row)]
        if not self._indices and reads == "instructions":
            self._indices = list(
                range(len(self._rows))
            )  # captioned media alone: asked about in both directions
        if not self._indices:
            raise ValueError(
                f"{data}: its {split} split has no rows for {reads}; expected media with captions"
            )

    def __len__(self) -> int:
        return len(self._indices)

    def _fits(self, row: Row) -> bool:
        return ("caption" in row.meta) != (self._reads == "instructions")

    def _encode(self, index: int, epoch: int) -> tuple[str, Encoded]:
        row = self._rows[index]
        rng = np.random.default_rng([self._seed, epoch, index])
        if "caption" not in row.meta:
            messages = row.messages
        elif self._reads == "comprehension" or (
            self._reads == "instructions" and rng.random() < 0.5
        ):
            messages = as_comprehension(row, rng)
        else:
            messages = as_generation(row, rng)
        return row.id, self._encoder.encode_within(messages, self._encoder.context)[0]

    def _collate(self, rows: list[tuple[str, Encoded]]) -> tuple[list[str], Batch]:
        encoded = [one for _, one in rows]
        self._features.ready(
            [(kind, path) for one in encoded for kind, path, _ in one.media],
            [(kind, caption) for one in encoded for kind, caption, _ in one.signals],
        )
        width = self._features.profile.encoder.embedding
        batch = collate(
            encoded, lambda _, path: self._features.media(path), self._features.caption, width
        )
        return [name for name, _ in rows], batch

    def captioned_media(self, most: int) -> tuple[torch.Tensor, list[str]]:
        """Encoder embeddings (N, D) of the stage's captioned media and their captions, `most` at most."""
        rows = (self._rows[index] for index in self._indices)
        captioned = list(islice((row for row in rows if "caption" in row.meta), most))
        shown = [media_in(row.messages)[0] for row in captioned]
        self._features.ready(shown, [])
        vectors = [self._features.media(path) for _, path in shown]
        embeddings = torch.from_numpy(np.stack(vectors)) if vectors else torch.empty(0)
        return embeddings, [row.meta["caption"] for row in captioned]

    def batches(self, size: int) -> Iterator[tuple[list[str], Batch]]:
        """Endless (row ids, batch), epoch after epoch; rows of like length share a batch.

        The order depends on the seed alone, so a resumed run skips to where it was.
        """
        for epoch in count():
            rng = np.random.default_rng([self._seed, epoch])
            order = rng.permutation(self._indices)
            window = size * _WINDOW_BATCHES
            for start in range(0, len(order), window):
                rows = [self._encode(int(index), epoch) for index in order[start : start + window]]
                rows.sort(key=lambda row: len(row[1].ids))
                groups = [rows[at : at + size] for at in range(0, len(rows), size)]
                for number in rng.permutation(len(groups)):
                    yield self._collate(groups[int(number)])

    def once(self, size: int) -> Iterator[Batch]:
        """Every row once, in order of the manifest."""
        for start in range(0, len(self._indices), size):
            yield self._collate(
                [self._encode(index, 0) for index in self._indices[start : start + size]]
            )[1]
