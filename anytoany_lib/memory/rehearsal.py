"""Every phase of a profile gone through on shapes alone, at full size, for the peak of what would be alive on a card.

    anytoany rehearse --profile P

The plan (`memory`) is arithmetic; this runs the code that it plans for: PyTorch's meta device stands for the card, bitsandbytes'
own 4-bit layers and autograd for themselves (see `live_storages`). It takes about a minute a profile and no memory to speak of.
Needs no weights: what is not on disk is built from the configuration that the profile or `blueprints` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from bitsandbytes.functional import create_dynamic_map, name2qmap
from bitsandbytes.nn import Linear4bit
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from anytoany_lib.batches import Batch
from anytoany_lib.config import Profile, StageConfig
from anytoany_lib.memory import planning
from anytoany_lib.memory.frozen_rehearsal import (
    HALF,
    META,
    drawing_peak,
    features_peaks,
    looking_peak,
    rehearsing,
)
from anytoany_lib.messages import MARK
from anytoany_lib.model import AnyToAny
from anytoany_lib.projections import InputProjection
from anytoany_lib.system import terminal
from anytoany_lib.train import total_loss
from anytoany_lib.training.fitting import CAPTIONS_FITTED, collect_states, fit_output_projections
from anytoany_lib.training.setup import trained_parts

_LOOKED_AT = 256  # states of a kind, when a fit has ended
Peaks = dict[str, dict[str, int]]


# --- the language model and its bridges ---


def _words(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows bytes and a chat template's marks: what is said does not matter here."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = sorted(set(MARK.findall(template)) - {"<s>", "</s>", "<pad>"})
    names = ["<s>", "</s>", "<pad>", *marks, *alphabet]
    tokenizer = Tokenizer(models.BPE({name: n for n, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _in_four_bits(model: PreTrainedModel) -> None:
    """Puts 4-bit layers in the place of the linear ones, as loading does: all but the head."""
    for name, layer in list(model.get_decoder().named_modules()):
        if isinstance(layer, nn.Linear):
            packed = Linear4bit(
                layer.in_features,
                layer.out_features,
                layer.bias is not None,
                compute_dtype=HALF,
                quant_type="nf4",
                device="meta",
            )
            packed.weight.data = packed.weight.data.to(HALF)
            packed.weight._quantize(META)
            model.get_decoder().set_submodule(name, packed)


def model_on_shapes(profile: Profile) -> AnyToAny:
    """The profile's model without numbers: its language model, rows and projections, and nothing that is loaded later."""
    config = planning.llm_config(profile)
    # bitsandbytes keeps this table for all that comes after, and would make it on the meta device.
    name2qmap.setdefault("dynamic", create_dynamic_map())
    with META:
        llm = AutoModelForCausalLM.from_config(config, dtype=HALF, trust_remote_code=False)
        rows = profile.llm.vocabulary
        if rows and rows != config.vocab_size:
            llm.resize_token_embeddings(rows, mean_resizing=False)
        if profile.llm.quantization == "nf4":
            _in_four_bits(llm)
        return AnyToAny(
            profile, llm.requires_grad_(False).eval(), _words(profile.llm.chat_template or "")
        )


def _batch(profile: Profile, stage: StageConfig, tokens: int, media: int = 0) -> Batch:
    """A stage's batch at its most: every token is learnt, and rows generate all kinds by turns, or `media` in all."""
    count = stage.batch_size

    def places(rows: int) -> torch.Tensor:
        return torch.empty(rows, 2, dtype=torch.long)

    shown = count if stage.reads != "generation" else 0
    shares: dict[str, int] = {}
    if stage.reads != "comprehension":
        for number in range(media or count):
            kind = list(profile.decoders)[number % len(profile.decoders)]
            shares[kind] = shares.get(kind, 0) + 1
    ids = torch.empty(count, tokens, dtype=torch.long)
    return Batch(
        ids,
        torch.empty_like(ids),
        torch.empty_like(ids),
        torch.empty(shown, *profile.encoder.shape),
        places(shown),
        {kind: places(rows) for kind, rows in shares.items()},
        {
            kind: torch.empty(rows, *profile.decoders[kind].condition)
            for kind, rows in shares.items()
        },
    )


def _moments(stage: StageConfig, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """What the optimiser remembers of parameters."""
    dtype = torch.uint8 if stage.optimiser == "paged-adamw-8bit" else torch.float32
    return [torch.empty_like(p, dtype=dtype) for p in parameters for _ in range(2)]


def _trained(model: AnyToAny, stage: StageConfig) -> list[nn.Parameter]:
    """The parameters of a stage, which may come after another one."""
    model.causal_lm.gradient_checkpointing_disable()
    with META:
        parts = trained_parts(model, stage)
    return [parameter for some in parts.values() for parameter in some]


def stage_peak(model: AnyToAny, number: int, tokens: int) -> int:
    """Bytes of a stage's step, when the optimiser has its moments: every one but the first."""
    profile = model.profile
    stage = profile.stages[number]
    if stage.denoising_weight:
        raise ValueError(f"stage {number} has a denoising term, which is not rehearsed")
    parameters = _trained(model, stage)
    with rehearsing() as live:
        moments = _moments(stage, parameters)
        live.add(model, model.llm, *moments)
        batch = _batch(profile, stage, tokens)
        model.train()
        total_loss(model(batch, stage.alignment), stage).backward()
        for parameter in parameters:
            parameter.grad = None
        return live.peak


def fit_peak(model: AnyToAny, number: int, tokens: int) -> int:
    """Bytes of the fits before or after a stage, 0 where it has none."""
    profile = model.profile
    stage = profile.stages[number]
    fits = planning.fits(profile, number)
    if not fits:
        return 0
    parameters = _trained(model, stage)
    with rehearsing() as live:
        moments = _moments(stage, parameters) if "after" in fits else []
        live.add(model, model.llm, *moments)
        if "words" in fits:
            rows = CAPTIONS_FITTED
            linear = cast(InputProjection, model.input_projection)
            words = torch.empty(rows, linear.out_features)
            linear.fit(torch.empty(rows, profile.encoder.embedding), words)
            del words
        for fit in fits.values():
            if fit is not None:
                # Of each kind as many as `fit_output_projections` looks at together; the others wait on the host.
                media = min(fit.rows, _LOOKED_AT * len(profile.decoders))
                batch = _batch(profile, stage, tokens, media)
                states = collect_states(model, [batch], media)
                # No step after the third takes more.
                short = fit.model_copy(update={"steps": min(3, fit.steps)})
                fit_output_projections(model, states, short, stage.alignment)
        return live.peak


# --- chat and features ---


def _read(model: AnyToAny, cache: DynamicCache, tokens: int) -> None:
    ids = torch.empty(1, tokens, dtype=torch.long)
    known = cache.get_seq_length()
    inputs = model.embed_inputs(ids, torch.empty(0), torch.empty(0, 2, dtype=torch.long))
    mask = torch.empty(1, known + tokens, dtype=torch.long)
    positions = torch.empty(1, tokens, dtype=torch.long)
    hidden = model.hidden_states(inputs, mask, position_ids=positions, past_key_values=cache)
    model.logits(hidden[:, -1]).softmax(-1)


@torch.inference_mode()
def prompt_peaks(model: AnyToAny) -> tuple[int, int]:
    """Bytes while a conversation as long as it may be is read and answered, and what stays of it."""
    with rehearsing() as live:
        cache = DynamicCache()
        live.add(model, model.llm)
        _read(model, cache, model.profile.llm.context)
        _read(model, cache, 1)
        return live.peak, live.live


def chat_peaks(model: AnyToAny) -> dict[str, int]:
    """Bytes of each of those that take turns in a chat, beside what stays."""
    profile = model.profile
    with META:
        model.add_lora()
    model.requires_grad_(False).eval()

    reading, stays = prompt_peaks(model)
    return {
        "prompt": reading,
        "encoder": stays + looking_peak(planning.encoder_config(profile), (("video", 1),)),
        **{
            f"{kind} decoder": stays + drawing_peak(config.model_dump_json())
            for kind, config in profile.decoders.items()
        },
    }


def rehearse(profile: Profile, tokens: int = 128) -> Peaks:
    """Bytes at most in every phase of `planning.plan_memory`, and in each turn of those that have turns."""
    phases: Peaks = {"features": features_peaks(profile)}
    model, fits = model_on_shapes(profile), 0
    for number in sorted(profile.stages):
        phases[f"stage {number}"] = {"": stage_peak(model, number, tokens)}
        fits = max(fits, fit_peak(model, number, tokens))
    if fits:
        phases["fits"] = {"": fits}
    phases["chat"] = chat_peaks(model)
    return phases


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the plan of a profile beside its rehearsal."""
    parser = terminal.parser("rehearse", __doc__.splitlines()[0], "--profile nextgpt-7b")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--tokens", type=int, default=128, help="of a training row")
    options = parser.parse_args(arguments)
    profile = Profile.load(options.profile)
    phases = planning.plan_memory(profile, options.tokens)
    rows = []
    for name, turns in rehearse(profile, options.tokens).items():
        for turn, rehearsed in turns.items():
            planned = planning.at_once(phases[name], turn) - phases[name]["CUDA"]
            rows.append(
                {
                    "phase": f"{name} {turn}".strip(),
                    "planned GiB": f"{planned / 2**30:.2f}",
                    "rehearsed GiB": f"{rehearsed / 2**30:.2f}",
                    "ratio": f"{planned / rehearsed:.3f}",
                }
            )
    print(f"without the CUDA context\n{terminal.table(rows)}")
