"""How much device memory a profile takes, part by part and phase by phase, before anything is loaded.

    anytoany memory --profile P [--gigabytes 16]

Weights are counted on the meta device, exactly. What is alive while they work follows from shapes by the rules below, each found on
shapes alone (`rehearsal`); tests repeat it for every profile. `run.json` has what a training took, docs/memory.md what a card did.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from anytoany_lib.config import DecoderConfig, FitConfig, Profile, StageConfig, resolve
from anytoany_lib.decoders.adapters import ADAPTERS
from anytoany_lib.encoders.frozen import AT_ONCE_BYTES
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import HUGE, SENSE_OF_KIND, ImageBindConfig
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.losses.words import at_once as positions_at_once
from anytoany_lib.memory.activations import (
    ACTIVE,
    captions_read,
    denoising_kept,
    drawing,
    layer_kept,
    looking,
    media_at_once,
    prompt_read,
)
from anytoany_lib.memory.blueprints import PARTS
from anytoany_lib.messages import Vocabulary
from anytoany_lib.projections import OutputProjection
from anytoany_lib.sequence_projections import input_projection_of
from anytoany_lib.system import terminal
from anytoany_lib.training.fitting import CAPTIONS_FITTED

Plan = dict[str, dict[str, int]]
# Half a byte, a byte for each block of 64, and four for 256 of those (double quantisation).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Of context and libraries at most, the first products done, on an H100 that others may have used too.
CUDA = 720 * 10**6
_STATES = 7  # widths of a token beside its logits, as the rehearsal finds them
_COUNTED: dict[tuple[Any, ...], tuple[dict[str, int], int]] = {}


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
    """Bytes of the frozen language model, and the number of its LoRA parameters; counted once for each of its kind."""
    lora = profile.lora
    key = (config.to_json_string(), profile.llm.quantization, lora.rank, tuple(lora.targets))
    if key not in _COUNTED:
        _COUNTED[key] = _count(profile, config)
    return _COUNTED[key]


def _count(profile: Profile, config: PretrainedConfig) -> tuple[dict[str, int], int]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    layers = [m for m in model.get_decoder().modules() if isinstance(m, nn.Linear)]
    in_layers = sum(module.weight.numel() for module in layers)
    in_tables = sum(p.numel() for p in model.parameters() if id(p) in tables)
    bytes_each = NF4_BYTES if profile.llm.quantization == "nf4" else ACTIVE
    rest = sum(p.numel() for p in model.parameters()) - in_layers - in_tables
    targets = tuple(f".{name}" for name in profile.lora.targets)
    lora = sum(
        profile.lora.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(targets)
    )
    sizes = {
        "language model": round(in_layers * bytes_each) + rest * ACTIVE,
        "embedding and head": in_tables * ACTIVE,
    }
    return sizes, lora


def llm_parameters(profile: Profile) -> int:
    """How many numbers a language model has, its embedding and head included."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llm_config(profile), trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def weights(profile: Profile) -> dict[str, int]:
    """Bytes of those that lie in host memory while they are not at work: the encoder, and each kind's decoder."""
    return {"encoder": _encoder(profile)} | {k: _decoder(d) for k, d in profile.decoders.items()}


def _trainable(profile: Profile, config: PretrainedConfig, lora: int) -> dict[str, int]:
    """Parameters of every part that some stage trains."""
    hidden = config.hidden_size
    with torch.device("meta"):
        reading = input_projection_of(profile, hidden)
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


def _activations(
    profile: Profile, stage: StageConfig, config: PretrainedConfig, tokens: int
) -> int:
    """Bytes that a step keeps for its backward pass if all of its tokens are learnt, logits of a chunk of them included."""
    numbers = stage.batch_size * tokens
    rank = profile.lora.rank if "lora" in stage.learning_rates else 0
    layer = layer_kept(config, rank and len(profile.lora.targets))
    layers = config.num_hidden_layers
    largest = config.hidden_size * config.intermediate_size * ACTIVE  # one matrix, dequantised
    # In float32, as many as are there at once: themselves, normalised, their gradient.
    together = positions_at_once(config.vocab_size)
    logits = 3 * min(numbers, together) * config.vocab_size * 4
    # Beside them the states that they come from, as the last norm computed and gave them and as they are chosen, and their gradient.
    logits += _STATES * numbers * config.hidden_size * ACTIVE
    if not stage.checkpointing:
        return numbers * layers * layer + max(largest, logits)
    # A layer is computed again when the logits are gone.
    return numbers * layers * config.hidden_size * ACTIVE + max(numbers * layer + largest, logits)


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
    """Bytes of a pipeline's parts that make media, without the safety checker."""
    folder, adapter = resolve(config.folder), ADAPTERS[config.pipeline]
    if not folder.is_dir():
        return round(((config.source and config.source.million_parameters) or 0) * 1e6) * ACTIVE
    parts = [part for part in PARTS if adapter.reads_captions or not part.startswith("text")]
    size = sum(_weights_on_disk(folder / part) * ACTIVE for part in parts)
    size += sum(_weights_on_disk(folder / part) * (4 - ACTIVE) for part in adapter.whole_parts)
    if (
        config.pipeline == "animatediff" and config.added
    ):  # LoRA matrices are added up with the weights
        file = resolve(config.added.file)
        size += (_weights_on_disk(file) if file.is_dir() else _weights_in(file)) * ACTIVE
    return size


def _denoising(profile: Profile, stage: StageConfig) -> dict[str, int]:
    """Bytes of the UNets or transformers that a stage's denoising term goes through, and of what they keep if a batch is of one kind.

    One that is not on disk counts as much as its whole pipeline.
    """
    weights = 0
    for config in profile.decoders.values():
        unet = resolve(config.folder) / ADAPTERS[config.pipeline].network
        weights += _weights_on_disk(unet) * ACTIVE if unet.is_dir() else _decoder(config)
    kept = max(denoising_kept(d, stage.checkpointing) for d in profile.decoders.values())
    return {"denoising UNets": weights, "denoising activations": stage.batch_size * kept}


def encoder_config(profile: Profile) -> ImageBindConfig:
    """The shapes of an ImageBind: its own if it is on disk as a folder, else the published ones. ValueError if it is none."""
    if profile.encoder.model != "imagebind":
        raise ValueError(
            f"the encoder {profile.encoder.model} is not rehearsed, ImageBind alone is"
        )
    file = resolve(profile.encoder.folder) / "config.json"
    if file.is_file():
        return ImageBindConfig.model_validate_json(file.read_text(encoding="utf-8"))
    return HUGE


def _encoder(profile: Profile) -> int:
    """Bytes of the encoder's weights; of one that is not ImageBind, those on disk or as many as its sources say."""
    encoder = profile.encoder
    if encoder.model == "imagebind":
        with torch.device("meta"):
            model = ImageBind(encoder_config(profile))
        model.keep_senses({SENSE_OF_KIND[kind] for kind in encoder.kinds})
        return sum(p.numel() for p in model.parameters()) * ACTIVE
    places = ((encoder.folder, encoder.source), (encoder.audio_folder, encoder.audio_source))
    count = 0.0
    for folder, source in places:
        if folder and resolve(folder).is_dir():
            count += _weights_on_disk(resolve(folder))
        else:
            count += ((source and source.million_parameters) or 0) * 1e6
    return round(count) * ACTIVE


def _looking(profile: Profile, kinds: tuple[str, ...], batch: bool) -> int:
    """Bytes of the encoder at work on one medium of the most costly kind, or a batch; of one that is not ImageBind, its bound."""
    if profile.encoder.model != "imagebind":
        return AT_ONCE_BYTES
    config = encoder_config(profile)
    return max(looking(config, k, media_at_once(config, k) if batch else 1) for k in kinds)


def _features(profile: Profile) -> dict[str, int]:
    """Of those that features are computed with, one after the other."""
    return {
        "encoder": _encoder(profile) + _looking(profile, profile.encoder.kinds, batch=True),
        **{f"{kind} captions": captions_read(d) for kind, d in profile.decoders.items()},
    }


def fits(profile: Profile, number: int) -> dict[str, FitConfig | None]:
    """The fits of a stage: "words" (of the input projection), "before", "after" (of the output projections)."""
    stage = profile.stages[number]
    of_stage: dict[str, FitConfig | None] = {}
    first = number == min(profile.stages)
    linear = profile.input_projection.kind == "linear"
    if "input_projection" in stage.learning_rates and first and linear:
        of_stage["words"] = None
    if "output_projections" in stage.learning_rates:
        earlier = [s for n, s in profile.stages.items() if n < number]
        new = not any("output_projections" in s.learning_rates for s in earlier)
        if stage.fit_before.steps or (new and profile.projection.standardise):
            of_stage["before"] = stage.fit_before
        if stage.fit_after.steps:
            of_stage["after"] = stage.fit_after
    return of_stage


def _fit(
    profile: Profile, config: PretrainedConfig, fit: FitConfig | None, largest: int
) -> dict[str, int]:
    """Of a fit beside the model; `largest` is the number of parameters of the largest output projection.

    What output projections are fitted to stays on the host.
    """
    hidden, encoder = config.hidden_size, profile.encoder
    if fit is None:
        words = CAPTIONS_FITTED * encoder.soft_tokens * hidden
        # Words in float32; in float64 once more, and their difference from the mean.
        return {"fit": 20 * words}
    # Its gradient and its moments, the hidden states of a batch in float32, and what its decoding layers keep of one.
    decoders, projection = profile.decoders.values(), profile.projection
    signals = max(decoder.signals for decoder in decoders)
    positions = max(
        decoder.condition[0] if len(decoder.condition) == 2 else 1 for decoder in decoders
    )
    widths = projection.layers * (19 * projection.width + 4 * projection.feed_forward)
    states = 4 * fit.batch_size * (4 * signals * hidden + positions * widths)
    return {"fit": (12 * largest) * bool(fit.steps) + states}


def plan_memory(profile: Profile, tokens: int = 128) -> Plan:
    """Bytes of every part in every phase: features, the stages at their batch of `tokens` tokens a row, their fits, a chat.

    Some parts take turns (`turns`); only those at work have to be on the card.
    """
    config = llm_config(profile)
    frozen, lora = _language_model(profile, config)
    parts = _trainable(profile, config, lora)
    phases: Plan = {"features": {"CUDA": CUDA, **_features(profile)}}
    fitted: list[dict[str, int]] = []
    largest = parts["output_projections"] // max(1, len(profile.decoders))
    for number, stage in profile.stages.items():
        there = sum(n for name, n in parts.items() if name != "lora" or number == 3)
        trained = sum(parts[name] for name in stage.learning_rates)
        moments = (2 if stage.optimiser == "paged-adamw-8bit" else 8) * trained
        held = frozen | {"projections, rows and LoRA": 4 * there}
        phases[f"stage {number}"] = held | {
            "gradients": 4 * trained,
            "optimiser": moments,
            "activations": _activations(profile, stage, config, tokens),
            "CUDA": CUDA,
            **(_denoising(profile, stage) if stage.denoising_weight else {}),
        }
        for when, fit in fits(profile, number).items():
            kept = {"optimiser": moments} if when == "after" else {}
            fitted.append(held | kept | _fit(profile, config, fit, largest) | {"CUDA": CUDA})
    if fitted:
        phases["fits"] = max(fitted, key=peak)
    phases["chat"] = frozen | {
        "projections, rows and LoRA": 4 * sum(parts.values()),
        "key-value cache": _cached(profile, config),
        "CUDA": CUDA,
        "prompt": prompt_read(config, profile.llm.context),
        "encoder": _encoder(profile) + _looking(profile, ("video",), batch=False),
        **{f"{k} decoder": _decoder(d) + drawing(d) for k, d in profile.decoders.items()},
    }
    return phases


def _cached(profile: Profile, config: PretrainedConfig) -> int:
    """Bytes of the keys and values of a conversation as long as it may be."""
    heads = config.num_key_value_heads or config.num_attention_heads
    width = heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return profile.llm.context * 2 * config.num_hidden_layers * width * ACTIVE


def turns(phase: dict[str, int]) -> dict[str, int]:
    """Those parts of a phase that are never on the card together."""
    ends = ("prompt", "encoder", " decoder", " captions")
    return {name: size for name, size in phase.items() if name.endswith(ends)}


def at_once(phase: dict[str, int], turn: str = "") -> int:
    """Bytes that are there while one of those that take turns is at work."""
    taking = turns(phase)
    return sum(phase.values()) - sum(taking.values()) + taking.get(turn, 0)


def peak(phase: dict[str, int]) -> int:
    """Bytes that have to be there at once: of the models that take turns, the largest."""
    return max(at_once(phase, turn) for turn in turns(phase) or [""])


def advice(profile: Profile, phases: Plan, card: int) -> list[str]:
    """What to change where a phase does not fit a card of so many bytes; empty if all fit."""
    return [
        f"{name} takes {peak(phase) / 2**30:.1f} GiB, the card has {card / 2**30:.1f}: "
        f"try {', then '.join(_changes(profile, name))}"
        for name, phase in phases.items()
        if peak(phase) > card
    ]


def _changes(profile: Profile, phase: str) -> list[str]:
    """What makes a phase smaller, what costs least first."""
    smaller = "a smaller language model"
    if phase == "features":
        return ["a smaller encoder, or features computed on another machine"]
    if phase == "fits":
        return ["fewer soft_tokens", "fit_after: {steps: 0}", smaller]
    if phase == "chat":
        return ["smaller media in the decoders' options", smaller]
    stage = profile.stages[int(phase[-1])]
    return [
        *(["denoising_weight: 0"] if stage.denoising_weight else []),
        *([] if stage.checkpointing else ["checkpointing: true"]),
        *([] if stage.optimiser != "adamw" else ["optimiser: paged-adamw-8bit"]),
        *([f"batch_size below {stage.batch_size}"] if stage.batch_size > 1 else []),
        smaller,
    ]


def phase_rows(phases: Plan) -> list[dict[str, Any]]:
    """One row for each part, one column for each phase, in GiB; the last row is what has to be there at once."""
    names = dict.fromkeys(name for phase in phases.values() for name in phase)
    rows = [
        {"part": name}
        | {k: f"{v[name] / 2**30:.2f}" if name in v else "" for k, v in phases.items()}
        for name in names
    ]
    at_once = {"part": "at once"} | {k: f"{peak(v) / 2**30:.2f}" for k, v in phases.items()}
    return [*rows, at_once]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: print the plan, and what to change for a card."""
    parser = terminal.parser(
        "memory", __doc__.splitlines()[0], "--profile nextgpt-7b --gigabytes 16"
    )
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--tokens", type=int, default=128, help="of a training row")
    parser.add_argument("--gigabytes", type=float, default=16, help="memory of the card")
    options = parser.parse_args(arguments)
    profile = Profile.load(options.profile)
    phases = plan_memory(profile, options.tokens)
    print(f"planned GiB\n{terminal.table(phase_rows(phases))}")
    lines = advice(profile, phases, round(options.gigabytes * 1e9))
    print("\n".join(lines) or f"all phases fit a card of {options.gigabytes:g} GB")
