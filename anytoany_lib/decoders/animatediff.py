"""AnimateDiff: the pictures of a Stable Diffusion 1.5 in motion, by the weights of a motion adapter beside it.

Its captions are Stable Diffusion's, so pictures and clips share one cache. AnimateDiff-Lightning is published as tensors
without a configuration: it is a `MotionAdapter` of the class's own settings, and denoises in four steps without guidance.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import AnimateDiffPipeline, MotionAdapter
from safetensors.torch import load_file
from transformers import CLIPTextModel

from anytoany_lib.config import DecoderConfig, resolve
from anytoany_lib.decoders.protocol import Adapter, clip_condition, video_of
from anytoany_lib.gates.foreign_code import without_code


def _motion(file: str, dtype: torch.dtype) -> MotionAdapter:
    """The motion adapter in a folder, or in a .safetensors file: with the config.json beside it if there is one."""
    path = resolve(file)
    if path.is_dir():
        return MotionAdapter.from_pretrained(without_code(path), torch_dtype=dtype)
    if not path.is_file():
        raise FileNotFoundError(
            f"no motion adapter in {path}: put its .safetensors file there, or set `added: {{file: ...}}` in the profile's decoder"
        )
    settings = path.with_name("config.json")
    config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    motion = MotionAdapter.from_config(config)
    motion.load_state_dict(load_file(path))  # every key, or it is another model's
    return motion.to(dtype)


def _with_motion(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    assert config.added is not None  # the profile was checked
    return {"motion_adapter": _motion(config.added.file, dtype)}


ANIMATEDIFF = Adapter(
    AnimateDiffPipeline,
    (CLIPTextModel,),
    clip_condition,
    video_of,
    True,
    lengths={"frames": "num_frames"},
    told=None,  # a distilled network has no such loss
    beside=_with_motion,
    reads_captions=False,
)
