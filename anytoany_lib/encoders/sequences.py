"""Sequences of states brought to one length, so that caches and batches hold media of all kinds side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def of_length(states: Tensor, length: int, counts: Sequence[int] | None = None) -> Tensor:
    """(B, L, D) -> (B, length, D): neighbours averaged where there are more, repeated where there are fewer.

    `counts` says how many states of each row are its own, the first ones; the rest is padding and left out.
    """
    if counts is None:
        return functional.adaptive_avg_pool1d(states.transpose(1, 2), length).transpose(1, 2)
    rows = [of_length(row[None, :count], length) for row, count in zip(states, counts, strict=True)]
    return torch.cat(rows)
