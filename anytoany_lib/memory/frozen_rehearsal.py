"""Encoder and decoders gone through on shapes alone, at full size: what each would have alive on a card (see `rehearsal`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import (
    ClapTextModelWithProjection,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Model,
    SpeechT5HifiGan,
    T5EncoderModel,
    UMT5EncoderModel,
)

from anytoany_lib.config import DecoderConfig, Profile
from anytoany_lib.decoders.adapters import ADAPTERS
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import FRAMES_PER_CLIP, ImageBindConfig
from anytoany_lib.features.cache import CAPTION_BATCH
from anytoany_lib.memory import activations, blueprints, planning
from anytoany_lib.memory.live_storages import LiveStorages, as_on_a_card

META = torch.device("meta")
HALF = torch.float16  # two bytes, as bfloat16 has


@contextmanager
def rehearsing() -> Iterator[LiveStorages]:
    """Tensors that are made in it are on the card that is rehearsed, and counted."""
    with META, LiveStorages() as live, as_on_a_card():
        yield live


@torch.inference_mode()
def _alone(frozen: Iterable[nn.Module], work: Callable[[], None]) -> int:
    """Bytes of frozen models at work."""
    with rehearsing() as live:
        live.add(*frozen)
        work()
        return live.peak


def _encoder(config: ImageBindConfig) -> ImageBind:
    with META:
        encoder = ImageBind(config)
        encoder.keep_senses({"vision", "audio"})
        return encoder.to(HALF).eval()


def _look(encoder: ImageBind, kind: str, count: int) -> None:
    """Media of one kind through the encoder."""
    config = encoder.config
    if kind == "audio":
        shape: tuple[int, ...] = (config.audio_clips, 1, config.mel_bins, config.mel_frames)
    elif kind == "image":
        shape = (3, config.image_size, config.image_size)
    else:
        looks = config.video_clips * config.video_crops
        shape = (looks, 3, FRAMES_PER_CLIP, config.image_size, config.image_size)
    x = torch.empty(count, *shape, dtype=HALF)
    encoder({"audio" if kind == "audio" else "vision": x})


# By the model_type of a part's configuration.
_MODELS: dict[str, Any] = {
    "clip_text_model": CLIPTextModel,
    "clap_text_model": ClapTextModelWithProjection,
    "t5": T5EncoderModel,
    "umt5": UMT5EncoderModel,
    "gemma2": Gemma2Model,
    "speecht5_hifigan": SpeechT5HifiGan,
    "hifigan": SpeechT5HifiGan,  # as older versions of transformers saved it
}


def _part(config: dict[str, Any], pooled: bool = False) -> nn.Module:
    """A part of a pipeline by its configuration, in half precision."""
    with META:
        if "_class_name" in config:
            part = getattr(diffusers, config["_class_name"]).from_config(config)
        else:
            cls = CLIPTextModelWithProjection if pooled else _MODELS[config["model_type"]]
            part = cls(cls.config_class(**config | {"use_cache": False}))
        return part.half().eval()


def _parts(config: DecoderConfig) -> dict[str, nn.Module]:
    plans = blueprints.blueprint(config)
    return {name: _part(plan, name.endswith("2")) for name, plan in plans.items()}


def _of_drawing(config: DecoderConfig) -> dict[str, nn.Module]:
    """The parts that are on the card while media are made."""
    adapter, parts = ADAPTERS[config.pipeline], _parts(config)
    if not adapter.reads_captions:
        parts = {name: part for name, part in parts.items() if not name.startswith("text")}
    for name in adapter.whole_parts:
        parts[name].float()
    return parts


def _denoise(config: DecoderConfig, transformer: Any, latents: torch.Tensor) -> torch.Tensor:
    """A step of a transformer; with guidance where both passes are computed at once, two of them."""
    positions = config.padded_to or config.condition[0]
    passes = 2 if config.pipeline == "stable-audio" and config.guidance > 1 else 1
    told = torch.empty(passes, positions, config.condition[1], dtype=HALF)
    given, time = torch.cat([latents] * passes), torch.empty(passes, dtype=HALF)
    more: dict[str, Any] = {}
    if config.pipeline == "stable-audio":
        size = latents.shape[-1] + 1, transformer.config.attention_head_dim // 2
        rotary = torch.empty(size), torch.empty(size)
        more = {"global_hidden_states": torch.empty(passes, 1, 1536, dtype=HALF)}
        more |= {"rotary_embedding": rotary}
    elif config.pipeline == "sana-sprint":
        more = {"encoder_attention_mask": torch.empty(1, positions, dtype=torch.long)}
        more |= {"guidance": time}
    moved = transformer(given, timestep=time, encoder_hidden_states=told, **more).sample
    return latents - moved.chunk(passes)[0]


def _draw_by_transformer(config: DecoderConfig, parts: dict[str, nn.Module]) -> None:
    """A medium through a transformer's pipeline: a step, then its autoencoder."""
    transformer: Any = parts["transformer"]
    vae: Any = parts["vae"]
    shape = activations.latents_of(config)
    latents = torch.empty(1, transformer.config.in_channels, *shape, dtype=HALF)
    decoded = vae.decode(_denoise(config, transformer, latents).to(vae.dtype)).sample
    decoded.float()


def _draw(config: DecoderConfig, parts: dict[str, nn.Module]) -> None:
    """A medium through a pipeline: a step with guidance, then its autoencoder, frame by frame, and its vocoder."""
    unet: Any = parts["unet"]
    vae: Any = parts["vae"]
    vae.enable_slicing()
    shape = activations.latents_of(config)
    latents = torch.empty(1, unet.config.in_channels, *shape, dtype=HALF)
    passes = 2 if config.guidance > 1 else 1
    conditions = torch.empty(passes, *config.condition, dtype=HALF)
    if config.pipeline == "animatediff":
        conditions = conditions.repeat_interleave(shape[0], 0)
    both = torch.cat([latents] * passes)
    noise = unet(
        both, torch.empty((), dtype=torch.long), **_unet_arguments(config, conditions)
    ).sample
    unguided, guided = noise.chunk(passes) if passes > 1 else (0, noise)
    latents = latents - config.guidance * (guided - unguided)
    if latents.dim() == 5:
        latents = latents.permute(0, 2, 1, 3, 4).flatten(0, 1)
    decoded = vae.decode(latents / 2).sample
    if "vocoder" in parts:
        parts["vocoder"](decoded.squeeze(1)).float()
    elif len(latents) > 1:
        decoded[None].permute(0, 2, 1, 3, 4).float()


def _unet_arguments(config: DecoderConfig, conditions: torch.Tensor) -> dict[str, Any]:
    if config.pipeline == "audioldm":
        return {"encoder_hidden_states": None, "class_labels": conditions}
    if config.pipeline == "stable-diffusion-xl":
        more = {
            "text_embeds": conditions[:, -1, :1280],
            "time_ids": torch.empty(len(conditions), 6, dtype=HALF),
        }
        return {"encoder_hidden_states": conditions[:, :-1], "added_cond_kwargs": more}
    return {"encoder_hidden_states": conditions}


@cache
def looking_peak(config: ImageBindConfig, media: tuple[tuple[str, int], ...]) -> int:
    """Bytes of the encoder at so many media of some kinds, one kind after the other."""
    encoder = _encoder(config)

    def look() -> None:
        for kind, count in media:
            _look(encoder, kind, count)

    return _alone([encoder], look)


@cache
def drawing_peak(settings: str) -> int:
    """Bytes of a decoder at work, by its settings as JSON."""
    config = DecoderConfig.model_validate_json(settings)
    parts = _of_drawing(config)
    draw = _draw_by_transformer if "transformer" in parts else _draw
    return _alone(parts.values(), partial(draw, config, parts))


@cache
def captions_peak(settings: str) -> int:
    """Bytes of a decoder's text encoders at a batch of captions, by its settings as JSON."""
    config = DecoderConfig.model_validate_json(settings)
    encoders = [part for name, part in _parts(config).items() if name.startswith("text")]

    def read() -> None:
        ids = torch.empty(CAPTION_BATCH, activations.caption_positions(config), dtype=torch.long)
        for encoder in encoders:
            encoder(ids, torch.empty_like(ids))

    return _alone(encoders, read)


def features_peaks(profile: Profile) -> dict[str, int]:
    """Bytes of each of those that features are computed with, one after the other."""
    encoder = planning.encoder_config(profile)
    media = tuple(
        (kind, activations.media_at_once(encoder, kind)) for kind in ("image", "audio", "video")
    )
    return {
        "encoder": looking_peak(encoder, media),
        **{
            f"{kind} captions": captions_peak(config.model_dump_json())
            for kind, config in profile.decoders.items()
        },
    }
