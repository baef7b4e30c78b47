"""The checkpoint that NExT-GPT published (7b_tiva_v0) as a run folder of this kit, and a run folder as such a file.

`pytorch_model.pt` is one flat dictionary: `llama_proj` (input projection), `gen_text_hidden_fcs`, `..._video` and
`..._audio` (output projections), LoRA below `llama_model`, and the whole embedding and head with the new tokens as
their last rows. Stage 1 and 2 files hold one of the projections and no LoRA. Names and shapes were read in the
project's code (github.com/NExT-GPT/NExT-GPT, NExT-GPT-Lagacy); nothing of a file is skipped in silence.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from anytoany_lib.checkpoints.hub import first_line
from anytoany_lib.config import Profile, portable, resolve
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.llm import lora_config
from anytoany_lib.messages import Vocabulary
from anytoany_lib.projections import InputProjection, OutputProjection
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_file, appearing_whole, write_json

Tensors = dict[str, torch.Tensor]
_INPUT = "llama_proj"
_OUTPUTS = {
    "image": "gen_text_hidden_fcs.0",
    "video": "gen_text_hidden_fcs_video.0",
    "audio": "gen_text_hidden_fcs_audio.0",
}
_LORA = re.compile(
    r"llama_model\.base_model\.model\.(model\.layers\.\d+\.\w+\.\w+)\.lora_([AB])\.default\.weight"
)
_STATISTICS = ("state_mean", "state_scale")


def _tables(with_lora: bool) -> tuple[str, str]:
    """Names of the embedding and of the head: LoRA wraps the language model once more."""
    prefix = "llama_model.base_model.model." if with_lora else "llama_model."
    return f"{prefix}model.embed_tokens.weight", f"{prefix}lm_head.weight"


def read_file(file: str | Path) -> Tensors:
    """The tensors of a `pytorch_model.pt`, mapped from disk. Nothing in it is executed.

    ValueError if the file is cut, holds pickled code, or is no flat dictionary of tensors.
    """
    file = resolve(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"no checkpoint {file}: expected the pytorch_model.pt of 7b_tiva_v0 (792 MB, "
            "huggingface.co/ChocoWu/nextgpt_7b_tiva_v0)"
        )
    try:
        # In the format before torch 1.6, which is no zip, nothing can be mapped.
        mapped = zipfile.is_zipfile(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{file} ({file.stat().st_size:,} bytes) cannot be read as weights: it is cut, or holds more than tensors. "
            f"Fetch it again and compare its size. ({first_line(error)})"
        ) from error
    odd = (
        [k for k, v in tensors.items() if not isinstance(v, torch.Tensor)]
        if isinstance(tensors, dict)
        else [type(tensors).__name__]
    )
    if odd:
        raise ValueError(f"{file}: expected a flat dictionary of tensors, found {odd[:3]}")
    return dict(tensors)


def published_shapes(
    profile: Profile, hidden: int, layers: int, vocabulary: int, stage: int = 3
) -> dict[str, tuple[int, ...]]:
    """Every name of a published file with its shape, in the order of the file.

    `hidden` and `layers` are the language model's, `vocabulary` its rows without the new tokens.
    """
    with torch.device("meta"):
        modules: dict[str, torch.nn.Module] = {}
        if stage != 2:
            modules[_INPUT] = InputProjection(profile.encoder.embedding, hidden, 1)
        if stage != 1:
            for kind, name in _OUTPUTS.items():
                condition = profile.decoders[kind].condition
                modules[name] = OutputProjection(hidden, condition, profile.projection)
        shapes = {
            f"{name}.{key}": tuple(parameter.shape)
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
        }
    if stage == 3:
        rank = profile.lora.rank
        for layer in range(layers):
            for target in profile.lora.targets:
                base = f"llama_model.base_model.model.model.layers.{layer}.self_attn.{target}"
                shapes[f"{base}.lora_A.default.weight"] = (rank, hidden)
                shapes[f"{base}.lora_B.default.weight"] = (hidden, rank)
    rows = len(Vocabulary.of(vocabulary, profile))
    return shapes | dict.fromkeys(_tables(stage == 3), (rows, hidden))


def _stage_of(tensors: Tensors) -> int:
    """Which stage wrote a file, by the parts it has."""
    if any(_LORA.fullmatch(name) for name in tensors):
        return 3
    return 1 if f"{_INPUT}.weight" in tensors else 2


def _check(profile: Profile, tensors: Tensors, stage: int, where: Path) -> None:
    """Every expected name there in its shape, and no other."""
    table = tensors.get(_tables(stage == 3)[0])
    if table is None:
        raise ValueError(
            f"{where} has no {_tables(stage == 3)[0]}: it is no checkpoint of NExT-GPT"
        )
    new = len(Vocabulary.of(0, profile))
    # The output projections have layers too.
    of_llm = re.compile(r"llama_model\..*\.layers\.(\d+)\.self_attn")
    found = [int(m[1]) for name in tensors if (m := of_llm.match(name))]
    layers = max(found, default=-1) + 1
    shapes = published_shapes(profile, table.shape[1], layers, table.shape[0] - new, stage)
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    runs.compare(expected, tensors, f"{where} does not fit the profile")
    base = profile.llm.vocabulary
    if base is not None and table.shape[0] != base + new:
        raise ValueError(
            f"{where} has a vocabulary of {table.shape[0]}, the profile {base} words and {new} new tokens: "
            "name the profile it was trained with"
        )


def _ours(profile: Profile, tensors: Tensors, stage: int) -> tuple[Tensors, Tensors, Tensors]:
    """Published tensors as (trainable, adapter, vocabulary) of a run folder; parts that a stage lacks are absent."""
    trainable, adapter = {}, {}
    names = {_INPUT: "input_projection"} | {
        theirs: f"output_projections.{kind}" for kind, theirs in _OUTPUTS.items()
    }
    tables = _tables(stage == 3)
    new = len(Vocabulary.of(0, profile))
    for name, tensor in tensors.items():
        lora = _LORA.fullmatch(name)
        if lora:
            adapter[f"base_model.model.{lora[1]}.lora_{lora[2]}.weight"] = tensor.float()
        elif name not in tables:
            part = next(theirs for theirs in names if name.startswith(f"{theirs}."))
            trainable[names[part] + name.removeprefix(part)] = tensor.float()
    embedding, head = (tensors[name] for name in tables)
    trainable["token_rows.input"] = embedding[-new:].float().clone()
    trainable["token_rows.output"] = head[-new:].float().clone()
    if stage != 1:
        for kind in _OUTPUTS:
            hidden = embedding.shape[1]
            trainable[f"output_projections.{kind}.state_mean"] = torch.zeros(hidden)
            trainable[f"output_projections.{kind}.state_scale"] = torch.ones(hidden)
    vocabulary = {"embedding": embedding[:-new].contiguous(), "head": head[:-new].contiguous()}
    return trainable, adapter, vocabulary


def _fresh(profile: Profile, hidden: int, seed: int) -> Tensors:
    """Untrained projections of a profile, for what a stage 1 or stage 2 file does not have."""
    torch.manual_seed(seed)
    modules: dict[str, torch.nn.Module] = {
        "input_projection": InputProjection(profile.encoder.embedding, hidden, 1),
        "output_projections": torch.nn.ModuleDict(
            {
                kind: OutputProjection(hidden, decoder.condition, profile.projection)
                for kind, decoder in profile.decoders.items()
            }
        ),
    }
    return runs.trainable_tensors(modules)


def _check_profile(profile: Profile) -> None:
    """ValueError unless a profile computes what the published weights were trained to."""
    if profile.input_projection.kind != "linear":
        raise ValueError(
            f"profile {profile.name} has a {profile.input_projection.kind} for its input projection, the published weights a "
            "linear one: use nextgpt-7b, or a profile made from it"
        )
    if profile.encoder.soft_tokens != 1 or profile.projection.standardise:
        raise ValueError(
            f"profile {profile.name} shows a medium as {profile.encoder.soft_tokens} tokens or standardises hidden "
            "states; the published weights take one token and raw states: use nextgpt-7b, or a profile made from it"
        )
    if profile.llm.tokenizer != "sentencepiece-legacy":
        raise ValueError(
            f"profile {profile.name} would show the published weights other tokens than they were trained on: set "
            "llm.tokenizer: sentencepiece-legacy, or use nextgpt-7b, or a profile made from it"
        )


def import_nextgpt(
    file: str | Path,
    profile: Profile,
    out: str | Path,
    init: str | Path | None = None,
    seed: int = 0,
) -> Path:
    """Turns a published `pytorch_model.pt` into a run folder and returns it.

    What a stage 1 or stage 2 file does not hold comes from the run `init`, or is untrained. Raises ValueError that
    names every key that is missing, surplus or of another shape; no folder is left then.
    """
    file, out = resolve(file), resolve(out)
    _check_profile(profile)
    tensors = read_file(file)
    stage = _stage_of(tensors)
    _check(profile, tensors, stage, file)
    trainable, adapter, vocabulary = _ours(profile, tensors, stage)
    if stage != 3:
        hidden = vocabulary["embedding"].shape[1]
        rest = load_file(resolve(init) / runs.TENSORS) if init else _fresh(profile, hidden, seed)
        trainable = rest | trainable
    with appearing_whole(out) as folder:
        save_file(trainable, folder / runs.TENSORS)
        save_file(vocabulary, folder / runs.VOCABULARY)
        if adapter:
            (folder / runs.ADAPTER).mkdir()
            lora_config(profile.lora).save_pretrained(folder / runs.ADAPTER)
            save_file(adapter, folder / runs.ADAPTER / runs.ADAPTER_TENSORS)
        record = {
            "profile": profile.model_dump(mode="json"),
            "stage": stage,
            "steps": 0,
            "seed": seed,
            "init": portable(init) if init else None,
            "imported": {"file": file.name, "bytes": file.stat().st_size},
            "data": {},
            **runs.provenance(),
        }
        write_json(folder / runs.RECORD, record)
    return out


def _raw(trainable: Tensors, kind: str) -> Tensors:
    """An output projection that reads raw hidden states as the published one does.

    fc((x - mean) / scale) is fc' (x) with fc'.weight = fc.weight / scale, fc'.bias = fc.bias - fc'.weight @ mean.
    """
    prefix = f"output_projections.{kind}."
    tensors = {k.removeprefix(prefix): v for k, v in trainable.items() if k.startswith(prefix)}
    mean, scale = (tensors.pop(name) for name in _STATISTICS)
    weight = tensors["fc.weight"] / scale
    return tensors | {"fc.weight": weight, "fc.bias": tensors["fc.bias"] - weight @ mean}


def _own_vocabulary(profile: Profile) -> Tensors:
    """Embedding and head of the profile's language model as it was published."""
    model = AutoModelForCausalLM.from_pretrained(
        without_code(resolve(profile.llm.folder)), dtype=torch.float16, **LOCAL
    )
    rows = profile.llm.vocabulary
    return {
        "embedding": model.get_input_embeddings().weight.detach()[:rows],
        "head": model.get_output_embeddings().weight.detach()[:rows],
    }


def export_nextgpt(run: str | Path, file: str | Path) -> Path:
    """Writes a stage 3 run as a file of the published form, fp16; returns its path.

    ValueError if the run has no LoRA, more than one token a medium, or ties its head to its embedding.
    """
    run, file = resolve(run), Path(file)
    profile = runs.profile_of(runs.read_record(run), run)
    trainable = load_file(run / runs.TENSORS)
    problems = {
        "it has no LoRA (stage 3 comes first)": not (run / runs.ADAPTER).is_dir(),
        f"a medium takes {profile.encoder.soft_tokens} tokens": profile.encoder.soft_tokens != 1,
        "its input projection is not linear": profile.input_projection.kind != "linear",
        "its head is tied to its embedding": "token_rows.output" not in trainable,
        "it does not generate image, video and audio": set(profile.decoders) != set(_OUTPUTS),
    }
    if any(problems.values()):
        reasons = "; ".join(reason for reason, found in problems.items() if found)
        raise ValueError(f"{run} has no place in the published form: {reasons}")
    own = run / runs.VOCABULARY
    vocabulary = load_file(own) if own.is_file() else _own_vocabulary(profile)
    tensors: dict[str, Any] = {
        f"{_INPUT}.{key}": trainable[f"input_projection.{key}"] for key in ("weight", "bias")
    }
    for kind, name in _OUTPUTS.items():
        tensors |= {f"{name}.{key}": value for key, value in _raw(trainable, kind).items()}
    for key, value in load_file(run / runs.ADAPTER / runs.ADAPTER_TENSORS).items():
        tensors[f"llama_model.{key.removesuffix('.weight')}.default.weight"] = value
    tables = _tables(with_lora=True)
    for name, old, new in zip(tables, ("embedding", "head"), ("input", "output"), strict=True):
        tensors[name] = torch.cat([vocabulary[old].float(), trainable[f"token_rows.{new}"].float()])
    halved = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    with appearing_file(file) as beside:
        torch.save(halved, beside)
    return file
