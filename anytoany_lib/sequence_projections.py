"""Input projections that read a sequence of an encoder's states: learned tokens attend to them and become soft tokens.

`projections.InputProjection` reads one pooled vector; these read what the encoder gives with `encoder.states: patches`.
`input_projection_of` makes the one that a profile names. Both kinds are trained, saved and loaded under the same name.
Axes: B media, L states, D the encoder's width, W the projection's, K soft tokens, H the LLM's hidden size.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.groupvit.configuration_groupvit import GroupViTVisionConfig
from transformers.models.groupvit.modeling_groupvit import GroupViTStage

from anytoany_lib.config import InputProjectionConfig, Profile
from anytoany_lib.projections import InputProjection

_GROUPS = 8  # of the first stage, for each of the second: 64 to 8 in NExT-GPT
_STD = 0.02


class _Reader(nn.Module):
    """States (B, L, D) brought to the projection's width, read, and brought to the language model's."""

    def __init__(
        self, embedding: int, hidden: int, soft_tokens: int, config: InputProjectionConfig
    ):
        super().__init__()
        self.soft_tokens = soft_tokens
        self.norm = nn.LayerNorm(embedding)
        self.fc = nn.Linear(embedding, config.width)
        last = nn.Linear(config.width, hidden)
        nn.init.normal_(last.weight, std=_STD)  # soft tokens begin about as small as words are
        self.model = nn.Sequential(nn.LayerNorm(config.width), last)

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """(B, L, W) -> (B, K, W)."""
        raise NotImplementedError

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> soft tokens (B, K, H)."""
        return self.model(self.read(self.fc(self.norm(states))))


class Resampler(_Reader):
    """K learned queries that attend to each other and to the states, layer by layer, as in BLIP-2's Q-Former (Li et al. 2023)."""

    def __init__(
        self, embedding: int, hidden: int, soft_tokens: int, config: InputProjectionConfig
    ):
        super().__init__(embedding, hidden, soft_tokens, config)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, 4 * config.width, 0.0, batch_first=True, norm_first=True
        )
        self.tfm = nn.TransformerDecoder(layer, config.layers)
        self.queries = nn.Parameter(_STD * torch.randn(1, soft_tokens, config.width))

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """(B, L, W) -> (B, K, W)."""
        return self.tfm(self.queries.expand(len(states), -1, -1), states)


class Grouping(_Reader):
    """Group tokens that are assigned the states, in two steps (8 K groups, then K), and layers of attention behind them.

    The grouping projector of NExT-GPT v1.5 (nextgpt/model/multimodal_projector, width 512, 64 and 8 groups, 6 + 3 + 3 layers),
    which is GroupViT (Xu et al. 2022) without its patches: transformers has its stages. Every state goes to one group; while
    it is trained, Gumbel noise is added to the choice.
    """

    def __init__(
        self, embedding: int, hidden: int, soft_tokens: int, config: InputProjectionConfig
    ):
        super().__init__(embedding, hidden, soft_tokens, config)
        sizes = GroupViTVisionConfig(
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_attention_heads=config.heads,
        )
        first, n = _GROUPS * soft_tokens, config.layers
        finest = GroupViTStage(sizes, 2 * n, 0, first, first)
        # The next stage's begin as what these become; these would all be one group.
        nn.init.trunc_normal_(finest.group_token, std=_STD)
        coarse = GroupViTStage(sizes, n, first, soft_tokens, soft_tokens)
        self.stages = nn.ModuleList([finest, coarse, GroupViTStage(sizes, n, soft_tokens, 0, 0)])

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """(B, L, W) -> (B, K, W)."""
        groups = None
        for stage in self.stages:
            states, groups = stage(states, groups)
        return states


READERS: dict[str, type[Resampler] | type[Grouping]] = {
    "resampler": Resampler,
    "grouping": Grouping,
}


def input_projection_of(profile: Profile, hidden: int) -> InputProjection | Resampler | Grouping:
    """The input projection that a profile names, untrained, to a language model of this hidden size."""
    encoder, config = profile.encoder, profile.input_projection
    if config.kind == "linear":
        return InputProjection(encoder.embedding, hidden, encoder.soft_tokens)
    return READERS[config.kind](encoder.embedding, hidden, encoder.soft_tokens, config)
