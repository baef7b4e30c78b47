"""The one table of encoders: how each is loaded, and which files it is made of. docs/adding_an_encoder.md adds a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from anytoany_lib.config import EncoderConfig, resolve
from anytoany_lib.encoders.frozen import Encoder, FrozenEncoder
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import SENSE_OF_KIND
from anytoany_lib.encoders.imagebind_states import ImageBindStates


def _imagebind(config: EncoderConfig, dtype: torch.dtype) -> ImageBind:
    senses = dict.fromkeys(SENSE_OF_KIND[kind] for kind in config.kinds)
    folder = resolve(config.folder)
    if config.states == "pooled":
        return ImageBind.from_checkpoint(folder, senses, dtype)
    model = cast(ImageBindStates, ImageBindStates.from_checkpoint(folder, senses, dtype))
    model.length = config.length
    return model


def _pe_av(config: EncoderConfig, dtype: torch.dtype) -> FrozenEncoder:
    from anytoany_lib.encoders.pe_av import PeAv

    return PeAv(config, dtype)


def _siglip_whisper(config: EncoderConfig, dtype: torch.dtype) -> FrozenEncoder:
    from anytoany_lib.encoders.siglip_whisper import SiglipWhisper

    return SiglipWhisper(config, dtype)


ENCODERS: dict[str, Callable[[EncoderConfig, torch.dtype], ImageBind | FrozenEncoder]] = {
    "imagebind": _imagebind,
    "pe-av": _pe_av,
    "siglip2+whisper": _siglip_whisper,
}


def load_encoder(config: EncoderConfig, dtype: torch.dtype) -> Encoder:
    """The encoder of a profile, frozen, on the CPU.

    FileNotFoundError or ValueError, which name files and weights, if it is not there whole, is another model, lacks a sense of
    `config.kinds`, or gives vectors of another width than `config.embedding`. Draws no numbers that a training would miss.
    """
    # Loading draws random weights, which must not move the numbers a training draws.
    with torch.random.fork_rng():
        encoder = ENCODERS[config.model](config, dtype)
    width = encoder.config.embed_dim if isinstance(encoder, ImageBind) else encoder.width
    if width != config.embedding:
        raise ValueError(
            f"{resolve(config.folder)} gives vectors of {width} numbers, the profile says encoder.embedding: "
            f"{config.embedding}; set it to {width}"
        )
    return encoder


def files_of(config: EncoderConfig) -> list[Path]:
    """The files that decide what an encoder gives: weights and settings. FileNotFoundError if there are none."""
    files: list[Path] = []
    for name in filter(None, (config.folder, config.audio_folder)):
        path = resolve(name)
        own = [path]
        if path.is_dir():
            own = sorted(path.glob("*.safetensors")) + sorted(path.glob("config.json"))
            if config.model != "imagebind":
                own += sorted(path.glob("*processor*config.json"))
        if not own or not own[0].is_file():
            raise FileNotFoundError(
                f"no {config.model} encoder in {path}: run notebooks/01_checkpoints.ipynb, or set encoder.folder in the profile"
            )
        files += own
    return files
