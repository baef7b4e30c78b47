"""What models hold while they work, beside their weights: rules for the fullest moment, in bytes, from shapes alone.

Every rule counts maps: a map is one number for every place (of a picture, a clip's latents, a row of tokens) and channel. The
numbers of maps were found by going through the models' own code on the meta device (`rehearsal`), at full size and at the tiny
one; tests hold the rules to it.
"""

from __future__ import annotations

import math

import numpy as np
from transformers import PretrainedConfig

from anytoany_lib.config import DecoderConfig
from anytoany_lib.decoders import mels
from anytoany_lib.decoders.adapters import ADAPTERS
from anytoany_lib.decoders.footprints import footprint
from anytoany_lib.encoders.frozen import AT_ONCE_BYTES, LIVE_WIDTHS
from anytoany_lib.encoders.imagebind_inputs import SENSE_OF_KIND, ImageBindConfig, tokens_of
from anytoany_lib.features.cache import BATCH, CAPTION_BATCH
from anytoany_lib.memory.blueprints import blueprint, factor

ACTIVE = 2  # bytes of an activation, and of a weight that is not quantised
POSITIONS = 77  # of a caption; AudioLDM would read up to 512, and captions are shorter
_WITH_ATTENTION = {"UNet2DConditionModel": 26, "UNet3DConditionModel": 33, "UNetMotionModel": 26}
_WITHOUT = {"UNet2DConditionModel": 16, "UNet3DConditionModel": 20, "UNetMotionModel": 16}
_TEXT_WIDTHS = {"quick_gelu": 16, "gelu": 12}
_VAE_MAPS = 6
_VOCODER_MAPS = 5
_TRAINED_MAPS = 750  # of a UNet's first width, that it keeps for the gradient
_TRAINED_TWICE = 60  # and with checkpointing


def latents_of(config: DecoderConfig) -> tuple[int, ...]:
    """Places of a medium's latents: (h, w), of a clip (T, h, w)."""
    plans, options = blueprint(config), config.options
    if (rule := footprint(plans, config)) is not None:
        return rule.places
    side = factor(plans)
    if config.pipeline == "audioldm":
        trained = plans["unet"]["sample_size"] * side * mels.HOP / mels.RATE
        frames = options.get("audio_length_in_s", trained) * mels.RATE / mels.HOP
        return math.ceil(frames / side), mels.MEL_BINS // side
    trained = plans["unet"]["sample_size"] * side
    picture = (
        int(options.get("height", trained)) // side,
        int(options.get("width", trained)) // side,
    )
    if "frames" in ADAPTERS[config.pipeline].lengths:
        return (int(options.get("num_frames", 16)), *picture)
    return picture


def drawing(config: DecoderConfig) -> int:
    """Of a pipeline: its UNet at two media, with guidance, or its autoencoder and vocoder at one, a frame at a time."""
    plans, places = blueprint(config), latents_of(config)
    if (rule := footprint(plans, config)) is not None:
        return rule.of(1)
    passes = 2 if config.guidance > 1 else 1
    return max(_denoised(plans["unet"], passes * math.prod(places)), _decoded(config))


def _denoised(unet: dict, places: int) -> int:
    """Of a UNet's pass over so many places; each level of it has a quarter of the places of the one above."""
    kind = unet["_class_name"]
    levels = []
    for level, width in enumerate(unet["block_out_channels"]):
        attends = unet["down_block_types"][level].startswith("CrossAttn")
        maps = (_WITH_ATTENTION if attends else _WITHOUT)[kind]
        levels.append(maps * width * places // 4**level)
    return max(levels) * ACTIVE


def _decoded(config: DecoderConfig) -> int:
    plans, places = blueprint(config), latents_of(config)
    pixels = math.prod(places[-2:]) * factor(plans) ** 2
    frame = _VAE_MAPS * plans["vae"]["block_out_channels"][0] * pixels * ACTIVE
    clip = 0
    if len(places) == 3:  # all frames, their copy in a row, and that in float32
        clip = 3 * places[0] * pixels * (2 * ACTIVE + 4)
    return frame + clip


def denoising_kept(config: DecoderConfig, checkpointing: bool) -> int:
    """Of what a UNet, or a transformer's layers, keep of one medium for the gradient."""
    plans, places = blueprint(config), math.prod(latents_of(config))
    if "transformer" in plans:
        plan = plans["transformer"]
        width = plan["num_attention_heads"] * plan["attention_head_dim"]
        inner = plan.get("ffn_dim") or round(2 * plan.get("mlp_ratio", 4) * width)
        tokens = places // int(np.prod(plan.get("patch_size") or 1))  # a side, or one for each
        layer = tokens * (14 * width + 3 * inner)
        inputs = tokens * width * plan["num_layers"]
        return (layer + inputs if checkpointing else layer * plan["num_layers"]) * ACTIVE
    maps = _TRAINED_TWICE if checkpointing else _TRAINED_MAPS
    return places * plans["unet"]["block_out_channels"][0] * maps * ACTIVE


def _look(config: ImageBindConfig, kind: str) -> int:
    """Bytes that a medium takes in ImageBind: all its clips and crops in one block."""
    width = config.senses()[SENSE_OF_KIND[kind]].width
    return LIVE_WIDTHS * tokens_of(config, kind) * width * ACTIVE


def media_at_once(config: ImageBindConfig, kind: str) -> int:
    """How many media of a kind features are computed of at once: a batch, or what `AT_ONCE_BYTES` hold."""
    return max(1, min(BATCH, AT_ONCE_BYTES // _look(config, kind)))


def looking(config: ImageBindConfig, kind: str, count: int) -> int:
    """Of ImageBind at `count` media of a kind."""
    return count * _look(config, kind)


def caption_positions(config: DecoderConfig) -> int:
    """Tokens of a caption, padding and instructions and all; a pooled condition is read from as many as the longest caption has."""
    pooled = len(config.condition) == 1
    packed = config.pipeline == "stable-diffusion-xl"
    own = POSITIONS if pooled else config.condition[0] - packed
    return own + ADAPTERS[config.pipeline].instruction


def captions_read(config: DecoderConfig) -> int:
    """Of a decoder's text encoders, weights and all, at a batch of captions."""
    encoders = [plan for name, plan in blueprint(config).items() if name.startswith("text_encoder")]
    weights = sum(_numbers(plan) for plan in encoders)
    rows = CAPTION_BATCH * caption_positions(config)
    return (weights + rows * max(map(_live, encoders))) * ACTIVE


def _sizes(plan: dict) -> tuple[int, int, int]:
    """(width, width of the inner layer, how many matrices lie between these two) of a text encoder."""
    gated = plan.get("feed_forward_proj", "").startswith("gated") or plan["model_type"] == "gemma2"
    names = ("d_model", "d_ff") if "d_model" in plan else ("hidden_size", "intermediate_size")
    return plan[names[0]], plan[names[1]], 3 if gated else 2


def _live(plan: dict) -> int:
    """Numbers that a text encoder holds of a token while it works."""
    width, inner, matrices = _sizes(plan)
    if plan["model_type"] in ("t5", "umt5", "gemma2"):
        return 4 * width + (4 if matrices == 3 else 2) * inner
    return _TEXT_WIDTHS[plan.get("hidden_act", "quick_gelu")] * width


def _numbers(plan: dict) -> int:
    """Numbers in a text encoder."""
    width, inner, matrices = _sizes(plan)
    layers = plan["num_layers"] if "num_layers" in plan else plan["num_hidden_layers"]
    rows = plan["vocab_size"]
    if plan["model_type"] in ("t5", "umt5", "gemma2"):
        heads = plan.get("num_heads") or plan["num_attention_heads"]
        read = plan.get("num_key_value_heads", heads)
        size = plan.get("d_kv") or plan["head_dim"]
        return rows * width + layers * width * (2 * (heads + read) * size + matrices * inner)
    rows += plan.get("max_position_embeddings", POSITIONS)
    layer = 4 * width * (width + 1) + matrices * width * inner + inner + 5 * width
    return rows * width + layers * layer


def layer_kept(config: PretrainedConfig, adapted: int) -> int:
    """Bytes a token that a layer of the language model keeps for the gradient, `adapted` of its matrices with LoRA."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return (4 * inner + 4 * hidden) * ACTIVE + adapted * hidden * 5


def prompt_read(config: PretrainedConfig, tokens: int) -> int:
    """Of a prompt read at once: a layer's MLP, and its largest matrix unpacked."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return (tokens * (3 * inner + 4 * hidden) + hidden * inner) * ACTIVE
