"""Stable Audio Open: T5's states of up to 128 tokens, zeros behind the last, and how long the sound is to be.

The seconds are a condition of their own, which the pipeline embeds: they come from the settings, not from the projection.
Guidance is away from no condition at all. Sounds are stereo at 44.1 kHz; a reply has mono.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from diffusers import StableAudioPipeline
from transformers import T5EncoderModel

from anytoany_lib.config import DecoderConfig
from anytoany_lib.decoders.protocol import (
    Adapter,
    embeds_and_mask,
    masked_states,
    short_captions,
    sound,
)
from anytoany_lib.media.downmixing import downmix


def _mono(channels: np.ndarray, config: DecoderConfig, pipeline: Any) -> dict[str, Any]:
    """Channels (C, N)."""
    return sound(downmix(lambda: iter([channels.T])), int(pipeline.vae.config.sampling_rate))


def _noise(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Nothing beside the pipeline, whose scheduler draws its noise by torchsde. ImportError says how to get that."""
    if importlib.util.find_spec("torchsde") is None:
        raise ImportError(
            'Stable Audio\'s scheduler needs torchsde, which is not installed: pip install "anytoany[stable-audio]"'
        )
    return {}


STABLE_AUDIO = Adapter(
    StableAudioPipeline,
    (T5EncoderModel,),
    masked_states,
    _mono,
    False,
    arguments=embeds_and_mask("attention_mask"),
    lengths={"seconds": "audio_end_in_s"},
    told=None,
    tokens=short_captions,
    network="transformer",
    beside=_noise,
    negative=False,
    reads_captions=False,
)
