"""Adapters around diffusion pipelines: captions -> the embeddings they are conditioned on -> media.

Every adapter is one row of `ADAPTERS`: the pipeline's class, how its text encoders turn captions into conditions, what
the pipeline calls a condition, and how its output becomes the reply's medium. Training needs `CaptionEncoder` only; the
rest is loaded for generating. docs/adding_a_decoder.md takes one apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AudioLDMPipeline,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TextToVideoSDPipeline,
)
from diffusers.utils import logging as diffusers_logging
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
from anytoany_lib.foreign_code import LOCAL, without_code
from anytoany_lib.previews import colour_map, preview

OnStep = Callable[[int, int, Image.Image | None], None]
_FADE_SECONDS = 0.02
_NOT_FINITE = "the output projection gave values that are not finite: the run folder is broken"
_CAME_OUT = (
    "the decoder gave values that are not finite: its weights are broken, or too large for 16 bits"
)


def _clip_condition(encoders: list[CLIPTextModel], tokens: list) -> torch.Tensor:
    """Last hidden states at every position, padding included, as Stable Diffusion takes them: (B, L, D)."""
    return encoders[0](tokens[0].input_ids).last_hidden_state


def _clap_condition(encoders: list[ClapTextModelWithProjection], tokens: list) -> torch.Tensor:
    """The projected pooled text, L2-normalised, as AudioLDM takes it: (B, D)."""
    # It attends to no padding, so the columns that are nothing else (most of 512) need not be computed.
    longest = int(tokens[0].attention_mask.sum(1).max())
    read = encoders[0](tokens[0].input_ids[:, :longest], tokens[0].attention_mask[:, :longest])
    return F.normalize(read.text_embeds, dim=-1)


def _two_clip_condition(encoders: list, tokens: list) -> torch.Tensor:
    """Both encoders' last but one hidden states side by side, and behind the last position the pooled text of the
    second, filled up with zeros: all that Stable Diffusion XL takes, as one tensor (B, L + 1, D1 + D2).
    """
    read = [
        e(t.input_ids, output_hidden_states=True) for e, t in zip(encoders, tokens, strict=True)
    ]
    states = torch.cat([one.hidden_states[-2] for one in read], dim=-1)
    pooled = read[1].text_embeds
    return torch.cat([states, F.pad(pooled, (0, states.shape[-1] - pooled.shape[-1]))[:, None]], 1)


def _embeds(pipeline, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": condition}


def _embeds_and_pooled(pipeline, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    width = pipeline.text_encoder_2.config.projection_dim
    return {"prompt_embeds": condition[:, :-1], "pooled_prompt_embeds": condition[:, -1, :width]}


def _attended(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    return {"encoder_hidden_states": condition}


def _classed(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    return {"encoder_hidden_states": None, "class_labels": condition}


class BrokenMedia(ValueError):
    """Some media of a batch came out as values that are not finite; `made` has the others, None in their places."""

    def __init__(self, message: str, made: list[dict[str, Any] | None]):
        super().__init__(message)
        self.made = made


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


def _film(frames: np.ndarray, config: DecoderConfig, pipeline) -> dict[str, Any]:
    return {"video": _bytes(frames), "fps": config.fps or 8}


@dataclass(frozen=True)
class Adapter:
    """What the kit has to know of a pipeline class: one row of `ADAPTERS`."""

    pipeline: type[DiffusionPipeline]
    text_encoders: tuple[type[PreTrainedModel], ...]
    """Classes of the folders text_encoder, text_encoder_2, ..., each with a tokenizer of the same number."""
    condition: Callable[[list, list], torch.Tensor]
    """(encoders, what their tokenizers gave) -> conditions (B, *condition)."""
    medium: Callable[[np.ndarray, DecoderConfig, Any], dict[str, Any]]
    """(one medium as the pipeline's floats, config, pipeline) -> payload of a reply part."""
    new_callback: bool
    """Whether the pipeline takes callback_on_step_end(pipe, step, t, kwargs) or the older callback(step, t, latents)."""
    arguments: Callable[[Any, torch.Tensor], dict[str, torch.Tensor]] = _embeds
    """(pipeline, conditions) -> its keyword arguments; the unconditional ones get "negative_" before their names."""
    lengths: dict[str, str] = field(default_factory=dict)
    """What the pipeline calls the length of a medium: "frames" of a clip, "seconds" of a sound."""
    told: Callable[[torch.Tensor], dict[str, torch.Tensor | None]] | None = _attended
    """Conditions -> what its UNet is called with beside latents and timesteps; None: not by a condition alone."""

    def parts(self) -> list[tuple[str, str, type[PreTrainedModel]]]:
        """(tokenizer folder, text encoder folder, its class) of each."""
        suffixes = [f"_{n}" if n > 1 else "" for n in range(1, len(self.text_encoders) + 1)]
        return [
            (f"tokenizer{s}", f"text_encoder{s}", cls)
            for s, cls in zip(suffixes, self.text_encoders, strict=True)
        ]


ADAPTERS = {
    "stable-diffusion": Adapter(
        StableDiffusionPipeline, (CLIPTextModel,), _clip_condition, _image, True
    ),
    "stable-diffusion-xl": Adapter(
        StableDiffusionXLPipeline,
        (CLIPTextModel, CLIPTextModelWithProjection),
        _two_clip_condition,
        _image,
        True,
        _embeds_and_pooled,
        told=None,
    ),
    "audioldm": Adapter(
        AudioLDMPipeline,
        (ClapTextModelWithProjection,),
        _clap_condition,
        _sound,
        False,
        lengths={"seconds": "audio_length_in_s"},
        told=_classed,
    ),
    "text-to-video": Adapter(
        TextToVideoSDPipeline,
        (CLIPTextModel,),
        _clip_condition,
        _film,
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


class CaptionEncoder:
    """A decoder's own tokenizers and text encoders: captions -> float32 conditions."""

    def __init__(self, config: DecoderConfig, device: torch.device):
        self.config, self.device = config, device
        self._adapter = ADAPTERS[config.pipeline]
        folder = decoder_folder(config)
        self._tokenizers, self._text_encoders = [], []
        for tokenizer, text_encoder, cls in self._adapter.parts():
            self._tokenizers.append(AutoTokenizer.from_pretrained(folder / tokenizer, **LOCAL))
            loaded = cls.from_pretrained(folder / text_encoder, dtype=torch.float32)
            self._text_encoders.append(loaded.to(device).eval())

    @torch.inference_mode()
    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Captions -> (B, *condition) float32. ValueError if the profile promises another shape."""
        tokens = [
            tokenizer(
                list(captions),
                padding="max_length",
                max_length=min(tokenizer.model_max_length, 512),
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


class Decoder:
    """A frozen diffusion pipeline that turns embeddings into media. Loads once."""

    def __init__(
        self, config: DecoderConfig, device: torch.device, dtype: torch.dtype = torch.float32
    ):
        self.config = config
        self._adapter = ADAPTERS[config.pipeline]
        # Two of the pipelines are marked deprecated in diffusers; the version is pinned for their sake.
        diffusers_logging.set_verbosity_error()
        self.pipeline = self._adapter.pipeline.from_pretrained(decoder_folder(config), dtype=dtype)
        self.pipeline.set_progress_bar_config(disable=True)
        self._dtype = dtype
        self._unconditional = CaptionEncoder(config, device)([""]).to(dtype)
        self.to(device)
        if dtype != torch.float32:  # a card: one picture or frame at a time through the autoencoder
            self.pipeline.vae.enable_slicing()

    def to(self, device: torch.device) -> None:
        """Moves every part, to the card or to host memory."""
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(device)
        self._unconditional = self._unconditional.to(device)
        self._device = device

    @cached_property
    def _colours(self) -> torch.Tensor:
        return colour_map(self.pipeline.vae)

    def _callbacks(self, on_step: OnStep | None, steps: int, preview_every: int) -> dict[str, Any]:
        """The pipeline's argument that has it call `on_step` after each of its steps."""
        if on_step is None:
            return {}
        if not self._adapter.new_callback:
            return {"callback": lambda step, timestep, latents: on_step(step + 1, steps, None)}
        colours = self._colours if preview_every else None  # found before the first step

        def called(
            pipe: Any, step: int, timestep: Any, arguments: dict[str, Any]
        ) -> dict[str, Any]:
            """Told by the pipeline after each step; hands the latents on as they are."""
            shown = None
            if colours is not None and (step + 1) % preview_every == 0:
                # Some schedulers keep latents larger than the autoencoder's, by the noise that is left.
                latents = pipe.scheduler.scale_model_input(arguments["latents"], timestep)
                shown = preview(colours, latents[0], pipe.vae_scale_factor)
            on_step(step + 1, steps, shown)
            return arguments

        return {"callback_on_step_end": called}

    def _conditions(self, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """The pipeline's arguments for what it is told, and for being told nothing."""
        told = embeddings.to(self._device, self._dtype)
        untold = self._unconditional.expand_as(told).contiguous()
        negative = self._adapter.arguments(self.pipeline, untold)
        return self._adapter.arguments(self.pipeline, told) | {
            f"negative_{name}": value for name, value in negative.items()
        }

    @torch.inference_mode()
    def generate(
        self,
        embeddings: torch.Tensor,
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
        frames: int | None = None,
        seconds: float | None = None,
        preview_every: int = 0,
    ) -> list[dict[str, Any]]:
        """Embeddings (B, *condition) and a seed each -> B media as the payload of reply parts.

        An image part gets "image" (PIL), an audio part "audio" (float32 mono) and "sampling_rate", a video part
        "video" (uint8 (T, H, W, 3)) and "fps"; `frames` and `seconds` set the length of the kinds that have one.
        `on_step(done, total, preview)` is called after each diffusion step, with the first picture as it is so far at
        every `preview_every`-th, else None; what it raises ends the generation. BrokenMedia if embeddings or media are
        not finite; the others are made all the same, as they would have been.
        """
        told = torch.isfinite(embeddings).flatten(1).all(1)
        if not told.any():
            raise BrokenMedia(_NOT_FINITE, [None] * len(embeddings))
        steps = steps or self.config.steps
        wished = {"frames": frames, "seconds": seconds}
        lengths = {name: wished[wish] for wish, name in self._adapter.lengths.items()}
        lengths = {name: length for name, length in lengths.items() if length is not None}
        output = self.pipeline(
            # A broken embedding keeps its place in the batch, so that the others are computed as ever.
            **self._conditions(embeddings.nan_to_num(0, 0, 0)),
            num_inference_steps=steps,
            guidance_scale=self.config.guidance if guidance is None else guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",  # before it is rounded to bytes, where NaN would look like black
            **(self.config.options | lengths),
            **self._callbacks(on_step, steps, preview_every),
        )
        made = [
            self._adapter.medium(floats, self.config, self.pipeline)
            if fine and np.isfinite(floats).all()
            else None
            for floats, fine in zip(np.asarray(output[0]), told.tolist(), strict=True)
        ]
        if None in made:
            raise BrokenMedia(_NOT_FINITE if not told.all() else _CAME_OUT, made)
        return [medium for medium in made if medium is not None]
