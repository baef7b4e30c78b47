"""What a stage reads of a dataset: its rows as encoded conversations, in batches of like length.

Stages 1 and 2 read captioned media, each in its direction; stage 3 reads conversations, or captioned media in both
directions if there is nothing else. A mixture says how often an epoch shows the rows of each source. Rows are known by
their indices in numpy arrays, and read when their batch is due.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import numpy as np
import torch

from anytoany_lib.batches import Batch, collate
from anytoany_lib.data import as_comprehension, as_generation, read_manifest
from anytoany_lib.features import DatasetFeatures
from anytoany_lib.messages import Encoded, MessageEncoder
from anytoany_lib.rows import media_in

_WINDOW_BATCHES = 50


class StageData:
    """The rows of a dataset's split that a stage reads, as batches of encoded conversations in a fixed order.

    With `mixture` {source: weight} an epoch holds round(weight * n) of the n rows of a source; of a source that it does
    not name, and without a mixture, every row once. ValueError if there are no rows to read, or no such source.
    """

    def __init__(
        self,
        data: Path,
        split: str,
        reads: str,
        encoder: MessageEncoder,
        features: DatasetFeatures,
        seed: int,
        mixture: Mapping[str, float] | None = None,
    ):
        self._rows = read_manifest(data, split)
        self._reads, self._encoder, self._features, self._seed = reads, encoder, features, seed
        weights = self._weights(mixture or {}, f"{data}, {split}")
        kinds = self._rows.catalogue.kinds
        captioned = [with_caption for _, with_caption in kinds]
        read = [with_caption != (reads == "instructions") for with_caption in captioned]
        if reads == "instructions" and not any(read):
            read = captioned  # captioned media alone: asked about in both directions
        if not any(read):
            raise ValueError(
                f"{data}: its {split} split has no rows for {reads}; expected media with captions"
            )
        shown = [one and weights[source] > 0 for one, (source, _) in zip(read, kinds, strict=True)]
        self._indices = self._rows.catalogue.rows_where(shown)
        self._pools = (
            self._pools_of(weights, shown) if mixture else [(len(self._indices), self._indices)]
        )
        if not len(self):
            raise ValueError(
                f"{data}: the mixture leaves nothing of the {split} split for {reads}: raise a weight"
            )

    def _weights(self, mixture: Mapping[str, float], where: str) -> dict[str, float]:
        """The weight of every source that the split has."""
        sources = self._rows.catalogue.sources()
        if unknown := sorted(set(mixture) - set(sources)):
            raise ValueError(
                f"{where}: the stage's mixture names {', '.join(unknown)}, but the sources there are "
                f"{', '.join(sources)}; correct stages.N.mixture in the profile"
            )
        return dict.fromkeys(sources, 1.0) | dict(mixture)

    def _pools_of(
        self, weights: dict[str, float], shown: list[bool]
    ) -> list[tuple[int, np.ndarray]]:
        """(rows in an epoch, indices (n,) of the rows they are drawn from) of every source."""
        catalogue, pools = self._rows.catalogue, []
        for source, weight in weights.items():
            own = [
                one and kind[0] == source for one, kind in zip(shown, catalogue.kinds, strict=True)
            ]
            indices = catalogue.rows_where(own)
            pools.append((round(weight * len(indices)), indices))
        return [(wanted, indices) for wanted, indices in pools if wanted]

    def __len__(self) -> int:
        """Rows in an epoch."""
        return sum(wanted for wanted, _ in self._pools)

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

    def _collate(self, rows: list[tuple[str, Encoded]], latents: bool) -> tuple[list[str], Batch]:
        encoded = [one for _, one in rows]
        self._features.ready(
            [(kind, path) for one in encoded for kind, path, _ in one.media],
            [(kind, caption) for one in encoded for kind, caption, _ in one.signals],
            [
                (kind, made)
                for one in encoded
                for (kind, *_), made in zip(one.signals, one.made, strict=True)
                if latents and made is not None
            ],
        )
        width = self._features.profile.encoder.embedding
        batch = collate(
            encoded,
            lambda _, path: self._features.media(path),
            self._features.caption,
            width,
            latent=self._features.latent if latents else None,
        )
        return [name for name, _ in rows], batch

    def captioned_media(self, most: int) -> tuple[torch.Tensor, list[str]]:
        """Encoder embeddings (N, D) of the stage's captioned media and their captions; of more than `most`, as many
        from all over the split.
        """
        kinds = np.array([captioned for _, captioned in self._rows.catalogue.kinds])
        indices = self._indices[kinds[self._rows.catalogue.of_row[self._indices]]]
        if len(indices) > most:
            indices = indices[np.arange(most) * len(indices) // most]
        rows = [self._rows[int(index)] for index in indices]
        shown = [media_in(row.messages)[0] for row in rows]
        self._features.ready(shown, [])
        vectors = [self._features.media(path) for _, path in shown]
        embeddings = torch.from_numpy(np.stack(vectors)) if vectors else torch.empty(0)
        return embeddings, [row.meta["caption"] for row in rows]

    def _epoch(self, rng: np.random.Generator) -> np.ndarray:
        """The indices of an epoch's rows, in its order. A row comes again only when all of its source have come."""
        drawn = []
        for wanted, indices in self._pools:
            times, rest = divmod(wanted, len(indices))
            drawn += [indices] * times
            if rest:
                drawn.append(rng.permutation(indices)[:rest])
        return rng.permutation(np.concatenate(drawn))

    def batches(
        self, size: int, start: int = 0, every: int = 1, latents: bool = False
    ) -> Iterator[tuple[list[str], Batch]]:
        """Endless (row ids, batch), epoch after epoch, from number `start` on each `every`th; rows of like length share
        a batch. With `latents` batches hold those of the media that are to be generated.

        The order depends on the seed alone, so a resumed run begins where it was: rows before are not read.
        """
        in_epoch = -(-len(self) // size)
        for epoch in count(start // in_epoch):
            rng = np.random.default_rng([self._seed, epoch])
            order = self._epoch(rng)
            for first in range(0, in_epoch, _WINDOW_BATCHES):
                window = order[first * size : (first + _WINDOW_BATCHES) * size]
                groups = rng.permutation(-(-len(window) // size))
                ahead = start - (epoch * in_epoch + first)
                wanted = groups[ahead if ahead > 0 else ahead % every :: every]
                if not len(wanted):
                    continue
                rows = [self._encode(int(index), epoch) for index in window]
                rows.sort(key=lambda row: len(row[1].ids))
                for number in wanted:
                    yield self._collate(rows[number * size : (number + 1) * size], latents)

    def once(self, size: int, latents: bool = False) -> Iterator[Batch]:
        """Every row once, in order of the manifest; `latents` as for `batches`."""
        for start in range(0, len(self._indices), size):
            rows = [self._encode(int(index), 0) for index in self._indices[start : start + size]]
            yield self._collate(rows, latents)[1]
