"""What media of the transformers' pipelines take of a card beside weights: rules for the fullest moment, from configurations alone.

A map is one number for every place of the latents and channel of a width. How many are alive at once was counted by going through
the pipelines' own code on shapes at full size (`memory.frozen_rehearsal`); tests hold the rules to it. UNets have rules of their
own, in `pipelines` and `memory.activations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anytoany_lib.config import DecoderConfig

Plans = Mapping[str, Mapping[str, Any]]
"""The configuration of each part of a pipeline, by its folder's name."""
_HALF, _FLOAT = 2, 4  # bytes
# Bytes of an autoencoder's maps: above that, one medium after the other costs no time.
_TOGETHER = 2**26
_WAN_SIZE = {"num_frames": 81, "height": 480, "width": 832}  # where the profile names none
_SANA_SIDE = 1024


@dataclass(frozen=True)
class Footprint:
    """Of one medium: `places` of its latents, (T, h, w), (h, w) or (N,), what the autoencoder makes of them, (T, H, W), (H, W) or
    samples, and bytes at the fullest moment.

    `denoising` is of all passes that are computed at once, `decoding` of one of the `pieces` that the autoencoder takes a medium
    in, its frames or all of it, `kept` of each medium that is decoded.
    """

    places: tuple[int, ...]
    size: tuple[int, ...]
    denoising: int
    decoding: int
    kept: int
    pieces: int = 1

    def sliced(self, media: int) -> bool:
        """Whether the pieces of so many media are decoded one after the other, for the memory; small ones go together."""
        return media * self.pieces * self.decoding > _TOGETHER

    def of(self, media: int) -> int:
        """Bytes of so many media, which are denoised together."""
        at_once = 1 if self.sliced(media) else media * self.pieces
        return max(media * self.denoising, at_once * self.decoding + media * self.kept)


def _width(transformer: Mapping[str, Any]) -> int:
    return transformer["num_attention_heads"] * transformer["attention_head_dim"]


def _wan(plans: Plans, config: DecoderConfig) -> Footprint:
    """Guidance takes one pass after the other. The autoencoder decodes four frames at a time, in float32,
    and keeps what the next ones need."""
    transformer, vae = plans["transformer"], plans["vae"]
    frames, height, width = (int(config.options.get(n, d)) for n, d in _WAN_SIZE.items())
    places = ((frames - 1) // 4 + 1, height // 8, width // 8)
    tokens = math.prod(places) // math.prod(transformer["patch_size"])
    denoising = tokens * (4 * _width(transformer) + 2 * transformer["ffn_dim"]) * _HALF
    pixels = height * width
    decoding = pixels * 51 * vae["base_dim"] * _FLOAT
    kept = frames * pixels * 3 * _FLOAT
    return Footprint(places, (frames, height, width), denoising, decoding, kept)


def _stable_audio(plans: Plans, config: DecoderConfig) -> Footprint:
    """However short a sound is asked for, the longest is made. With guidance two passes are computed at once."""
    transformer, vae = plans["transformer"], plans["vae"]
    places, passes = int(transformer["sample_size"]), 2 if config.guidance > 1 else 1
    denoising = passes * places * 20 * _width(transformer) * _HALF
    samples = places * math.prod(vae["downsampling_ratios"])
    decoding = samples * 19 * vae["decoder_channels"] // 4 * _HALF
    return Footprint((places,), (samples,), denoising, decoding, samples * 2 * (_HALF + _FLOAT))


def _sana(plans: Plans, config: DecoderConfig) -> Footprint:
    transformer, vae = plans["transformer"], plans["vae"]
    sides = [int(config.options.get(side, _SANA_SIDE)) for side in ("height", "width")]
    scale = 2 ** (len(vae["encoder_block_out_channels"]) - 1)
    places, pixels = (sides[0] // scale, sides[1] // scale), math.prod(sides)
    maps = round(5 + 4 * transformer["mlp_ratio"])
    denoising = math.prod(places) * maps * _width(transformer) * _HALF
    decoding = pixels * 13 * vae["decoder_block_out_channels"][0] // 2 * _HALF
    return Footprint(places, (sides[0], sides[1]), denoising, decoding, pixels * 3 * 2 * _FLOAT)


_OF: dict[str, Callable[[Plans, DecoderConfig], Footprint]] = {
    "wan": _wan,
    "stable-audio": _stable_audio,
    "sana-sprint": _sana,
}


def footprint(plans: Plans, config: DecoderConfig) -> Footprint | None:
    """What a medium of a decoder takes, its parts configured as `plans` say; None of a UNet's pipeline."""
    rule = _OF.get(config.pipeline)
    return rule and rule(plans, config)
