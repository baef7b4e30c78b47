"""How much device memory a profile takes, part by part and phase by phase, before anything is loaded.

    python -m anytoany_lib.memory --profile P [--gigabytes 16]

Weights are counted on the meta device, exactly. Activations follow from shapes: for LLaMA-like layers with LoRA, what
autograd keeps was measured as 4 I + 4 H numbers a token and layer (I the width of the MLP, H of the hidden states).
What diffusion needs while it works is a rule of thumb, and so is what its UNets keep for a denoising term (counted for Stable
Diffusion 1.5 and ZeroScope on the meta device). All of it is a plan; `run.json` has what was measured.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from anytoany_lib import aligned, mels
from anytoany_lib.config import DecoderConfig, Profile, StageConfig, resolve
from anytoany_lib.foreign_code import LOCAL, without_code
from anytoany_lib.imagebind import HUGE, ImageBind
from anytoany_lib.messages import Vocabulary
from anytoany_lib.projections import InputProjection, OutputProjection

Plan = dict[str, dict[str, int]]
# Half a byte, a byte for each block of 64, and four for 256 of those (double quantisation).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
_CUDA = 400 * 2**20  # context and libraries
_KEPT = 4  # numbers a token and layer, in widths of the MLP and of the hidden states each
_UNET_WIDTH = 320
_MAPS = 8  # feature maps of the first width that a UNet holds at once
_VAE_WIDTH, _VAE_MAPS = 256, 6
_TRAINED_MAPS = 750  # the same, that a UNet keeps for the gradient
_TRAINED_TWICE = 60  # and with checkpointing
_ACTIVE = 2  # bytes of an activation and of a weight that is not quantised


def llm_config(profile: Profile) -> PretrainedConfig:
    """The language model's configuration: its own if it is on disk, else the profile's `llm.architecture`."""
    folder = resolve(profile.llm.folder)
    if (folder / "config.json").is_file():
        return AutoConfig.from_pretrained(without_code(folder), **LOCAL).get_text_config()
    if profile.llm.architecture is None:
        raise FileNotFoundError(
            f"nothing says how large the language model of {profile.name} is: fetch it with notebook 01, or give "
            "llm.architecture (model_type and sizes) in the profile"
        )
    return AutoConfig.for_model(**profile.llm.architecture)


def _language_model(profile: Profile, config: PretrainedConfig) -> tuple[dict[str, int], int]:
    """Bytes of the frozen language model, and the number of its LoRA parameters."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    layers = [m for m in model.get_decoder().modules() if isinstance(m, nn.Linear)]
    in_layers = sum(module.weight.numel() for module in layers)
    in_tables = sum(p.numel() for p in model.parameters() if id(p) in tables)
    bytes_each = NF4_BYTES if profile.llm.quantization == "nf4" else _ACTIVE
    rest = sum(p.numel() for p in model.parameters()) - in_layers - in_tables
    targets = tuple(f".{name}" for name in profile.lora.targets)
    lora = sum(
        profile.lora.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(targets)
    )
    sizes = {
        "language model": round(in_layers * bytes_each) + rest * _ACTIVE,
        "embedding and head": in_tables * _ACTIVE,
    }
    return sizes, lora


def _trainable(profile: Profile, config: PretrainedConfig, lora: int) -> dict[str, int]:
    """Parameters of every part that some stage trains."""
    hidden, encoder = config.hidden_size, profile.encoder
    with torch.device("meta"):
        reading = InputProjection(encoder.embedding, hidden, encoder.soft_tokens)
        writing = [
            OutputProjection(hidden, d.condition, profile.projection)
            for d in profile.decoders.values()
        ]
    rows = len(Vocabulary.of(0, profile).names) * hidden
    return {
        "input_projection": sum(p.numel() for p in reading.parameters()),
        "output_projections": sum(p.numel() for part in writing for p in part.parameters()),
        "token_rows": rows * (1 if config.tie_word_embeddings else 2),
        "lora": lora,
    }


def _activations(stage: StageConfig, config: PretrainedConfig, tokens: int) -> int:
    """Bytes that a step keeps for its backward pass, logits of all its tokens included."""
    numbers = stage.batch_size * tokens
    layer = _KEPT * (config.intermediate_size + config.hidden_size)
    layers = config.num_hidden_layers
    kept = layers * config.hidden_size + layer if stage.checkpointing else layers * layer
    largest = config.hidden_size * config.intermediate_size  # one matrix, dequantised
    logits = 3 * numbers * config.vocab_size * 4  # float32: themselves, normalised, their gradient
    return numbers * kept * _ACTIVE + largest * _ACTIVE + logits


def _weights_in(file: Path) -> int:
    """Numbers in a safetensors or PyTorch file, from its headers alone."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    state = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    return sum(tensor.numel() for tensor in state.values())


def _weights_on_disk(folder: Path) -> int:
    """Parameters of the models below a folder; where a model is there in both forms, those of the safetensors."""
    files = list(folder.glob("**/*.safetensors"))
    in_both = {file.parent for file in files}
    files += [file for file in folder.glob("**/*.bin") if file.parent not in in_both]
    return sum(_weights_in(file) for file in files)


def _decoder(config: DecoderConfig) -> int:
    folder = resolve(config.folder)
    if folder.is_dir():
        return _weights_on_disk(folder) * _ACTIVE
    return round(((config.source and config.source.million_parameters) or 0) * 1e6) * _ACTIVE


def _at_work(config: DecoderConfig) -> int:
    """Rule of thumb for a pipeline's activations, with guidance: the UNet's first maps, or the autoencoder's last."""
    side = config.options.get("height", 64) * config.options.get("width", 64)
    unet = 2 * _latent_places(config) * _UNET_WIDTH * _MAPS * _ACTIVE
    return int(max(unet, side * _VAE_WIDTH * _VAE_MAPS * _ACTIVE))


def _denoising(profile: Profile, stage: StageConfig) -> dict[str, int]:
    """Bytes of the UNets that a stage's denoising term goes through, and of what they keep if a batch is of one kind.

    A UNet that is not on disk counts as much as its whole pipeline.
    """
    weights, kept = 0, 0
    for config in profile.decoders.values():
        unet = resolve(config.folder) / "unet"
        weights += _weights_on_disk(unet) * _ACTIVE if unet.is_dir() else _decoder(config)
        kept = max(kept, _latent_places(config))
    maps = _TRAINED_TWICE if stage.checkpointing else _TRAINED_MAPS
    return {
        "denoising UNets": weights,
        "denoising activations": stage.batch_size * kept * _UNET_WIDTH * maps * _ACTIVE,
    }


def _latent_places(config: DecoderConfig) -> int:
    """Places of a medium's latents: an eighth of a picture's side, a quarter of a log-mel's."""
    if "audio_length_in_s" in config.options:
        return round(
            config.options["audio_length_in_s"] * mels.RATE / mels.HOP * mels.MEL_BINS / 16
        )
    side = config.options.get("height", 64) * config.options.get("width", 64)
    return int(config.options.get("num_frames", 1) * side // 64)


def _encoder(profile: Profile) -> int:
    folder = resolve(profile.encoder.folder)
    if folder.is_dir():
        return _weights_on_disk(folder) * _ACTIVE
    with torch.device("meta"):
        model = ImageBind(HUGE)
    model.keep_senses({"vision", "audio"})
    return sum(p.numel() for p in model.parameters()) * _ACTIVE


def plan(profile: Profile, tokens: int = 128) -> Plan:
    """Bytes of every part in every phase: the stages at their batch of `tokens` tokens a row, and a chat.

    In a chat the encoder and the decoders are listed one by one; only those at work have to be on the card.
    """
    config = llm_config(profile)
    frozen, lora = _language_model(profile, config)
    parts = _trainable(profile, config, lora)
    phases: Plan = {}
    for number, stage in profile.stages.items():
        there = sum(n for name, n in parts.items() if name != "lora" or number == 3)
        trained = sum(parts[name] for name in stage.learning_rates)
        moments = 2 if stage.optimiser == "paged-adamw-8bit" else 8
        phases[f"stage {number}"] = frozen | {
            "projections, rows and LoRA": 4 * there,
            "gradients": 4 * trained,
            "optimiser": moments * trained,
            "activations": _activations(stage, config, tokens),
            "CUDA": _CUDA,
            **(_denoising(profile, stage) if stage.denoising_weight else {}),
        }
    heads = config.num_key_value_heads or config.num_attention_heads
    width = heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    phases["chat"] = frozen | {
        "projections, rows and LoRA": 4 * sum(parts.values()),
        "key-value cache": profile.llm.context * 2 * config.num_hidden_layers * width * _ACTIVE,
        "CUDA": _CUDA,
        "encoder": _encoder(profile),
        **{f"{k} decoder": _decoder(d) + _at_work(d) for k, d in profile.decoders.items()},
    }
    return phases


def peak(phase: dict[str, int]) -> int:
    """Bytes that have to be there at once: of the models that take turns, the largest."""
    turns = [n for name, n in phase.items() if name == "encoder" or name.endswith(" decoder")]
    return sum(phase.values()) - sum(turns) + max(turns, default=0)


def advice(profile: Profile, phases: Plan, card: int) -> list[str]:
    """What to change where a phase does not fit a card of so many bytes; empty if all fit."""
    lines = []
    for name, phase in phases.items():
        if peak(phase) <= card:
            continue
        changes = ["a smaller language model"]
        if name == "chat":
            changes = ["smaller media in the decoders' options", *changes]
        else:
            stage = profile.stages[int(name[-1])]
            changes = [
                *(["denoising_weight: 0"] if stage.denoising_weight else []),
                *([] if stage.checkpointing else ["checkpointing: true"]),
                *([] if stage.optimiser != "adamw" else ["optimiser: paged-adamw-8bit"]),
                *([f"batch_size below {stage.batch_size}"] if stage.batch_size > 1 else []),
                *changes,
            ]
        lines.append(
            f"{name} takes {peak(phase) / 2**30:.1f} GiB, the card has {card / 2**30:.1f}: "
            f"try {', then '.join(changes)}"
        )
    return lines


def table(phases: Plan) -> list[dict[str, Any]]:
    """One row for each part, one column for each phase, in GiB; the last row is what has to be there at once."""
    names = dict.fromkeys(name for phase in phases.values() for name in phase)
    rows = [
        {"part": name}
        | {k: f"{v[name] / 2**30:.2f}" if name in v else "" for k, v in phases.items()}
        for name in names
    ]
    at_once = {"part": "at once"} | {k: f"{peak(v) / 2**30:.2f}" for k, v in phases.items()}
    return [*rows, at_once]


def main() -> None:
    """Command line: print the plan, and what to change for a card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--tokens", type=int, default=128, help="of a training row")
    parser.add_argument("--gigabytes", type=float, default=16, help="memory of the card")
    options = parser.parse_args()
    profile = Profile.load(options.profile)
    phases = plan(profile, options.tokens)
    print(f"planned GiB\n{aligned.table(table(phases))}")
    lines = advice(profile, phases, round(options.gigabytes * 1e9))
    print("\n".join(lines) or f"all phases fit a card of {options.gigabytes:g} GB")


if __name__ == "__main__":
    main()
