"""What an adapter says of a class of diffusion pipelines, and what several of them say alike.

`Adapter` is the protocol: captions -> conditions -> the arguments of a pipeline, or of its denoising network alone -> media.
Conditions are one tensor of fixed shape a caption. Where a pipeline reads a caption only up to its last word, what is behind
that is zeros, so that the tensor says its own length (`counted`). Axes: B captions, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch.nn import functional as F
from transformers import PreTrainedModel

from anytoany_lib.config import PADDED, DecoderConfig

LONGEST = 512  # tokens of a caption; RoBERTa's tokenizer may name no limit
_FADE_SECONDS = 0.02
_SHARE = 0.25  # of the longest vector: what is shorter stands for no word


# --- captions -> conditions ---


def padded_captions(tokenizer: Any, captions: Sequence[str], positions: int) -> Any:
    """What a tokenizer gives for captions padded to all that it reads, as CLIP's pipelines call it: (B, L)."""
    longest = min(tokenizer.model_max_length, LONGEST)
    return tokenizer(
        list(captions),
        padding="max_length",
        max_length=longest,
        truncation=True,
        return_tensors="pt",
    )


def short_captions(
    tokenizer: Any, captions: Sequence[str], positions: int, instruction: str = ""
) -> Any:
    """What a tokenizer gives for captions padded to the longest of them, each behind an instruction: (B, L).

    `begin` is where captions begin: the instruction's first token and they are read, `positions` together at most.
    """
    begin = len(tokenizer.encode(instruction)) - 1 if instruction else 1
    tokens = tokenizer(
        [instruction + caption for caption in captions],
        padding=True,
        padding_side="right",
        max_length=begin + positions - 1,
        truncation=True,
        return_tensors="pt",
    )
    return tokens | {"begin": begin}


def up_to_the_last_word(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """States (B, L, D) with zeros where the mask (B, L) has them."""
    return states * mask.unsqueeze(-1).to(states.dtype)


def clip_condition(encoders: list[Any], tokens: list[Any]) -> torch.Tensor:
    """Last hidden states at every position, padding included, as Stable Diffusion takes them: (B, L, D)."""
    return encoders[0](tokens[0].input_ids).last_hidden_state


def masked_states(encoders: list[Any], tokens: list[Any]) -> torch.Tensor:
    """Last hidden states of `short_captions`, zeros behind a caption's last word: (B, L, D)."""
    ids, mask, begin = (tokens[0][name] for name in ("input_ids", "attention_mask", "begin"))
    states = encoders[0](ids, attention_mask=mask).last_hidden_state
    kept = [0, *range(begin, mask.shape[1])]
    return up_to_the_last_word(states[:, kept], mask[:, kept])


@torch.no_grad()
def counted(condition: torch.Tensor) -> torch.Tensor:
    """Which positions of conditions (B, L, D) stand for a caption's words: bool (B, L), all of them from the first to the last.

    A text encoder's own condition says so by its zeros, to the letter. A projection's has none: there the last word is the
    last vector of at least a quarter of the longest one's length. The first does not count for that: what begins every
    text is longer than words in some text encoders.
    """
    lengths = condition.float().norm(dim=-1)  # (B, L)
    least = _SHARE * lengths[:, 1:].amax(1, keepdim=True)
    least = torch.where((lengths == 0).any(1, keepdim=True), 0, least)
    behind = (lengths > least).flip(1).cummax(1).values.flip(1)
    behind[:, 0] = True
    return behind


def as_read(config: DecoderConfig, condition: torch.Tensor) -> torch.Tensor:
    """Conditions (B, *condition) as their pipeline reads them: of a padded one, zeros behind the last word (B, padded_to, D)."""
    if config.pipeline not in PADDED:
        return condition
    words, positions = up_to_the_last_word(condition, counted(condition)), condition.shape[1]
    return F.pad(words, (0, 0, 0, (config.padded_to or positions) - positions))


# --- conditions -> the arguments of a pipeline or its network ---


def embeds(pipeline: Any, condition: torch.Tensor) -> dict[str, torch.Tensor]:
    """A pipeline's arguments for conditions (B, L, D) or (B, D)."""
    return {"prompt_embeds": condition}


def embeds_and_mask(mask: str) -> Callable[[Any, torch.Tensor], dict[str, torch.Tensor]]:
    """The same for a pipeline that is told by an argument of that name where conditions (B, L, D) have words."""
    return lambda pipeline, condition: {"prompt_embeds": condition, mask: words_of(condition)}


def attended(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Arguments of a network that attends to conditions (B, L, D)."""
    return {"encoder_hidden_states": condition}


def attended_words(condition: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """The same of a network that attends only to where conditions have words."""
    return attended(condition) | {"encoder_attention_mask": words_of(condition)}


def in_steps(steps: int) -> dict[str, Any]:
    """A pipeline's arguments for so many steps."""
    return {"num_inference_steps": steps}


def no_more(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """A pipeline that is loaded from its folder and needs nothing beside it."""
    return {}


def words_of(condition: torch.Tensor) -> torch.Tensor:
    """The attention mask (B, L) of conditions that are zeros behind their last word."""
    return (condition != 0).any(-1).long()


# --- media -> latents ---


def scaled_latents(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W), or clips (B, T, 3, H, W) frame by frame, as an autoencoder encodes them, or in its mean if it gives a
    distribution: (B, C, h, w), (B, C, T, h, w).
    """
    clips = pixels.ndim == 5
    encoded = vae.encode(pixels.flatten(0, 1) if clips else pixels)
    latents = encoded.latent if "latent" in encoded else encoded.latent_dist.mean
    if clips:
        latents = latents.unflatten(0, pixels.shape[:2]).transpose(1, 2)
    return latents * vae.config.scaling_factor


# --- a pipeline's output -> the medium of a reply part ---


def _bytes(floats: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as uint8."""
    return (floats * 255).round().clip(0, 255).astype(np.uint8)


def image_of(pixels: np.ndarray, config: DecoderConfig, pipeline: Any) -> dict[str, Any]:
    """A picture of floats (H, W, 3) from 0 to 1."""
    return {"image": Image.fromarray(_bytes(pixels))}


def video_of(frames: np.ndarray, config: DecoderConfig, pipeline: Any) -> dict[str, Any]:
    """A clip of floats (T, H, W, 3) from 0 to 1."""
    return {"video": _bytes(frames), "fps": config.fps or 8}


def sound(samples: np.ndarray, rate: int) -> dict[str, Any]:
    """Samples (N,), faded in and out: a sound that is cut off while it lasts would click."""
    audible = np.clip(samples.astype(np.float32), -1, 1)
    ramp = np.linspace(0, 1, round(_FADE_SECONDS * rate), dtype=np.float32)
    audible[: len(ramp)] *= ramp
    audible[-len(ramp) :] *= ramp[::-1]
    return {"audio": audible, "sampling_rate": rate}


# --- the protocol ---


@dataclass(frozen=True)
class Adapter:
    """What is particular to a pipeline class: one row of `adapters.ADAPTERS`."""

    pipeline: type[DiffusionPipeline]
    text_encoders: tuple[type[PreTrainedModel], ...]
    """Classes of the folders text_encoder, text_encoder_2, ..., each with a tokenizer of the same number."""
    condition: Callable[[list, list], torch.Tensor]
    """(encoders, what `tokens` gave of each tokenizer) -> conditions (B, *condition); fewer positions are filled up with zeros."""
    medium: Callable[[np.ndarray, DecoderConfig, Any], dict[str, Any]]
    """(one medium as the pipeline's floats, config, pipeline) -> payload of a reply part."""
    new_callback: bool
    """Whether the pipeline takes callback_on_step_end(pipe, step, t, kwargs) or the older callback(step, t, latents)."""
    arguments: Callable[[Any, torch.Tensor], dict[str, torch.Tensor]] = embeds
    """(pipeline, conditions) -> its keyword arguments; the unconditional ones get "negative_" before their names."""
    lengths: dict[str, str] = field(default_factory=dict)
    """What the pipeline calls the length of a medium: "frames" of a clip, "seconds" of a sound."""
    told: Callable[[torch.Tensor], dict[str, torch.Tensor | None]] | None = attended
    """Conditions -> the arguments of its network beside latents and timesteps; None: no denoising term."""
    editing: type[DiffusionPipeline] | None = None
    """The pipeline of the same parts that begins with a picture rather than with noise."""
    tokens: Callable[[Any, Sequence[str], int], Any] = padded_captions
    """(tokenizer, captions, positions of a condition) -> input_ids and attention_mask."""
    instruction: int = 0
    """How many tokens more a caption is read behind, at most."""
    network: str = "unet"
    """The part that denoises."""
    latents: Callable[[Any, torch.Tensor], torch.Tensor] = scaled_latents
    """(autoencoder, media as it reads them) -> latents as the network was trained on them."""
    negative: bool = True
    """Whether guidance wants the condition of an empty caption; else the pipeline has its own way."""
    steps: Callable[[int], dict[str, Any]] = in_steps
    """The pipeline's arguments for so many steps."""
    beside: Callable[[DecoderConfig, torch.dtype], dict[str, Any]] = no_more
    """Parts to load the pipeline with that are not in its folder."""
    half: torch.dtype = torch.float16
    """What it computes in on a card; T5 and Gemma overflow float16."""
    reads_captions: bool = True
    """Whether the loaded pipeline keeps text encoders, which larger ones would take a card's room with."""
    whole_parts: tuple[str, ...] = ()
    """Parts that stay in float32."""

    def parts(self) -> list[tuple[str, str, type[PreTrainedModel]]]:
        """(tokenizer folder, text encoder folder, its class) of each."""
        suffixes = [f"_{n}" if n > 1 else "" for n in range(1, len(self.text_encoders) + 1)]
        return [
            (f"tokenizer{s}", f"text_encoder{s}", cls)
            for s, cls in zip(suffixes, self.text_encoders, strict=True)
        ]

    def computes_in(self, dtype: torch.dtype) -> torch.dtype:
        """What it computes in where others do in `dtype`."""
        return self.half if dtype == torch.float16 else dtype
