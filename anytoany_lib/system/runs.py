"""Run folders on disk: what training made, and the settings that made it.

RUN/trainable.safetensors   projections and token rows, float32 (fp16 in a run that `halve` made)
RUN/adapter/                LoRA in PEFT's own layout, if the stage has it
RUN/vocabulary.safetensors  the LLM's own embedding and head, only in a run that was imported with others
RUN/run.json                profile, stage, seed, data fingerprint, versions, commit, uncommitted changes, times
RUN/metrics.jsonl           one line a logged step
RUN/metrics.json            what `matrix` measured, and in RUN/evaluation what came of each test row
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from anytoany_lib.config import Profile, resolve
from anytoany_lib.system.files import appearing_whole, read_json, recover

TENSORS, RECORD, ADAPTER = "trainable.safetensors", "run.json", "adapter"
ADAPTER_TENSORS, VOCABULARY = "adapter_model.safetensors", "vocabulary.safetensors"
CURVES, METRICS, EVALUATION = "metrics.jsonl", "metrics.json", "evaluation"
_BELONGS = (
    ". A run belongs to the language model, encoder and decoders it was trained with: name its own profile, or train "
    "for the new ones (anytoany features, then stages 1 to 3; for another decoder stage 2 alone, begun with this run)"
)
_LIBRARY = Path(__file__).parents[1]
_RECORDED = {"profile": dict, "stage": int, "data": dict}
_PACKAGES = ("transformers", "peft", "diffusers", "bitsandbytes", "accelerate")


def _git(*arguments: str) -> str | None:
    """What git prints in the library's own folder, None where it fails: no git, no repository, no such file."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(_LIBRARY), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def provenance() -> dict[str, Any]:
    """For `run.json`: package versions, the git commit, and whether library files differ from it ("dirty").

    Commit and "dirty" are None where the library is in no repository.
    """
    # A copy in site-packages may lie below someone's repository, which does not hold it.
    held = (
        _git("ls-files", "--error-unmatch", str(Path(__file__).relative_to(_LIBRARY))) is not None
    )
    return {
        # Of torch there are builds, which its package's version does not tell apart; its own is no plain string.
        "versions": {"torch": str(torch.__version__)}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": _git("rev-parse", "HEAD") if held else None,
        "dirty": bool(_git("status", "--porcelain", "--", ".")) if held else None,
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names: {"lora": {"rank": 4}} -> {"lora.rank": 4}; lists stay whole."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def all_runs(where: str | Path = "ckpt/runs") -> list[Path]:
    """Every run folder below `where`, the newest first, then those that ship with the profiles."""
    records = [
        path for path in resolve(where).glob(f"**/{RECORD}") if not path.parent.name.startswith(".")
    ]
    records.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in [*records, *sorted(resolve("ckpt").glob(f"*/run/{RECORD}"))]]


def newest_run(profile: str, where: str | Path = "ckpt/runs") -> Path | None:
    """The most recently written run folder of a profile, else the one that ships with it, else None."""
    found = (run for run in all_runs(where) if read_record(run)["profile"]["name"] == profile)
    return next(found, None)


def read_record(folder: str | Path) -> dict[str, Any]:
    """`run.json` of a run folder. FileNotFoundError says how to make one, ValueError that it is none that training writes."""
    path = resolve(folder) / RECORD
    recover(path.parent)
    if not path.is_file():
        raise FileNotFoundError(
            f"no run in {path.parent} (expected {RECORD}): train one with notebooks 04 to 06, "
            "or anytoany train"
        )
    record = read_json(path)
    for name, kind in _RECORDED.items():
        if not isinstance(record, dict) or not isinstance(record.get(name), kind):
            raise ValueError(f"{path}: expected {name!r} to be there as training writes it")
    if not isinstance(record["profile"].get("name"), str):
        raise ValueError(f"{path}: expected 'profile' to have a name")
    return record


def profile_of(record: dict[str, Any], where: Path) -> Profile:
    """The profile a run was made with, checked against this version of the kit; its media are shown as that profile's are today."""
    return Profile.parse(record["profile"], f"{where / RECORD}: profile").shown_as_shipped()


def trainable_tensors(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """All parameters of the named modules, as contiguous float32 on the CPU."""
    return {
        f"{name}.{key}": tensor.detach().float().cpu().contiguous()
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }


def write_tensors(folder: Path, modules: dict[str, nn.Module], adapter: PeftModel | None) -> None:
    """Writes the trainable weights into a folder (see `appearing_whole` for doing so safely)."""
    save_file(trainable_tensors(modules), folder / TENSORS)
    if adapter is not None:
        (folder / ADAPTER).mkdir()
        adapter.peft_config["default"].save_pretrained(folder / ADAPTER)
        state = get_peft_model_state_dict(adapter, save_embedding_layers=False)
        state = {key: tensor.float().cpu().contiguous() for key, tensor in state.items()}
        save_file(state, folder / ADAPTER / ADAPTER_TENSORS)


def tensors_in(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. FileNotFoundError and ValueError name one that is not there, cut or damaged."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is cut or damaged ({error}): copy the run again from where it came from, or train it again"
        ) from error


def read_tensors(
    folder: Path,
    modules: dict[str, nn.Module],
    adapter: PeftModel | None,
    anew: Sequence[str] = (),
    new_tokens: int = 0,
) -> None:
    """Loads the trainable weights of a folder; every key and shape has to match. Those below one of the names in `anew` stay
    as they are, whatever the folder has, and so do the last `new_tokens` of the token rows, which it has not.

    Raises ValueError that names what is missing, surplus or of another shape; nothing is loaded then.
    """
    expected = trainable_tensors(modules)
    found = tensors_in(folder / TENSORS)
    if new_tokens:
        rows = {key: tensor for key, tensor in expected.items() if key.startswith("token_rows.")}
        for key in rows.keys() & found.keys():
            found[key] = torch.cat([found[key], rows[key][-new_tokens:]])
    left = tuple(f"{name}." for name in anew)
    expected, found = (
        {key: tensor for key, tensor in one.items() if not key.startswith(left)}
        for one in (expected, found)
    )
    compare(expected, found, f"{folder / TENSORS} does not fit the profile", _BELONGS)
    lora = {}
    if adapter is not None:
        file = folder / ADAPTER / ADAPTER_TENSORS
        lora = tensors_in(file)
        own = get_peft_model_state_dict(adapter, save_embedding_layers=False)
        compare(own, lora, f"{file} does not fit the profile", _BELONGS)
        set_peft_model_state_dict(adapter, lora)
    for name, module in modules.items():
        prefix = name + "."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)},
            strict=not anew,  # of which it was just seen that nothing else is missing
        )


def halve(run: str | Path, out: str | Path) -> Path:
    """Copies a run folder with its weights in fp16, for giving away; returns the copy."""
    run, out = resolve(run), Path(out)
    read_record(run)
    with appearing_whole(out) as folder:
        for name in (RECORD, CURVES, VOCABULARY):
            if (run / name).is_file():
                shutil.copy(run / name, folder / name)
        if (run / ADAPTER).is_dir():
            shutil.copytree(run / ADAPTER, folder / ADAPTER)
        for file in (run / TENSORS, *(run / ADAPTER).glob("*.safetensors")):
            halved = {key: tensor.half() for key, tensor in tensors_in(file).items()}
            save_file(halved, folder / file.relative_to(run))
    return out


def compare(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], wrong: str, advice: str = ""
) -> None:
    """Raises ValueError, which begins with `wrong` and ends with the advice, unless both have the same keys and shapes."""
    problems = [f"missing {key}" for key in sorted(expected.keys() - found.keys())]
    problems += [f"surplus {key}" for key in sorted(found.keys() - expected.keys())]
    problems += [
        f"{key} is {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & found.keys())
        if expected[key].shape != found[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (
            f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        )
        raise ValueError(f"{wrong}: {shown}{advice}")
