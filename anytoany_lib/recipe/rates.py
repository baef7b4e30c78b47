"""How fast a card is planned to be: operations of each work by the models' shapes, and what cards do in a second.

Of a card its data sheet says what it multiplies and reads at most; `UTILISATION` of that is taken. What steps take beyond
multiplying and unpacking was measured (`LAUNCHING`). bench/scale.py plans with the same rules, and says how far to believe them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from anytoany_lib.config import DecoderConfig, Profile
from anytoany_lib.encoders.imagebind_inputs import HUGE, SenseConfig
from anytoany_lib.memory import planning
from anytoany_lib.memory.activations import caption_positions
from anytoany_lib.memory.blueprints import blueprint
from anytoany_lib.messages import Vocabulary

UTILISATION = 0.4  # of a card's peak while it multiplies; see bench/scale.py
# Seconds of a batch beside multiplying and unpacking, by stage: one H100, nextgpt-7b, `make gpu-check` (bench/results).
LAUNCHING = {1: 0.265, 2: 0.248, 3: 0.385}
# Seconds in which each of 16 conversations gets a token, LoRA on: measured on the same card.
TOKEN_OF_16 = 0.092
# Of a picture of 384 pixels in patches of 16, of eight such frames, of 30 s in Whisper: what other encoders than ImageBind read.
_POSITIONS = {"image": 576, "video": 8 * 576, "audio": 1500}


@dataclass(frozen=True)
class Card:
    """A card by its data sheet: dense bf16 operations, memory and link to its neighbours (one way), all a second."""

    name: str
    operations: float
    memory: float
    link: float = 0.0


# Dense bf16 with float32 sums, and memory, by the makers' data sheets.
CARDS = {
    "rtx-3090": Card("RTX 3090", 71e12, 936e9),
    "rtx-4090": Card("RTX 4090", 165e12, 1008e9),
    "l4": Card("L4", 121e12, 300e9),
    "a10": Card("A10", 125e12, 600e9),
}


@dataclass(frozen=True)
class Sizes:
    """Numbers in the parts of a profile: `matrices` of the layers, `head`, `lora`, what each stage trains."""

    matrices: int
    head: int
    lora: int
    trained: dict[int, int]


def sizes(profile: Profile) -> Sizes:
    """Of a profile, by its language model's configuration and the memory plan."""
    return _sizes(profile.model_dump_json())


@cache
def _sizes(settings: str) -> Sizes:
    profile = Profile.model_validate_json(settings)
    config = planning.llm_config(profile)
    heads, hidden = config.num_attention_heads, config.hidden_size
    width = getattr(config, "head_dim", None) or hidden // heads
    attention = 2 * hidden * width * (heads + (config.num_key_value_heads or heads))
    layer = attention + 3 * hidden * config.intermediate_size
    plan = planning.plan_memory(profile)
    trained = {stage: plan[f"stage {stage}"]["gradients"] // 4 for stage in profile.stages}
    rows = len(Vocabulary.of(0, profile).names) * hidden * (1 if config.tie_word_embeddings else 2)
    lora = trained[3] - trained[1] - trained[2] + rows
    return Sizes(config.num_hidden_layers * layer, config.vocab_size * hidden, lora, trained)


def operations(profile: Profile, stage: int, every: float, learnt: float) -> float:
    """Of a training step's tokens, `learnt` of which are learnt: of every matrix twice its numbers forward, as many backward
    (weights stand still, activations do not), and forward again where activations are not kept; of the head for learnt tokens.
    """
    there, times = sizes(profile), passes(profile, stage)
    adapters = 2 * (times + 1) * there.lora if stage == 3 else 0
    return every * (2 * times * there.matrices + adapters) + learnt * 4 * there.head


def passes(profile: Profile, stage: int) -> int:
    """How often the layers are gone through in a step, forward or backward."""
    return 3 if profile.stages[stage].checkpointing else 2


def unpacking(profile: Profile, stage: int, card: Card) -> float:
    """Seconds a batch: every pass reads packed weights, writes them unpacked, and reads those."""
    unpacked = sizes(profile).matrices * (planning.NF4_BYTES + 2 * 2)
    return passes(profile, stage) * unpacked / card.memory


def seconds(profile: Profile, stage: int, card: Card, every: float, learnt: float) -> float:
    """Of a batch of so many tokens."""
    multiplying = operations(profile, stage, every, learnt) / (card.operations * UTILISATION)
    return multiplying + unpacking(profile, stage, card) + LAUNCHING[stage]


def blocks(width: int, layers: int, positions: int) -> float:
    """Operations of a transformer's forward pass: its matrices, and attention."""
    return layers * (24 * width**2 * positions + 4 * positions**2 * width)


def imagebind_operations(kind: str) -> float:
    """Operations of ImageBind-huge for a medium: all its clips and crops."""

    def sense(config: SenseConfig, positions: int) -> float:
        return blocks(config.width, config.blocks, positions)

    if kind == "audio":
        bins, frames = (
            (n - HUGE.audio_patch) // HUGE.audio_stride + 1
            for n in (HUGE.mel_bins, HUGE.mel_frames)
        )
        return HUGE.audio_clips * sense(HUGE.audio, bins * frames + 1)
    looks = HUGE.video_clips * HUGE.video_crops if kind == "video" else 1
    return looks * sense(HUGE.vision, (HUGE.image_size // HUGE.vision_patch) ** 2 + 1)


def caption_operations(config: DecoderConfig) -> float:
    """Operations of a decoder's text encoders for a caption, padding and all."""
    encoders = [plan for part, plan in blueprint(config).items() if part.startswith("text_encoder")]
    return sum(_reading(plan, caption_positions(config)) for plan in encoders)


def _reading(plan: Mapping[str, Any], positions: int) -> float:
    """Operations of a text encoder: its matrices, of which gated layers have a third behind their attention, and attention."""
    width = plan.get("hidden_size") or plan["d_model"]
    layers = plan.get("num_hidden_layers") or plan["num_layers"]
    inner = plan.get("intermediate_size") or plan["d_ff"]
    gated = "gated" in plan.get("feed_forward_proj", "") or plan["model_type"].startswith("gemma")
    matrices = 4 * width**2 + (3 if gated else 2) * width * inner
    return float(layers * (2 * matrices * positions + 4 * positions**2 * width))


def looking_operations(profile: Profile, kind: str) -> float:
    """Operations of a profile's encoder for a medium; of one that is not ImageBind, two for each of its numbers and positions."""
    encoder = profile.encoder
    if encoder.model == "imagebind":
        return imagebind_operations(kind)
    source = encoder.audio_source if kind == "audio" and encoder.audio_source else encoder.source
    numbers = ((source and source.million_parameters) or 0) * 1e6
    return 2 * numbers * _POSITIONS[kind]


def embedding_numbers(profile: Profile) -> int:
    """Numbers that are kept of a medium."""
    return math.prod(profile.encoder.shape)
