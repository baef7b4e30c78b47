"""Names, shapes and types of the tensors of a published file, from the classes that read it and the names of its time.

The classes are built on the meta device, where nothing is allocated; what they call their parameters today is then given
the names that the files carry.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from anytoany_lib.checkpoints.nextgpt import published_shapes
from anytoany_lib.config import Profile
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import ImageBindConfig

from .layout import Config, Part

Table = dict[str, tuple[tuple[int, ...], str]]
"""Tensor name -> shape and type as safetensors call it, in the order of the file."""
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_DIFFUSERS: dict[str, type] = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "unet3d": UNet3DConditionModel,
}


def table(part: Part, config: Config, file: str) -> Table:
    """The tensors of one of the part's weights files (of all its shards)."""
    if part.kind == "nextgpt":
        return {name: (shape, part.dtype) for name, shape in _nextgpt(config).items()}
    model = _built(part.kind, config)
    dtype = "F16" if ".fp16." in file else part.dtype
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if getattr(model.config, "tie_word_embeddings", False) and part.kind == "causal":
        del shapes["lm_head.weight"]
    found = {name: (shape, dtype) for name, shape in shapes.items()}
    # The half-precision VAE was added in a later year than the others, with the names of that year.
    if part.kind == "vae" and file != "diffusion_pytorch_model.fp16.safetensors":
        return {_old(name): value for name, value in found.items()}
    if part.kind.startswith("llama"):
        return _with_frequencies(found, config)
    if part.kind in ("clip", "clap"):
        stored, prefixed = (
            _positions(part.kind, config),
            {_prefixed(n): v for n, v in found.items()},
        )
        return stored | {name: value for name, value in prefixed.items() if name not in stored}
    if part.kind == "safety":
        vision, prefix = config["vision_config"], "vision_model.vision_model."
        seen = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
        found = {_vision(name): value for name, value in found.items()}
        return found | {f"{prefix}embeddings.position_ids": ((1, seen), "I64")}
    return found


def _built(kind: str, config: Config) -> Any:
    """The class that reads a file of this kind, on the meta device."""
    with torch.device("meta"):
        if kind in _DIFFUSERS:
            return _DIFFUSERS[kind].from_config(config)
        if kind == "imagebind":
            return ImageBind(ImageBindConfig.model_validate(config))
        if kind == "clip":
            return CLIPTextModel(CLIPTextConfig(**config))
        if kind == "clap":
            return ClapTextModelWithProjection(ClapTextConfig(**config))
        if kind == "vocoder":
            return SpeechT5HifiGan(SpeechT5HifiGanConfig(**config))
        if kind == "safety":
            return StableDiffusionSafetyChecker(CLIPConfig(**config))
        model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        return model


def _nextgpt(config: Config) -> dict[str, tuple[int, ...]]:
    """The published run: projections, LoRA, embedding and head with the new tokens."""
    settings = Profile.load("nextgpt-7b").model_dump(mode="json")
    settings["encoder"]["embedding"] = config["embed_dim"]
    settings["projection"] |= config["projection"]
    for kind, decoder in settings["decoders"].items():
        decoder["condition"][-1] = config[kind]["width"]
    profile = Profile.parse(settings, "the published profile, narrowed")
    sizes = (config["hidden_size"], config["num_hidden_layers"], config["words"])
    return published_shapes(profile, *sizes)


def _old(name: str) -> str:
    """What a VAE's attention was called until diffusers 0.16."""
    found = re.fullmatch(r"(.*attentions\.\d+\.)(to_\w+(?:\.0)?)(\.\w+)", name)
    return found[1] + _OLD_ATTENTION[found[2]] + found[3] if found else name


def _prefixed(name: str) -> str:
    """Text encoders carry the prefix of the model that they are a part of."""
    return name if name.startswith("text_") else f"text_model.{name}"


def _vision(name: str) -> str:
    """The safety checker's vision model was wrapped once more."""
    if name.startswith("vision_model.") and not name.startswith("vision_model.vision_model."):
        return f"vision_model.{name}"
    return name


def _positions(kind: str, config: Config) -> Table:
    """Buffers that were stored with the weights until transformers 4.31."""
    row = ((1, config["max_position_embeddings"]), "I64")
    names = ["position_ids"] if kind == "clip" else ["position_ids", "token_type_ids"]
    return {f"text_model.embeddings.{name}": row for name in names}


def _with_frequencies(found: Table, config: Config) -> Table:
    """LLaMA's rotary frequencies were stored in every layer, behind its attention."""
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    whole: Table = {}
    for name, value in found.items():
        whole[name] = value
        if name.endswith("self_attn.o_proj.weight"):
            layer = name.removesuffix("o_proj.weight")
            whole[f"{layer}rotary_emb.inv_freq"] = ((half,), "F32")
    return whole


def bytes_of(shape: tuple[int, ...], dtype: str) -> int:
    """Of a tensor's numbers."""
    return torch.Size(shape).numel() * DTYPES[dtype].itemsize


def shards(whole: Table, limit: int | None) -> list[Table]:
    """A table as shards of at most `limit` bytes, filled one after the other as transformers does."""
    if limit is None:
        return [whole]
    parts: list[Table] = [{}]
    size = 0
    for name, (shape, dtype) in whole.items():
        more = bytes_of(shape, dtype)
        if parts[-1] and size + more > limit:
            parts.append({})
            size = 0
        parts[-1][name] = (shape, dtype)
        size += more
    return parts


def shard_name(file: str, number: int, count: int) -> str:
    """model.safetensors as model-00001-of-00002.safetensors; alone it keeps its name."""
    stem, dot, ending = file.rpartition(".")
    return file if count == 1 else f"{stem}-{number:05d}-of-{count:05d}{dot}{ending}"
