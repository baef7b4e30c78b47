"""What models hold while they work, beside their weights: rules for the fullest moment, in bytes, from shapes alone.

Every rule counts maps: a map is one number for every place (of a picture, a clip's latents, a row of tokens) and channel. The
numbers of maps were found by going through the models' own code on the meta device (`rehearsal`), at full size and at the tiny
one; tests hold the rules to it.
"""

from __future__ import annotations

import math

from transformers import PretrainedConfig

from anytoany_lib.config import DecoderConfig
from anytoany_lib.decoders import mels
from anytoany_lib.encoders.imagebind import AT_ONCE_BYTES, LIVE_WIDTHS
from anytoany_lib.encoders.imagebind_inputs import SENSE_OF_KIND, ImageBindConfig, tokens_of
from anytoany_lib.features.cache import BATCH, CAPTION_BATCH
from anytoany_lib.memory.blueprints import blueprint, factor

ACTIVE = 2  # bytes of an activation, and of a weight that is not quantised
POSITIONS = 77  # of a caption; AudioLDM would read up to 512, and captions are shorter
_WITH_ATTENTION = {"UNet2DConditionModel": 26, "UNet3DConditionModel": 33}
_WITHOUT = {"UNet2DConditionModel": 16, "UNet3DConditionModel": 20}
_TEXT_WIDTHS = {"quick_gelu": 16, "gelu": 12}
_VAE_MAPS = 6
_VOCODER_MAPS = 5
_TRAINED_MAPS = 750  # of a UNet's first width, that it keeps for the gradient
_TRAINED_TWICE = 60  # and with checkpointing


def latents_of(config: DecoderConfig) -> tuple[int, ...]:
    """Places of a medium's latents: (h, w), of a clip (T, h, w)."""
    plans, options = blueprint(config), config.options
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
    if config.pipeline == "text-to-video":
        return (int(options.get("num_frames", 16)), *picture)
    return picture


def drawing(config: DecoderConfig) -> int:
    """Of a pipeline with guidance: its UNet at two media, or its autoencoder and vocoder at one, a frame at a time."""
    plans, places = blueprint(config), latents_of(config)
    return max(_denoised(plans["unet"], 2 * math.prod(places)), _decoded(config))


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
    """Of what a UNet keeps of one medium for the gradient."""
    width = blueprint(config)["unet"]["block_out_channels"][0]
    maps = _TRAINED_TWICE if checkpointing else _TRAINED_MAPS
    return math.prod(latents_of(config)) * width * maps * ACTIVE


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
    """Tokens of a caption, padding and all; a pooled condition is read from as many as the longest caption has."""
    pooled = len(config.condition) == 1
    return POSITIONS if pooled else config.condition[0] - (config.pipeline == "stable-diffusion-xl")


def captions_read(config: DecoderConfig) -> int:
    """Of a decoder's text encoders, weights and all, at a batch of captions."""
    encoders = [plan for name, plan in blueprint(config).items() if name.startswith("text_encoder")]
    weights = sum(_transformer(plan) for plan in encoders)
    rows = CAPTION_BATCH * caption_positions(config)
    widest = max(
        _TEXT_WIDTHS[plan.get("hidden_act", "quick_gelu")] * plan["hidden_size"]
        for plan in encoders
    )
    return (weights + rows * widest) * ACTIVE


def _transformer(plan: dict) -> int:
    """Numbers in a text encoder."""
    width, inner = plan["hidden_size"], plan["intermediate_size"]
    rows = plan["vocab_size"] + plan.get("max_position_embeddings", POSITIONS)
    layer = 4 * width * (width + 1) + 2 * width * inner + inner + 5 * width
    return rows * width + plan["num_hidden_layers"] * layer


def layer_kept(config: PretrainedConfig, adapted: int) -> int:
    """Bytes a token that a layer of the language model keeps for the gradient, `adapted` of its matrices with LoRA."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return (4 * inner + 4 * hidden) * ACTIVE + adapted * hidden * 5


def prompt_read(config: PretrainedConfig, tokens: int) -> int:
    """Of a prompt read at once: a layer's MLP, and its largest matrix unpacked."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return (tokens * (3 * inner + 4 * hidden) + hidden * inner) * ACTIVE
