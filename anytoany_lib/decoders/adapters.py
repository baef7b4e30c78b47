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
from transformers import (
    AutoTokenizer,
    ClapTextModelWithProjection,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
)

from anytoany_lib.config import DecoderConfig, resolve
from anytoany_lib.decoders.broken_media import NOT_FINITE, BrokenMedia, reason_of
from anytoany_lib.decoders.conditions import (
    attended,
    clap_condition,
    classed,
    clip_condition,
    embeds,
    embeds_and_pooled,
    two_clip_condition,
)
from anytoany_lib.decoders.previews import colour_map, preview
from anytoany_lib.decoders.working_memory import working_bytes
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.system.offloading import bytes_of, frozen_dtype
from anytoany_lib.system.out_of_memory import Portions

OnStep = Callable[[int, int, Image.Image | None], None]
_FADE_SECONDS = 0.02
_LONGEST = 512  # tokens of a caption; RoBERTa's tokenizer may name no limit
_AT_ONCE_BYTES = 2**30  # of activations
_LIVE_WIDTHS = 13  # of a token: what a layer holds at once


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
    arguments: Callable[[Any, torch.Tensor], dict[str, torch.Tensor]] = embeds
    """(pipeline, conditions) -> its keyword arguments; the unconditional ones get "negative_" before their names."""
    lengths: dict[str, str] = field(default_factory=dict)
    """What the pipeline calls the length of a medium: "frames" of a clip, "seconds" of a sound."""
    told: Callable[[torch.Tensor], dict[str, torch.Tensor | None]] | None = attended
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
        StableDiffusionPipeline, (CLIPTextModel,), clip_condition, _image, True
    ),
    "stable-diffusion-xl": Adapter(
        StableDiffusionXLPipeline,
        (CLIPTextModel, CLIPTextModelWithProjection),
        two_clip_condition,
        _image,
        True,
        embeds_and_pooled,
        told=None,
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


def _whole(cls: type[PreTrainedModel], folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model of a folder, which the library would fill up with random weights. ValueError if some are missing."""
    model, found = cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
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


def _without_checker(config: DecoderConfig) -> dict[str, Any]:
    """What a pipeline is loaded with so that it leaves its safety checker out, whose files need not be there."""
    checked = "safety_checker" in ADAPTERS[config.pipeline].pipeline._optional_components
    if config.safety_checker or not checked:
        return {}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _form(folder: Path) -> dict[str, Any]:
    """Where all weights are in the older form (.bin), it is asked for: diffusers tells of an error for each part otherwise."""
    return {} if any(folder.glob("*/*.safetensors")) else {"use_safetensors": False}


def load_pipeline(config: DecoderConfig, dtype: torch.dtype) -> DiffusionPipeline:
    """A decoder's pipeline in host memory, its scheduler as published, the autoencoder decoding one picture or frame at a time.

    Its safety checker is left out unless the profile wants it: ValueError then if there is none.
    """
    # Two of the pipelines are marked deprecated in diffusers; the version is pinned for their sake.
    diffusers_logging.set_verbosity_error()
    cls, folder = ADAPTERS[config.pipeline].pipeline, decoder_folder(config)
    how = _without_checker(config) | _form(folder)
    pipeline = cls.from_pretrained(folder, dtype=dtype, **how)
    if config.safety_checker and getattr(pipeline, "safety_checker", None) is None:
        raise ValueError(
            f"{folder} has no safety checker, the profile's decoder says safety_checker: true: set it to false, or name a "
            "pipeline that has one"
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()
    return pipeline


class Decoder:
    """A frozen diffusion pipeline that turns embeddings into media. Loads once, in half precision for a card."""

    def __init__(
        self, config: DecoderConfig, device: torch.device, dtype: torch.dtype | None = None
    ):
        self.config = config
        self._adapter = ADAPTERS[config.pipeline]
        self._dtype = frozen_dtype(device) if dtype is None else dtype
        # Before the pipeline comes, which has the same text encoder: a card holds one of them at a time.
        self._unconditional = CaptionEncoder(config, device)([""]).to(self._dtype)
        self.pipeline = load_pipeline(config, self._dtype)
        self.to(device)

    def _modules(self) -> list[torch.nn.Module]:
        return [m for m in self.pipeline.components.values() if isinstance(m, torch.nn.Module)]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights of all parts."""
        return sum(map(bytes_of, self._modules()))

    def to(self, device: torch.device) -> None:
        """Moves every part, to the card or to host memory."""
        for part in self._modules():
            part.to(device)
        self._unconditional = self._unconditional.to(device)
        self._device = device

    def working_bytes(
        self, media: int, frames: int | None = None, seconds: float | None = None
    ) -> int:
        """Bytes that `generate` takes beside the weights for so many media; see `working_memory`."""
        return working_bytes(self.pipeline, self.config, media, frames, seconds)

    @cached_property
    def _colours(self) -> torch.Tensor:
        return colour_map(self.pipeline.vae)

    def _callbacks(self, on_step: OnStep | None, preview_every: int) -> dict[str, Any]:
        """The pipeline's argument that has it call `on_step` after its steps.

        They are counted as the scheduler goes: PNDM takes one more than it is asked for, Heun's two for each but the last.
        """
        if on_step is None:
            return {}
        scheduler = self.pipeline.scheduler

        def counted(step: int, timestep: Any, latents: torch.Tensor) -> None:
            """Told by the older pipelines after every step of the order that the scheduler has, and after the last."""
            total = len(scheduler.timesteps)
            on_step(min((step + 1) * scheduler.order, total), total, None)

        if not self._adapter.new_callback:
            return {"callback": counted}
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
            on_step(step + 1, len(scheduler.timesteps), shown)
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
        every `preview_every`-th, else None; what it raises ends the generation. The total is the scheduler's own. BrokenMedia
        if embeddings or media are not finite, or the safety checker refuses some; the others are made all the same, as they
        would have been.
        """
        told = torch.isfinite(embeddings).flatten(1).all(1).tolist()
        if not any(told):
            raise BrokenMedia([None] * len(told), [NOT_FINITE] * len(told))
        wished = {"frames": frames, "seconds": seconds}
        lengths = {name: wished[wish] for wish, name in self._adapter.lengths.items()}
        lengths = {name: length for name, length in lengths.items() if length is not None}
        output = self.pipeline(
            # A broken embedding keeps its place in the batch, so that the others are computed as ever.
            **self._conditions(embeddings.nan_to_num(0, 0, 0)),
            num_inference_steps=steps or self.config.steps,
            guidance_scale=self.config.guidance if guidance is None else guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",  # before it is rounded to bytes, where NaN would look like black
            **(self.config.options | lengths),
            **self._callbacks(on_step, preview_every),
        )
        refused = getattr(output, "nsfw_content_detected", None) or [False] * len(told)
        return self._made(np.asarray(output[0]), told, refused)

    def _made(
        self, floats: np.ndarray, told: Sequence[bool], refused: Sequence[bool]
    ) -> list[dict[str, Any]]:
        """The media of a batch as the payload of reply parts; BrokenMedia if one was told nothing finite, is not, or is refused."""
        reasons = [reason_of(*one) for one in zip(told, floats, refused, strict=True)]
        made = [
            None if reason else self._adapter.medium(medium, self.config, self.pipeline)
            for medium, reason in zip(floats, reasons, strict=True)
        ]
        if any(reasons):
            raise BrokenMedia(made, reasons)
        return [medium for medium in made if medium is not None]
