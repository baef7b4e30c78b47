"""Adapters around diffusion pipelines: captions -> the embeddings they are conditioned on -> media.

Every adapter is one row of `ADAPTERS`: the pipeline's class, how its text encoders turn captions into conditions, what
the pipeline calls a condition, and how its output becomes the reply's medium. Training needs `CaptionEncoder` only;
`pipelines` loads the rest, for generating. docs/adding_a_decoder.md takes one apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AudioLDMPipeline,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    TextToVideoSDPipeline,
)
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    ClapTextModelWithProjection,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
)

from anytoany_lib.config import DecoderConfig, resolve
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.system.out_of_memory import Portions

DEFAULT_FRAMES = 16  # of a clip, which TextToVideoSDPipeline makes where no number is given
_FADE_SECONDS = 0.02
_LONGEST = 512  # tokens of a caption; RoBERTa's tokenizer may name no limit
_AT_ONCE_BYTES = 2**30  # of activations
_LIVE_WIDTHS = 13  # of a token: what a layer holds at once


# --- captions -> conditions, and conditions -> the arguments of a pipeline or its UNet ---


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
    """A pipeline's arguments for conditions (B, L, D) or (B, D)."""
    return {"prompt_embeds": condition}


def embeds_and_pooled(pipeline: Any, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    """XL's arguments for conditions (B, L + 1, D1 + D2): the states, and the second encoder's pooled text."""
    width = pipeline.text_encoder_2.config.projection_dim
    return {"prompt_embeds": condition[:, :-1], "pooled_prompt_embeds": condition[:, -1, :width]}


def attended(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Arguments of a UNet that attends to conditions (B, L, D)."""
    return {"encoder_hidden_states": condition}


def classed(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Arguments of a UNet that takes conditions (B, D) as a class, as AudioLDM's does."""
    return {"encoder_hidden_states": None, "class_labels": condition}


# --- a pipeline's output -> the medium of a reply part ---


def _bytes(floats: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as uint8."""
    return (floats * 255).round().clip(0, 255).astype(np.uint8)


def _image(pixels: np.ndarray, config: DecoderConfig, pipeline) -> dict[str, Any]:
    return {"image": Image.fromarray(_bytes(pixels))}


def _sound(samples: np.ndarray, config: DecoderConfig, pipeline) -> dict[str, Any]:
    rate = int(pipeline.vocoder.config.sampling_rate)
    audible = np.clip(samples.astype(np.float32), -1, 1)
    # A sound that is cut off while it lasts would click.
    ramp = np.linspace(0, 1, round(_FADE_SECONDS * rate), dtype=np.float32)
    audible[: len(ramp)] *= ramp
    audible[-len(ramp) :] *= ramp[::-1]
    return {"audio": audible, "sampling_rate": rate}


def _video(frames: np.ndarray, config: DecoderConfig, pipeline) -> dict[str, Any]:
    return {"video": _bytes(frames), "fps": config.fps or 8}


# --- the table ---


@dataclass(frozen=True)
class Adapter:
    """What is particular to a pipeline class: one row of `ADAPTERS`."""

    pipeline: type[DiffusionPipeline]
    text_encoders: tuple[type[PreTrainedModel], ...]
    """Classes of the folders text_encoder, text_encoder_2, ..., each with a tokenizer of the same number."""
    condition: Callable[[list, list], torch.Tensor]
    """(encoders, what their tokenizers gave) -> conditions (B, *condition)."""
    medium: Callable[[np.ndarray, DecoderConfig, Any], dict[str, Any]]
    """(one medium as the pipeline's floats, config, pipeline) -> payload of a reply part."""
    new_callback: bool
    """Whether the pipeline takes callback_on_step_end(pipe, step, t, kwargs) or the older callback(step, t, latents)."""
    arguments: Callable[[Any, torch.Tensor], dict[str, torch.Tensor]] = embeds
    """(pipeline, conditions) -> its keyword arguments; the unconditional ones get "negative_" before their names."""
    lengths: dict[str, str] = field(default_factory=dict)
    """What the pipeline calls the length of a medium: "frames" of a clip, "seconds" of a sound."""
    told: Callable[[torch.Tensor], dict[str, torch.Tensor | None]] | None = attended
    """Conditions -> the arguments of its UNet beside latents and timesteps; None: it needs more than a condition."""
    editing: type[DiffusionPipeline] | None = None
    """The pipeline of the same parts that begins with a picture rather than with noise."""

    def parts(self) -> list[tuple[str, str, type[PreTrainedModel]]]:
        """(tokenizer folder, text encoder folder, its class) of each."""
        suffixes = [f"_{n}" if n > 1 else "" for n in range(1, len(self.text_encoders) + 1)]
        return [
            (f"tokenizer{s}", f"text_encoder{s}", cls)
            for s, cls in zip(suffixes, self.text_encoders, strict=True)
        ]


ADAPTERS = {
    "stable-diffusion": Adapter(
        StableDiffusionPipeline,
        (CLIPTextModel,),
        clip_condition,
        _image,
        True,
        editing=StableDiffusionImg2ImgPipeline,
    ),
    "stable-diffusion-xl": Adapter(
        StableDiffusionXLPipeline,
        (CLIPTextModel, CLIPTextModelWithProjection),
        two_clip_condition,
        _image,
        True,
        embeds_and_pooled,
        told=None,
        editing=StableDiffusionXLImg2ImgPipeline,
    ),
    "audioldm": Adapter(
        AudioLDMPipeline,
        (ClapTextModelWithProjection,),
        clap_condition,
        _sound,
        False,
        lengths={"seconds": "audio_length_in_s"},
        told=classed,
    ),
    "text-to-video": Adapter(
        TextToVideoSDPipeline,
        (CLIPTextModel,),
        clip_condition,
        _video,
        False,
        lengths={"frames": "num_frames"},
    ),
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


def _whole(cls: type[PreTrainedModel], folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model of a folder. ValueError if weights are missing, which transformers would draw at random."""
    model, report = cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{folder}: {len(missing)} weights of {cls.__name__} are missing: {', '.join(missing[:3])}, ...: its file is cut "
            "or another model's; delete the folder and fetch it with notebooks/01_checkpoints.ipynb"
        )
    return model


class CaptionEncoder:
    """A decoder's own tokenizers and text encoders, computing in `dtype`: captions -> float32 conditions."""

    def __init__(
        self, config: DecoderConfig, device: torch.device, dtype: torch.dtype = torch.float32
    ):
        self.config, self.device = config, device
        self._adapter = ADAPTERS[config.pipeline]
        folder = decoder_folder(config)
        self._tokenizers, self._text_encoders = [], []
        for tokenizer, text_encoder, cls in self._adapter.parts():
            self._tokenizers.append(AutoTokenizer.from_pretrained(folder / tokenizer, **LOCAL))
            loaded = _whole(cls, folder / text_encoder, dtype)
            self._text_encoders.append(loaded.to(device).eval())
        self._portions = Portions(_AT_ONCE_BYTES)

    def _row_bytes(self) -> int:
        """Bytes that the activations of one caption take, every layer's states among them."""
        return max(
            min(tokenizer.model_max_length, _LONGEST)
            * encoder.config.hidden_size
            * (_LIVE_WIDTHS + encoder.config.num_hidden_layers)
            * encoder.dtype.itemsize
            for tokenizer, encoder in zip(self._tokenizers, self._text_encoders, strict=True)
        )

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Captions -> (B, *condition) float32, on the encoders' device; as many at once as memory has room for.

        ValueError if the profile promises another shape.
        """
        return self._portions("captions", captions, self._row_bytes(), self._read).to(self.device)

    @torch.inference_mode()
    def _read(self, captions: Sequence[str]) -> torch.Tensor:
        tokens = [
            tokenizer(
                list(captions),
                padding="max_length",
                max_length=min(tokenizer.model_max_length, _LONGEST),
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            for tokenizer in self._tokenizers
        ]
        conditions = self._adapter.condition(self._text_encoders, tokens).float()
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
