"""Wan 2.1, text to video: UMT5's states of up to 512 tokens, zeros behind the last; flow matching in a causal video autoencoder.

What the pipeline does to a caption first is its own function. UMT5 (5.7 B) is with the pipeline only while captions are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import WanPipeline
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import UMT5EncoderModel

from anytoany_lib.decoders.protocol import (
    Adapter,
    masked_states,
    short_captions,
    video_of,
)


def _captions(tokenizer: Any, captions: Sequence[str], positions: int) -> Any:
    return short_captions(tokenizer, [prompt_clean(one) for one in captions], positions)


def _latents(vae: Any, frames: torch.Tensor) -> torch.Tensor:
    """Clips (B, T, 3, H, W), each channel of their latents (B, C, t, h, w) at mean 0 and spread 1."""
    mean, spread = (
        torch.tensor(values, device=frames.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (vae.encode(frames.transpose(1, 2)).latent_dist.mean - mean) / spread


WAN = Adapter(
    WanPipeline,
    (UMT5EncoderModel,),
    masked_states,
    video_of,
    True,
    lengths={"frames": "num_frames"},
    tokens=_captions,
    network="transformer",
    latents=_latents,
    half=torch.bfloat16,
    reads_captions=False,
    whole_parts=("vae",),
)
