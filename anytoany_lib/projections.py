"""The two bridges around the LLM: encoder embeddings -> soft tokens, and hidden states -> decoder conditions.

Axes: B rows, N signal tokens, H the LLM's hidden size, D the encoder's embedding, K soft tokens of a medium.
Parameter names and computation follow NExT-GPT's published 7b_tiva_v0, so that its weights fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from anytoany_lib.config import Alignment, ProjectionConfig

_LEAST_SCALE = 0.1
_RIDGE = 1e-3  # of the mean squared entry: keeps directions without data quiet


class InputProjection(nn.Linear):
    """Pooled encoder embeddings (B, D) -> soft tokens (B, K, H), by one linear map."""

    def __init__(self, embedding: int, hidden: int, soft_tokens: int):
        super().__init__(embedding, soft_tokens * hidden)
        self.soft_tokens = soft_tokens

    @torch.no_grad()
    def fit(self, embeddings: torch.Tensor, targets: torch.Tensor) -> None:
        """Sets the map to the ridge regression from embeddings (N, D) to targets (N, K * H)."""
        mean, centre = embeddings.double().mean(0), targets.double().mean(0)
        x, y = embeddings.double() - mean, targets.double() - centre
        squares = x.T @ x
        ridge = _RIDGE * squares.diagonal().mean() * torch.eye(len(squares), device=x.device)
        weight = torch.linalg.solve(squares + ridge, x.T @ y).T  # (K * H, D)
        self.weight.copy_(weight)
        self.bias.copy_(centre - weight @ mean)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return super().forward(embeddings).unflatten(-1, (self.soft_tokens, -1))


class OutputProjection(nn.Module):
    """Hidden states at a block's signal tokens plus those tokens' embeddings -> a decoder's condition.

    (B, N, H) -> (B, *condition). A transformer reads the N states and decodes learned queries, one for each position
    of the condition; a condition without positions takes one query.

    An LLM's last hidden states have a few dimensions that are large and nearly constant; what differs between captions
    is small beside them. `calibrate` measures that once, before training, and `forward` then reads standardised
    states. Uncalibrated (mean 0, scale 1) it is the published computation.
    """

    state_mean: torch.Tensor
    state_scale: torch.Tensor

    def __init__(self, hidden: int, condition: tuple[int, ...], config: ProjectionConfig):
        super().__init__()
        self.condition = tuple(condition)
        positions = condition[0] if len(condition) == 2 else 1
        self.fc = nn.Linear(hidden, config.width)
        with warnings.catch_warnings():
            # PyTorch tries nested tensors, which norm_first rules out, and warns about its own default.
            warnings.filterwarnings("ignore", message="enable_nested_tensor is True")
            self.tfm = nn.Transformer(
                d_model=config.width,
                nhead=config.heads,
                num_encoder_layers=config.layers,
                num_decoder_layers=config.layers,
                dim_feedforward=config.feed_forward,
                dropout=0.0,
                norm_first=True,
                batch_first=True,
            )
        self.model = nn.Linear(config.width, condition[-1])
        self.query_embs = nn.Parameter(torch.randn(1, positions, config.width))
        self.register_buffer("state_mean", torch.zeros(hidden))
        self.register_buffer("state_scale", torch.ones(hidden))

    @property
    def calibrated(self) -> bool:
        """Whether it has measured what it reads."""
        return bool((self.state_mean != 0).any())

    def calibrate(self, states: torch.Tensor) -> None:
        """Sets mean and scale from a sample of what `forward` will read, signal embeddings added: (B, N, H)."""
        # Not what differs between the signals of a block.
        within = (states - states.mean(0)).std((0, 1))
        self.state_mean.copy_(states.mean((0, 1)))
        self.state_scale.copy_(within.clamp(min=max(_LEAST_SCALE * within.mean().item(), 1e-3)))

    def forward(self, states: torch.Tensor, signal_embeddings: torch.Tensor) -> torch.Tensor:
        standard = (states + signal_embeddings - self.state_mean) / self.state_scale
        read = self.fc(standard)  # (B, N, width)
        decoded = self.tfm(read, self.query_embs.expand(len(read), -1, -1))  # (B, positions, width)
        return self.model(decoded).reshape(-1, *self.condition)


def _l2(projected: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The norm, not its square: what 7b_tiva_v0 was trained with."""
    return torch.linalg.vector_norm(projected - targets, dim=-1).mean()


def _cosine(projected: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """0 for the same direction, 2 for the opposite one; lengths are left free, though decoders may read them."""
    return (1 - functional.cosine_similarity(projected, targets, dim=-1)).mean()


_ALIGNMENTS: dict[Alignment, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l2": _l2,
    "mse": functional.mse_loss,
    "cosine": _cosine,
}


def alignment_loss(
    projected: torch.Tensor, targets: torch.Tensor, alignment: Alignment = "l2"
) -> torch.Tensor:
    """How far conditions are from the caption embeddings, both (B, *condition), as a mean over positions.

    "l2" is the norm of the difference, "mse" the mean square of its entries, "cosine" one minus the cosine. ValueError if the
    shapes differ.
    """
    if projected.shape != targets.shape:
        raise ValueError(
            f"the output projection gives {tuple(projected.shape[1:])} but the cached caption embeddings are "
            f"{tuple(targets.shape[1:])}: the decoder was swapped; rebuild them with "
            "anytoany features"
        )
    return _ALIGNMENTS[alignment](projected, targets)
