"""What a model's next words lose, without ever holding the logits of all positions.

Logits in float32, their softmax and their gradient take 12 bytes a position and word: 1.9 GB for 1,024 positions and 152,000
words. Here they are only ever there for `at_once` positions. With the loss of a chunk the gradient of its hidden states is computed,
which is as small as they are, and its logits are forgotten; nothing is computed twice. (Liger's fused linear cross entropy does so in
kernels of its own, https://arxiv.org/abs/2410.10989.) Few positions are one chunk, which is left to autograd.

Axes: N positions, H hidden size, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

CHUNK_BYTES = 2**27  # of float32 logits: rows enough for a card's products of matrices

Logits = Callable[[torch.Tensor], torch.Tensor]
Terms = Callable[[torch.Tensor, slice], tuple[torch.Tensor, ...]]


def at_once(words: int) -> int:
    """Of how many positions the logits over so many words are there at once."""
    return max(1, CHUNK_BYTES // (4 * words))


@dataclass(frozen=True)
class Reference:
    """Another model at some of the positions: which (N,), its hidden states there (M, H), its logits of such, and the context
    that makes it of the one at hand.
    """

    held: torch.Tensor
    states: torch.Tensor
    logits: Logits
    context: Callable[[], AbstractContextManager] = nullcontext

    def divergence(self, logits: torch.Tensor, at: slice) -> torch.Tensor:
        """Its Kullback-Leibler divergence from the logits of the positions `at`, in nats, added up over those that it is at.

        Its words V' may be the first of V: what goes to the others counts too.
        """
        first, held = int(self.held[: at.start].sum()), self.held[at]
        with torch.no_grad(), self.context():
            states = self.states[first : first + int(held.sum())]
            target = self.logits(states).float().log_softmax(-1)
        own = logits[held].log_softmax(-1)[:, : target.shape[-1]]
        return F.kl_div(own, target, reduction="sum", log_target=True)


def word_losses(
    states: torch.Tensor,
    words: torch.Tensor,
    logits: Logits,
    heads: Sequence[nn.Module],
    vocabulary: int,
    reference: Reference | None = None,
) -> dict[str, torch.Tensor]:
    """Hidden states (N, H) and the words (N,) that follow them -> "text", their mean cross entropy in nats; with a reference
    also "divergence", the mean of its own.

    `logits` makes float32 (n, V) of states by the modules `heads`; V is the size of the `vocabulary`.
    """

    def terms(chunk: torch.Tensor, at: slice) -> tuple[torch.Tensor, ...]:
        found = logits(chunk)
        text = F.cross_entropy(found, words[at], reduction="sum")
        return (text,) if reference is None else (text, reference.divergence(found, at))

    trained = [p for head in heads for p in head.parameters() if p.requires_grad]
    sums = summed(terms, states, trained, at_once(vocabulary))
    means = {"text": sums[0] / len(states)}
    if reference is not None:
        means["divergence"] = sums[1] / len(reference.states)
    return means


def summed(
    terms: Terms, states: torch.Tensor, trained: Sequence[torch.Tensor], positions: int
) -> tuple[torch.Tensor, ...]:
    """The sums of `terms` over states (N, ...), so many positions at once, with the gradients that autograd would find.

    `terms` gets a chunk of states and its place, and gives a sum of each kind.
    """
    chunks = [slice(at, at + positions) for at in range(0, len(states), positions)]
    if len(chunks) == 1:
        return terms(states, chunks[0])
    if torch.is_grad_enabled():
        return _InChunks.apply(terms, chunks, states, *trained)
    found = [terms(states[chunk], chunk) for chunk in chunks]
    return tuple(torch.stack(of_kind).sum() for of_kind in zip(*found, strict=True))


class _InChunks(torch.autograd.Function):
    """Sums over chunks, whose gradients are computed in the forward pass, while a chunk's logits are there."""

    @staticmethod
    def forward(
        ctx: Any, terms: Terms, chunks: list[slice], states: torch.Tensor, *trained: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Keeps, for every sum, the gradients of the states and of what is trained."""
        sums: list[torch.Tensor] = []
        kept: list[list[torch.Tensor]] = []
        for at in chunks:
            with torch.enable_grad():
                chunk = states[at].detach().requires_grad_()
                found = terms(chunk, at)
            if not sums:
                sums = [torch.zeros_like(one) for one in found]
                kept = [[torch.zeros_like(one) for one in (states, *trained)] for _ in found]
            for number, one in enumerate(found):
                sums[number] += one.detach()
                more = number + 1 < len(found)
                _add(kept[number], at, _gradients(one, [chunk, *trained], more))
            del chunk, found, one
        ctx.save_for_backward(*(gradient for of_sum in kept for gradient in of_sum))
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *of_sums: torch.Tensor) -> Any:
        """The gradients that were kept, each times that of its sum."""
        kept = ctx.saved_tensors
        count = len(kept) // len(of_sums)
        gradients = [
            sum(of_sum * kept[number * count + at] for number, of_sum in enumerate(of_sums))
            for at in range(count)
        ]
        return None, None, *gradients


def _gradients(
    loss: torch.Tensor, of: list[torch.Tensor], more: bool
) -> tuple[torch.Tensor | None, ...]:
    """Those of a sum, None where it does not depend on one; the graph stays if `more` are to come."""
    return torch.autograd.grad(loss, of, retain_graph=more, allow_unused=True)


def _add(kept: list[torch.Tensor], at: slice, gradients: tuple[torch.Tensor | None, ...]) -> None:
    """Writes the gradient of a chunk of states to its place, and adds up the others."""
    for number, gradient in enumerate(gradients):
        if gradient is not None and number == 0:
            kept[0][at] = gradient
        elif gradient is not None:
            kept[number] += gradient
