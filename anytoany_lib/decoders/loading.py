"""A decoder's pipeline from disk: as it was published, but for what the profile says otherwise.

That is its scheduler and weights beside its own, for few steps; no safety checker unless wanted; text encoders once in a process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file

from anytoany_lib.config import DecoderConfig, resolve
from anytoany_lib.decoders.adapters import ADAPTERS, decoder_folder
from anytoany_lib.decoders.text_encoders import text_encoder
from anytoany_lib.system.offloading import HOST


def _without_checker(config: DecoderConfig) -> dict[str, Any]:
    """Arguments that load a pipeline without its safety checker, whose files need not be there."""
    checked = "safety_checker" in ADAPTERS[config.pipeline].pipeline._optional_components
    if config.safety_checker or not checked:
        return {}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _weights_format(folder: Path) -> dict[str, Any]:
    """Arguments that ask for the older form of weights (.bin) if there is no other: else diffusers logs an error for each part."""
    return {} if any(folder.glob("*/*.safetensors")) else {"use_safetensors": False}


def _readers(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments for a pipeline's text encoders: those that a `CaptionEncoder` holds too, or none if it does without."""
    adapter, folder = ADAPTERS[config.pipeline], decoder_folder(config)
    if not adapter.reads_captions:
        return {name: None for parts in adapter.parts() for name in parts[:2]}
    return {part: text_encoder(cls, folder / part, HOST, dtype) for _, part, cls in adapter.parts()}


def _rescheduled(pipeline: Any, config: DecoderConfig) -> Any:
    """The scheduler that the profile names, with its settings in the place of the published one's. ValueError if there is none."""
    name, settings = str(config.scheduler["class"]), dict(config.scheduler)
    del settings["class"]
    cls = getattr(diffusers, name, None)
    if cls is None or not name.endswith("Scheduler"):
        raise ValueError(f"scheduler: diffusers has no {name}: name one, such as LCMScheduler")
    known = set(cls._get_init_keys(cls))
    if unknown := sorted(settings.keys() - known):
        raise ValueError(
            f"scheduler: {name} has no {', '.join(unknown)}: it knows {', '.join(sorted(known))}"
        )
    return cls.from_config(pipeline.scheduler.config, **settings)


def _add_matrices(pipeline: Any, file: Path) -> None:
    """Adds the LoRA matrices of a file to the UNet's weights. FileNotFoundError, or ValueError if they are of another model."""
    if not file.is_file():
        raise FileNotFoundError(
            f"no LoRA matrices in {file}: put the .safetensors file there, or take `added` out of the profile's decoder"
        )
    state, alphas = pipeline.lora_state_dict(load_file(file))
    if others := sorted({name.split(".")[0] for name in state} - {"unet"}):
        raise ValueError(
            f"{file}: expected matrices of the UNet alone, found some of {', '.join(others)}: captions would not be read as they "
            "were cached; name another file"
        )
    pipeline.load_lora_into_unet(state, alphas, pipeline.unet)
    pipeline.unet.fuse_lora()
    pipeline.unet.unload_lora()


def load_pipeline(config: DecoderConfig, dtype: torch.dtype) -> DiffusionPipeline:
    """A decoder's pipeline in host memory, its scheduler as published unless the profile names one.

    Its safety checker is left out unless the profile wants it: ValueError then if there is none.
    """
    # Two of the pipelines are marked deprecated in diffusers; the version is pinned for their sake.
    diffusers_logging.set_verbosity_error()
    adapter, folder = ADAPTERS[config.pipeline], decoder_folder(config)
    options = _without_checker(config) | _weights_format(folder) | _readers(config, dtype)
    dtypes = {"default": dtype, **dict.fromkeys(adapter.whole_parts, torch.float32)}
    beside = adapter.beside(config, dtype)
    pipeline = adapter.pipeline.from_pretrained(folder, dtype=dtypes, **options, **beside)
    pipeline.register_modules(**dict.fromkeys(beside))  # they are in its UNet now
    if config.safety_checker and getattr(pipeline, "safety_checker", None) is None:
        raise ValueError(
            f"{folder} has no safety checker, the profile's decoder says safety_checker: true: set it to false, or name a "
            "pipeline that has one"
        )
    if config.scheduler:
        pipeline.scheduler = _rescheduled(pipeline, config)
    if config.added and not beside:
        _add_matrices(pipeline, resolve(config.added.file))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
