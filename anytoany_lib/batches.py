"""Batches: encoded conversations padded to one length, with their media's embeddings and what is to be generated.

Axes: B conversations, T tokens, M media in a batch, D encoder embedding, S generated media in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from anytoany_lib.messages import IGNORED, Encoded


@dataclass
class Batch:
    """Conversations of one training or evaluation step, padded on the right.

    ids, labels (B, T) int64; mask (B, T) int64, 0 at padding; media (M, D) or, of L states, (M, L, D) float32 and media_at (M, 2) int64 [row,
    first soft token]; signals_at {kind: (S, 2)} [row, first signal token]; targets {kind: (S, *condition)} float32.
    Where a stage trains on latents: latents {kind: (L, *latent shape)} float32 of the media at hand, and latents_of
    {kind: (L,)} which of the kind's S they are. plain (B,) bool: the rows that the untouched LLM would answer alike.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    media: torch.Tensor
    media_at: torch.Tensor
    signals_at: dict[str, torch.Tensor]
    targets: dict[str, torch.Tensor]
    latents: dict[str, torch.Tensor] = field(default_factory=dict)
    latents_of: dict[str, torch.Tensor] = field(default_factory=dict)
    plain: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def to(self, device: torch.device) -> Batch:
        """The same batch with all tensors on a device."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, dict):
                moved[name] = {kind: tensor.to(device) for kind, tensor in value.items()}
            else:
                moved[name] = value.to(device)
        return Batch(**moved)


def collate(
    rows: Sequence[Encoded],
    embedding: Callable[[str, Any], Any],
    target: Callable[[str, str], Any] | None,
    width: int,
    left: bool = False,
    latent: Callable[[str, Any], Any] | None = None,
) -> Batch:
    """Encoded conversations -> one padded batch.

    `embedding(kind, medium)` gives a medium's encoder embedding (width,), `target(kind, caption)` a caption's
    condition (None where nothing is learnt), `latent(kind, medium)` the latents of a medium to be generated (None where
    nothing is learnt from them). `left` pads on the left, for generating.
    """
    length = max(len(row.ids) for row in rows)
    ids, labels, mask = (torch.full((len(rows), length), fill) for fill in (0, IGNORED, 0))
    vectors, media_at = [], []
    signals_at: dict[str, list[list[int]]] = {}
    targets: dict[str, list[torch.Tensor]] = {}
    latents: dict[str, list[torch.Tensor]] = {}
    latents_of: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        start = length - len(row.ids) if left else 0
        span = slice(start, start + len(row.ids))
        ids[number, span], labels[number, span] = torch.tensor(row.ids), torch.tensor(row.labels)
        mask[number, span] = 1
        for kind, medium, at in row.media:
            vectors.append(torch.as_tensor(embedding(kind, medium)))
            media_at.append([number, start + at])
        if target is None:
            continue
        for (kind, caption, at), medium in zip(row.signals, row.target_media, strict=True):
            if latent and medium is not None:
                latents_of.setdefault(kind, []).append(len(signals_at.get(kind, ())))
                latents.setdefault(kind, []).append(torch.as_tensor(latent(kind, medium)))
            signals_at.setdefault(kind, []).append([number, start + at])
            targets.setdefault(kind, []).append(torch.as_tensor(target(kind, caption)))
    return Batch(
        ids,
        labels,
        mask,
        torch.stack(vectors).float() if vectors else torch.empty(0, width),
        torch.tensor(media_at, dtype=torch.long).reshape(-1, 2),
        {kind: torch.tensor(at) for kind, at in signals_at.items()},
        {kind: torch.stack(rows).float() for kind, rows in targets.items()},
        {kind: torch.stack(rows).float() for kind, rows in latents.items()},
        {kind: torch.tensor(numbers) for kind, numbers in latents_of.items()},
        torch.tensor([row.plain for row in rows]),
    )
