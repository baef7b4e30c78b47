"""How captions become the conditions of a diffusion pipeline, and how the pipeline and its UNet are told them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import ClapTextModelWithProjection, CLIPTextModel


def clip_condition(encoders: list[CLIPTextModel], tokens: list) -> torch.Tensor:
    """Last hidden states at every position, padding included, as Stable Diffusion takes them: (B, L, D)."""
    return encoders[0](tokens[0].input_ids).last_hidden_state


def clap_condition(encoders: list[ClapTextModelWithProjection], tokens: list) -> torch.Tensor:
    """The projected pooled text, L2-normalised, as AudioLDM takes it: (B, D)."""
    # It attends to no padding, so the columns that are nothing else (most of 512) need not be computed.
    longest = int(tokens[0].attention_mask.sum(1).max())
    read = encoders[0](tokens[0].input_ids[:, :longest], tokens[0].attention_mask[:, :longest])
    return F.normalize(read.text_embeds, dim=-1)


def two_clip_condition(encoders: list, tokens: list) -> torch.Tensor:
    """Both encoders' last but one hidden states side by side, and behind the last position the pooled text of the
    second, filled up with zeros: all that Stable Diffusion XL takes, as one tensor (B, L + 1, D1 + D2).
    """
    read = [
        e(t.input_ids, output_hidden_states=True) for e, t in zip(encoders, tokens, strict=True)
    ]
    states = torch.cat([one.hidden_states[-2] for one in read], dim=-1)
    pooled = read[1].text_embeds
    return torch.cat([states, F.pad(pooled, (0, states.shape[-1] - pooled.shape[-1]))[:, None]], 1)


def embeds(pipeline: Any, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a pipeline calls conditions (B, L, D) or (B, D)."""
    return {"prompt_embeds": condition}


def embeds_and_pooled(pipeline: Any, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    """What XL calls conditions (B, L + 1, D1 + D2): the states, and the second encoder's pooled text."""
    width = pipeline.text_encoder_2.config.projection_dim
    return {"prompt_embeds": condition[:, :-1], "pooled_prompt_embeds": condition[:, -1, :width]}


def attended(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """What a UNet is told that attends to conditions (B, L, D)."""
    return {"encoder_hidden_states": condition}


def classed(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """What a UNet is told that takes conditions (B, D) as a class."""
    return {"encoder_hidden_states": None, "class_labels": condition}
