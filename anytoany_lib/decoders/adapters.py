"""Adapters around diffusion pipelines: captions -> the embeddings they are conditioned on -> media.

Every adapter is one row of `ADAPTERS`: the pipeline's class, how its text encoders turn captions into conditions, what
the pipeline calls a condition, and how its output becomes the reply's medium (`protocol` says all that a row may say).
Training needs `CaptionEncoder` only; `pipelines` loads the rest, for generating. docs/adding_a_decoder.md takes one apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AudioLDMPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    TextToVideoSDPipeline,
)
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    ClapTextModelWithProjection,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from anytoany_lib.config import PADDED, DecoderConfig, resolve
from anytoany_lib.decoders.animatediff import ANIMATEDIFF
from anytoany_lib.decoders.protocol import (
    LONGEST,
    Adapter,
    clip_condition,
    image_of,
    sound,
    video_of,
)
from anytoany_lib.decoders.sana import SANA_SPRINT
from anytoany_lib.decoders.stable_audio import STABLE_AUDIO
from anytoany_lib.decoders.text_encoders import text_encoder
from anytoany_lib.decoders.wan import WAN
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.system.offloading import frozen_dtype
from anytoany_lib.system.out_of_memory import Portions

DEFAULT_FRAMES = 16  # of a clip, which TextToVideoSDPipeline and AnimateDiffPipeline make where no number is given
_AT_ONCE_BYTES = 2**30  # of activations
_LIVE_WIDTHS = 13  # of a token: what a layer holds at once


# --- captions -> conditions, and conditions -> the arguments of a pipeline or its UNet ---


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


def embeds_and_pooled(pipeline: Any, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    """XL's arguments for conditions (B, L + 1, D1 + D2): the states, and the second encoder's pooled text."""
    width = pipeline.text_encoder_2.config.projection_dim
    return {"prompt_embeds": condition[:, :-1], "pooled_prompt_embeds": condition[:, -1, :width]}


def classed(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Arguments of a UNet that takes conditions (B, D) as a class, as AudioLDM's does."""
    return {"encoder_hidden_states": None, "class_labels": condition}


def _vocoded(samples: np.ndarray, config: DecoderConfig, pipeline: Any) -> dict[str, Any]:
    return sound(samples, int(pipeline.vocoder.config.sampling_rate))


# --- the table ---


ADAPTERS = {
    "stable-diffusion": Adapter(
        StableDiffusionPipeline,
        (CLIPTextModel,),
        clip_condition,
        image_of,
        True,
        editing=StableDiffusionImg2ImgPipeline,
    ),
    "stable-diffusion-xl": Adapter(
        StableDiffusionXLPipeline,
        (CLIPTextModel, CLIPTextModelWithProjection),
        two_clip_condition,
        image_of,
        True,
        embeds_and_pooled,
        told=None,
        editing=StableDiffusionXLImg2ImgPipeline,
    ),
    "audioldm": Adapter(
        AudioLDMPipeline,
        (ClapTextModelWithProjection,),
        clap_condition,
        _vocoded,
        False,
        lengths={"seconds": "audio_length_in_s"},
        told=classed,
    ),
    "text-to-video": Adapter(
        TextToVideoSDPipeline,
        (CLIPTextModel,),
        clip_condition,
        video_of,
        False,
        lengths={"frames": "num_frames"},
    ),
    "animatediff": ANIMATEDIFF,
    "wan": WAN,
    "stable-audio": STABLE_AUDIO,
    "sana-sprint": SANA_SPRINT,
}


def decoder_folder(config: DecoderConfig) -> Path:
    """Where a decoder's pipeline lies; FileNotFoundError says how to get it."""
    folder = resolve(config.folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"no {config.pipeline} pipeline in {folder} (expected model_index.json): "
            "run notebooks/01_checkpoints.ipynb, or set the decoder's folder in the profile"
        )
    return without_code(folder)


class CaptionEncoder:
    """A decoder's own tokenizers and text encoders: captions -> float32 conditions.

    It computes in `dtype`, None as decoders do on that device, and shares weights with a pipeline that is loaded (`text_encoders`).
    """

    def __init__(
        self, config: DecoderConfig, device: torch.device, dtype: torch.dtype | None = None
    ):
        self.config, self.device = config, device
        self._adapter = ADAPTERS[config.pipeline]
        folder = decoder_folder(config)
        computes_in = self._adapter.computes_in(frozen_dtype(device) if dtype is None else dtype)
        self._tokenizers, self.text_encoders = [], {}
        for tokenizer, part, cls in self._adapter.parts():
            self._tokenizers.append(AutoTokenizer.from_pretrained(folder / tokenizer, **LOCAL))
            self.text_encoders[part] = text_encoder(cls, folder / part, device, computes_in)
        self._portions = Portions(_AT_ONCE_BYTES)

    def _row_bytes(self) -> int:
        """Bytes that the activations of one caption take, every layer's states among them."""
        padded = self.config.pipeline in PADDED
        read = self.config.condition[0] + self._adapter.instruction if padded else LONGEST
        return max(
            min(tokenizer.model_max_length, read)
            * encoder.config.hidden_size
            * (_LIVE_WIDTHS + encoder.config.num_hidden_layers)
            * encoder.dtype.itemsize
            for tokenizer, encoder in zip(
                self._tokenizers, self.text_encoders.values(), strict=True
            )
        )

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Captions -> (B, *condition) float32, on `device`; as many at once as memory has room for.

        ValueError if the profile promises another shape.
        """
        return self._portions("captions", captions, self._row_bytes(), self._read).to(self.device)

    @torch.inference_mode()
    def _read(self, captions: Sequence[str]) -> torch.Tensor:
        positions = self.config.condition[0]
        encoders = [encoder.to(self.device) for encoder in self.text_encoders.values()]
        tokens = [
            self._adapter.tokens(tokenizer, captions, positions).to(self.device)
            for tokenizer in self._tokenizers
        ]
        conditions = self._adapter.condition(encoders, tokens).float()
        if self.config.pipeline in PADDED:
            conditions = F.pad(conditions, (0, 0, 0, positions - conditions.shape[1]))
        if tuple(conditions.shape[1:]) != self.config.condition:
            raise ValueError(
                f"{self.config.folder}: its text encoder gives {tuple(conditions.shape[1:])} a caption, the profile "
                f"says {self.config.condition}: correct `condition` in the profile, and train stage 2 anew"
            )
        return conditions


def caption_model_files(config: DecoderConfig) -> list[Path]:
    """The files that determine a decoder's caption embeddings: its tokenizers and text encoders."""
    folder = decoder_folder(config)
    parts = [part for names in ADAPTERS[config.pipeline].parts() for part in names[:2]]
    return [file for part in parts for file in sorted((folder / part).iterdir())]
