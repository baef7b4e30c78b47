"""Adapters around diffusion pipelines: captions -> the embeddings they are conditioned on -> media.

Every adapter is one row of `ADAPTERS`: the pipeline's class, how its text encoder turns captions into conditions, and
how its output becomes the reply's medium. Training needs `CaptionEncoder` only; the rest is loaded for generating.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AudioLDMPipeline,
    DiffusionPipeline,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
)
from diffusers.utils import logging as diffusers_logging
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapTextModelWithProjection, CLIPTextModel

from anytoany_lib.config import DecoderConfig, resolve

OnStep = Callable[[int, int], None]
_FADE_SECONDS = 0.02


def _clip_condition(text_encoder: CLIPTextModel, tokens) -> torch.Tensor:
    """Last hidden states at every position, padding included, as Stable Diffusion takes them: (B, L, D)."""
    return text_encoder(tokens.input_ids).last_hidden_state


def _clap_condition(text_encoder: ClapTextModelWithProjection, tokens) -> torch.Tensor:
    """The projected pooled text, L2-normalised, as AudioLDM takes it: (B, D)."""
    return F.normalize(text_encoder(tokens.input_ids, tokens.attention_mask).text_embeds, dim=-1)


def _images(output, config: DecoderConfig, pipeline) -> list[dict[str, Any]]:
    return [{"image": image} for image in output.images]


def _sounds(output, config: DecoderConfig, pipeline) -> list[dict[str, Any]]:
    rate = int(pipeline.vocoder.config.sampling_rate)
    audible = np.clip(np.asarray(output.audios, dtype=np.float32), -1, 1)
    # A sound that is cut off while it lasts would click.
    ramp = np.linspace(0, 1, round(_FADE_SECONDS * rate), dtype=np.float32)
    audible[:, : len(ramp)] *= ramp
    audible[:, -len(ramp) :] *= ramp[::-1]
    return [{"audio": samples, "sampling_rate": rate} for samples in audible]


def _films(output, config: DecoderConfig, pipeline) -> list[dict[str, Any]]:
    frames = (np.asarray(output.frames) * 255).round().clip(0, 255).astype(np.uint8)
    return [{"video": film, "fps": config.fps or 8} for film in frames]


@dataclass(frozen=True)
class Adapter:
    pipeline: type[DiffusionPipeline]
    text_encoder: type
    condition: Callable[[Any, Any], torch.Tensor]
    media: Callable[[Any, DecoderConfig, Any], list[dict[str, Any]]]
    new_callback: bool
    """Whether the pipeline takes callback_on_step_end(pipe, step, t, kwargs) or the older callback(step, t, latents)."""


ADAPTERS = {
    "stable-diffusion": Adapter(
        StableDiffusionPipeline, CLIPTextModel, _clip_condition, _images, True
    ),
    "audioldm": Adapter(
        AudioLDMPipeline, ClapTextModelWithProjection, _clap_condition, _sounds, False
    ),
    "text-to-video": Adapter(TextToVideoSDPipeline, CLIPTextModel, _clip_condition, _films, False),
}


def _folder(config: DecoderConfig) -> Path:
    folder = resolve(config.folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"no {config.pipeline} pipeline in {folder} (expected model_index.json): "
            "run notebooks/01_checkpoints.ipynb, or set the decoder's folder in the profile"
        )
    return folder


class CaptionEncoder:
    """A decoder's own tokenizer and text encoder: captions -> float32 conditions."""

    def __init__(self, config: DecoderConfig, device: torch.device):
        self.config, self.device = config, device
        self._adapter = ADAPTERS[config.pipeline]
        folder = _folder(config)
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self._text_encoder = self._adapter.text_encoder.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        )
        self._text_encoder.to(device).eval()

    @torch.inference_mode()
    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Captions -> (B, *condition) float32. ValueError if the profile promises another shape."""
        tokens = self._tokenizer(
            list(captions),
            padding="max_length",
            max_length=min(self._tokenizer.model_max_length, 512),
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        conditions = self._adapter.condition(self._text_encoder, tokens).float()
        if tuple(conditions.shape[1:]) != self.config.condition:
            raise ValueError(
                f"{self.config.folder}: its text encoder gives {tuple(conditions.shape[1:])} a caption, the profile "
                f"says {self.config.condition}: correct `condition` in the profile, and train stage 2 anew"
            )
        return conditions


def caption_model_files(config: DecoderConfig) -> list[Path]:
    """The files that determine a decoder's caption embeddings: its tokenizer and text encoder."""
    folder = _folder(config)
    return [
        file for part in ("tokenizer", "text_encoder") for file in sorted((folder / part).iterdir())
    ]


class Decoder:
    """A frozen diffusion pipeline that turns embeddings into media. Loads once."""

    def __init__(
        self, config: DecoderConfig, device: torch.device, dtype: torch.dtype = torch.float32
    ):
        self.config = config
        self._adapter = ADAPTERS[config.pipeline]
        # Two of the pipelines are marked deprecated in diffusers; the version is pinned for their sake.
        diffusers_logging.set_verbosity_error()
        self.pipeline = self._adapter.pipeline.from_pretrained(_folder(config), dtype=dtype)
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

    def generate(
        self,
        embeddings: torch.Tensor,
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> list[dict[str, Any]]:
        """Embeddings (B, *condition) and a seed each -> B media as the payload of reply parts.

        An image part gets "image" (PIL), an audio part "audio" (float32 mono) and "sampling_rate", a video part
        "video" (uint8 (T, H, W, 3)) and "fps". `on_step(done, total)` is called after each diffusion step; what it
        raises ends the generation.
        """
        if not torch.isfinite(embeddings).all():
            raise ValueError(
                "the output projection gave values that are not finite: the run folder is broken"
            )
        steps = steps or self.config.steps

        def called_new(pipe, step, timestep, arguments):
            on_step(step + 1, steps)
            return arguments

        def called_old(step, timestep, latents):
            on_step(step + 1, steps)

        callbacks = {}
        if on_step is not None:
            new = self._adapter.new_callback
            callbacks = {"callback_on_step_end": called_new} if new else {"callback": called_old}
        count = len(embeddings)
        shape = (-1,) * (embeddings.dim() - 1)
        with torch.inference_mode():
            output = self.pipeline(
                prompt_embeds=embeddings.to(self._device, self._dtype),
                negative_prompt_embeds=self._unconditional.expand(count, *shape).contiguous(),
                num_inference_steps=steps,
                guidance_scale=self.config.guidance if guidance is None else guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="pil" if self.config.pipeline == "stable-diffusion" else "np",
                **self.config.options,
                **callbacks,
            )
        return self._adapter.media(output, self.config, self.pipeline)
