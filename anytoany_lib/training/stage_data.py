"""What a stage reads of a dataset: its rows as encoded conversations, in batches of like length, step by step.

Stages 1 and 2 read captioned media, each in its direction; stage 3 reads conversations, or captioned media in both
directions if there is nothing else. A mixture says how often an epoch shows the rows of each source. Rows are known by
their indices in numpy arrays, and read when their batch is due.

Several processes share the rows of every step. Each reads and encodes its share of the next steps' rows and is given the
others', as token ids: so all know the same order and how much there is to learn in a step. Each looks up features for its own
rows of a step alone.

How many rows share a batch changes the time and the memory of a step, not what is learnt in it: the batches of a step add up.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from anytoany_lib.batches import Batch, collate
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import as_comprehension, as_generation, media_in
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.messages import IGNORED, Encoded, MessageEncoder, TooLong
from anytoany_lib.modalities import SENSED_KINDS

_WINDOW_BATCHES = 50
# What all processes give, one after the other in a list, from what each of them gives in one.
Gather = Callable[[list[Any]], list[Any]]
_ALONE: tuple[int, int, Gather] = (0, 1, list)  # rank, world, and how one process gathers


@dataclass(frozen=True)
class EncodedRow:
    """A row as token ids, labels and places of media: its id, and its encoded conversation."""

    name: str
    encoded: Encoded

    @cached_property
    def learnt(self) -> Counter[str]:
        """What there is to learn from it: how many tokens of "text", and of those of "divergence", and media of each kind."""
        counts = Counter(kind for kind, _, _ in self.encoded.signals)
        counts["text"] = sum(label != IGNORED for label in self.encoded.labels[1:])
        counts["divergence"] = counts["text"] * self.encoded.plain
        return +counts


@dataclass
class Step:
    """What one step of the optimiser reads.

    `names` are the ids of all its rows, `tokens` counts theirs. `parts` are what this process computes, one after the other:
    a batch, and of everything that the step has to learn the share that is in it ({"text": 0.5, "image": 1.0}). A loss that
    is a mean over a batch, times its share, adds up to the mean over the step. A step in which nothing is to be learnt has
    no parts. `number` counts the steps of the training from 0.
    """

    names: list[str]
    tokens: int
    parts: list[tuple[Batch, dict[str, float]]]
    number: int = 0


class StageData:
    """The rows of a dataset's split that a stage reads, as batches of encoded conversations in a fixed order.

    With `mixture` {source: weight} an epoch holds round(weight * n) of the n rows of a source; of a source that it does
    not name, and without a mixture, every row once. ValueError if there are no rows to read, or no such source.

    Of the rows read so far, `cut` holds the indices of those that lost their oldest turns to the context, `left_out` of
    those whose last turn alone is longer than it, which are not shown at all.
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
        self._reads, self._encoder, self.features, self._seed = reads, encoder, features, seed
        self.cut: set[int] = set()
        self.left_out: set[int] = set()
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
        self._pools = [(len(self._indices), self._indices)]
        if mixture:
            self._pools = self._pools_of(weights, shown)
        if not len(self):
            left = f"the mixture leaves nothing of the {split} split for {reads}"
            raise ValueError(f"{data}: {left}: raise a weight")

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
            kinds = zip(shown, catalogue.kinds, strict=True)
            indices = catalogue.rows_where([one and of == source for one, (of, _) in kinds])
            if count := round(weight * len(indices)):
                pools.append((count, indices))
        return pools

    def __len__(self) -> int:
        """Rows in an epoch."""
        return sum(count for count, _ in self._pools)

    def _encode(self, index: int, epoch: int) -> EncodedRow | None:
        """A row as it is shown in an epoch, None if it is too long to be shown."""
        row = self._rows[index]
        rng = np.random.default_rng([self._seed, epoch, index])
        if "caption" not in row.meta:
            messages = self._encoder.as_learnt(row.messages, rng)
        else:
            # Instructions that are captioned media alone: in both directions.
            describes = self._reads == "comprehension" or row.meta["kind"] in SENSED_KINDS
            describes = describes or (self._reads == "instructions" and rng.random() < 0.5)
            messages = (as_comprehension if describes else as_generation)(row, rng)
        try:
            encoded, dropped = self._encoder.encode_within(messages, self._encoder.context)
        except TooLong:
            self.left_out.add(index)
            return None
        if dropped:
            self.cut.add(index)
        text_alone = not encoded.media and not encoded.signals
        encoded.plain = bool(row.meta.get("plain")) and text_alone
        return EncodedRow(row.id, encoded)

    def _encoded(
        self, indices: np.ndarray, epoch: int, sharing: tuple[int, int, Gather] = _ALONE
    ) -> list[EncodedRow]:
        """The rows of these indices that are short enough, of which this process reads its share alone."""
        rank, world, gather = sharing
        own = indices[rank::world].tolist()
        share = [self._encode(index, epoch) for index in own]
        rows: list[EncodedRow | None] = [None] * len(indices)
        of_all = gather([(share, self.cut.intersection(own), self.left_out.intersection(own))])
        for place, (read, cut, left_out) in enumerate(of_all):
            rows[place::world] = read
            self.cut |= cut
            self.left_out |= left_out
        return [row for row in rows if row is not None]

    def _collate(self, rows: Sequence[EncodedRow], latents: bool) -> Batch:
        encoded = [row.encoded for row in rows]
        self.features.ready(
            [(kind, path) for one in encoded for kind, path, _ in one.media],
            [(kind, caption) for one in encoded for kind, caption, _ in one.signals],
            [
                (kind, target)
                for one in encoded
                for (kind, *_), target in zip(one.signals, one.target_media, strict=True)
                if latents and target is not None
            ],
        )
        width = self.features.profile.encoder.embedding
        return collate(
            encoded,
            lambda _, path: self.features.media(path),
            self.features.caption,
            width,
            latent=self.features.latent if latents else None,
        )

    def captioned_media(self, most: int) -> tuple[torch.Tensor, list[str]]:
        """Encoder embeddings (N, *EncoderConfig.shape) of the stage's captioned media and their captions; of more than `most`, as many
        from all over the split.
        """
        kinds = np.array([captioned for _, captioned in self._rows.catalogue.kinds])
        indices = self._indices[kinds[self._rows.catalogue.of_row[self._indices]]]
        if len(indices) > most:
            indices = indices[np.arange(most) * len(indices) // most]
        rows = [self._rows[int(index)] for index in indices]
        shown = [media_in(row.messages)[0] for row in rows]
        self.features.ready(shown, [])
        vectors = [self.features.media(path) for _, path in shown]
        embeddings = torch.from_numpy(np.stack(vectors)) if vectors else torch.empty(0)
        return embeddings, [row.meta["caption"] for row in rows]

    def _epoch(self, rng: np.random.Generator) -> np.ndarray:
        """The indices of an epoch's rows, in its order. A row comes again only when all of its source have come."""
        drawn = []
        for count, indices in self._pools:
            times, rest = divmod(count, len(indices))
            drawn += [indices] * times
            if rest:
                drawn.append(rng.permutation(indices)[:rest])
        return rng.permutation(np.concatenate(drawn))

    def _groups(
        self, size: int, start: int, sharing: tuple[int, int, Gather] = _ALONE
    ) -> Iterator[list[EncodedRow]]:
        """Endless groups of rows of like length, epoch after epoch, from number `start` on; all processes have the same.

        An epoch's last group may be smaller: every row of the epoch comes once. The order depends on the seed alone, so a
        resumed run begins where it was: rows before are not read. ValueError once all rows have proved too long.
        """
        in_epoch = -(-len(self) // size)
        for epoch in itertools.count(start // in_epoch):
            rng = np.random.default_rng([self._seed, epoch])
            order = self._epoch(rng)
            for first in range(0, in_epoch, _WINDOW_BATCHES):
                window = order[first * size : (first + _WINDOW_BATCHES) * size]
                groups = rng.permutation(-(-len(window) // size))
                left = groups[max(0, start - (epoch * in_epoch + first)) :]
                if not len(left):
                    continue
                rows = self._encoded(window, epoch, sharing)
                rows.sort(key=lambda row: len(row.encoded.ids))
                for number in left:
                    yield rows[number * size : (number + 1) * size]
            if self.left_out.issuperset(order.tolist()):
                raise ValueError(
                    f"no row fits into {self._encoder.context} tokens: shorten them, or raise llm.context in the profile"
                )

    def batches(
        self, size: int, start: int = 0, rows_at_once: int | None = None, latents: bool = False
    ) -> Iterator[tuple[list[str], Batch]]:
        """Endless (row ids, batch) of groups of `size` rows, `rows_at_once` in a batch; `latents`: with those of media to generate."""
        for rows in self._groups(size, start):
            for part in _parts(rows, rows_at_once or size):
                yield [row.name for row in part], self._collate(part, latents)

    def steps(
        self,
        size: int,
        rows_at_once: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        latents: bool = False,
        gather: Gather | None = None,
    ) -> Iterator[Step]:
        """Endless steps of `size` rows from number `start` on, as process `rank` of `world` computes them: its share of the
        rows, at most `rows_at_once` in a batch; `latents` as for `batches`.

        By `gather`, which all processes call together, each of them reads a share of the rows only; without, all rows.
        """
        groups = self._groups(size, start, (rank, world, gather) if gather else _ALONE)
        for step, rows in enumerate(groups, start):
            names, tokens = [row.name for row in rows], sum(len(row.encoded.ids) for row in rows)
            learning = [row for row in rows if row.learnt]
            whole = sum((row.learnt for row in learning), Counter())
            own = learning[rank::world]
            parts = _parts(own, rows_at_once)
            shares = [_shares(part, whole) for part in parts]
            if learning and not own:
                # It computes another's row, for nothing: all processes meet in every step.
                parts, shares = [learning[:1]], [dict.fromkeys(whole, 0.0)]
            batches = [self._collate(part, latents) for part in parts]
            yield Step(names, tokens, list(zip(batches, shares, strict=True)), step)

    def once(self, size: int, latents: bool = False) -> Iterator[Batch]:
        """Every row once, in order of the manifest; `latents` as for `batches`."""
        for start in range(0, len(self._indices), size):
            rows = self._encoded(self._indices[start : start + size], 0)
            if rows:
                yield self._collate(rows, latents)


class StepReader:
    """The steps of a stage's data (see `StageData.steps`), asked for by their numbers, by all processes the same.

    Numbers that follow each other go on in the rows that are sorted and encoded already. Any other number, or another count
    of rows at once, begins anew at that step.
    """

    def __init__(self, data: StageData, size: int, rank: int, world: int, latents: bool):
        self._data, self._size, self._latents = data, size, latents
        self._rank, self._world = rank, world
        self._steps: Iterator[Step] = iter(())
        self._next: tuple[int, int] | None = None

    def read(self, number: int, rows_at_once: int) -> Step:
        """Step `number`, at most `rows_at_once` of its rows in a batch."""
        if (number, rows_at_once) != self._next:
            how = (number, self._rank, self._world, self._latents, gather_object)
            self._steps = self._data.steps(self._size, rows_at_once, *how)
        self._next = (number + 1, rows_at_once)
        return next(self._steps)


def _parts(rows: list[EncodedRow], rows_at_once: int) -> list[list[EncodedRow]]:
    """The rows in pieces of at most `rows_at_once`."""
    return [rows[at : at + rows_at_once] for at in range(0, len(rows), rows_at_once)]


def _shares(part: Sequence[EncodedRow], whole: Counter[str]) -> dict[str, float]:
    """The share of a part of the rows in all that is to be learnt: of the text's tokens, and of the media of each kind."""
    own = sum((row.learnt for row in part), Counter())
    return {what: own[what] / total for what, total in whole.items()}
