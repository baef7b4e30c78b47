"""Ablations: one setting varied and all else equal, every variant trained through the three stages and measured.

    papermill notebooks/ablation.ipynb out.ipynb -p ABLATION lora_rank -p STEPS "60 40 120"

All variants read the same cached features, start from the same seed and take the same number of steps in each stage; then
the any-to-any matrix judges them, on few rows a task. A stage that was finished, and a variant that was measured, are not
done again. Runs lie in OUT/NAME/VALUE/stageN, out of the way of notebook 07; the results of all variants go to one JSON.

The profile as it is, in OUT/unvaried, is a variant of every ablation, and its first stages are those of every variant that
differs later only. Several ablations may be run side by side: they wait for each other where they share a stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anytoany_lib.config import Profile, portable, resolve
from anytoany_lib.data.manifests import dataset_fingerprint
from anytoany_lib.evaluation.comparison import measured
from anytoany_lib.evaluation.matrix import evaluate
from anytoany_lib.features.precomputing import precompute
from anytoany_lib.system import runs
from anytoany_lib.system.files import alone, write_json
from anytoany_lib.train import train

PUBLISHED_ORDER, UNVARIED = "1-2-3", "unvaried"
_SHOWN = ("thing", "colour", "motion", "count", "unseen_pairs")
Settings = dict[str, Any]


def _soft_tokens(settings: Settings, count: int) -> None:
    settings["encoder"]["soft_tokens"] = count


def _input_projection(settings: Settings, kind: str) -> None:
    if kind == "linear":
        return
    settings["encoder"]["states"] = "patches"
    settings["input_projection"] |= {"kind": kind, "width": 256, "heads": 4, "layers": 2}
    # Layers of attention bear no rate of one matrix.
    for stage in settings["stages"].values():
        if "input_projection" in stage["learning_rates"]:
            stage["learning_rates"]["input_projection"] /= 5


def _signal_tokens(settings: Settings, count: int) -> None:
    for decoder in settings["decoders"].values():
        decoder["signals"] = count


def _alignment(settings: Settings, name: str) -> None:
    # Its weight beside the text loss stays, so the distances also differ in how hard they pull.
    distance, _, denoising = name.partition("+")
    for stage in settings["stages"].values():
        stage["alignment"] = distance
        if denoising and "output_projections" in stage["learning_rates"]:
            stage["denoising_weight"] = 1.0


def _lora_rank(settings: Settings, rank: int) -> None:
    lora = settings["lora"]
    # What LoRA adds is scaled by alpha / rank: that stays, or the learning rate would be varied too.
    lora |= {"rank": rank, "alpha": round(rank * lora["alpha"] / lora["rank"])}


def _quantization(settings: Settings, kind: str) -> None:
    settings["llm"]["quantization"] = kind


def _stage_order(settings: Settings, order: str) -> None:
    """Nothing in the profile: the order is that of the trainings."""


class Ablation(NamedTuple):
    """What is varied: how a value gets into a profile's settings, the values, and how many stages it leaves as they are."""

    change: Callable[[Settings, Any], None]
    values: tuple[Any, ...]
    untouched: int


ABLATIONS: dict[str, Ablation] = {
    "soft_tokens": Ablation(_soft_tokens, (1, 4, 8), 0),
    "input_projection": Ablation(_input_projection, ("linear", "resampler", "grouping"), 0),
    "signal_tokens": Ablation(_signal_tokens, (1, 4, 8), 0),
    "alignment": Ablation(_alignment, ("l2", "mse", "cosine", "l2+denoising"), 1),
    "stage_order": Ablation(_stage_order, (PUBLISHED_ORDER, "1-3-2"), 1),
    "lora_rank": Ablation(_lora_rank, (4, 16, 64), 2),
    "quantization": Ablation(_quantization, ("nf4", "none"), 0),
}


def variants(profile: Profile, name: str, values: Iterable[str] = ()) -> dict[str, Profile]:
    """The profiles of an ablation by the value that is varied, all of them or those named.

    ValueError says which ablations, or which values, there are.
    """
    if name not in ABLATIONS:
        raise ValueError(f"no ablation {name!r}: expected one of {', '.join(ABLATIONS)}")
    ablation, found = ABLATIONS[name], {}
    for value in ablation.values:
        settings = profile.model_dump()
        ablation.change(settings, value)
        found[str(value)] = Profile.parse(settings, f"ablation {name}, {value}")
    chosen = list(map(str, values)) or list(found)
    if unknown := [value for value in chosen if value not in found]:
        raise ValueError(
            f"ablation {name} has no value {unknown[0]!r}: expected some of {', '.join(found)}"
        )
    return {value: found[value] for value in chosen}


def _stands(run: Path, profile: Profile, made_of: dict[str, Any]) -> bool:
    """Whether a run folder holds just this training already."""
    if not (run / runs.RECORD).is_file():
        return False
    record = runs.read_record(run)
    same = all(record[name] == value for name, value in made_of.items())
    return same and runs.profile_of(record, run) == profile


def _places(
    out: Path, name: str, value: str, varied: Profile, profile: Profile
) -> list[tuple[int, Path, Profile]]:
    """(stage, its run folder, its profile) of a variant, in the order of training."""
    order = value if name == "stage_order" else PUBLISHED_ORDER
    plain = varied == profile and order == PUBLISHED_ORDER
    places = []
    for place, stage in enumerate(map(int, order.split("-"))):
        same = plain or place < ABLATIONS[name].untouched
        folder = out / UNVARIED if same else out / name / value
        places.append((stage, folder / f"stage{stage}", profile if same else varied))
    return places


def _trained(
    places: Sequence[tuple[int, Path, Profile]], data: Path, steps: Sequence[int], seed: int
) -> list[Path]:
    """Trains a variant's stages, each from the one before; those that stand are left as they are. Returns their runs."""
    made: list[Path] = []
    mark = dataset_fingerprint(data)
    for stage, run, profile in places:
        init = made[-1] if made else None
        made_of = {"stage": stage, "steps": steps[stage - 1], "seed": seed}
        with _alone(run):
            stands = (
                _stands(run, profile, made_of) and mark in runs.read_record(run)["data"].values()
            )
            if not stands or _younger(init, run):
                train(profile, stage, data, run, init, max_steps=steps[stage - 1], seed=seed)
        made.append(run)
    return made


def _alone(run: Path) -> AbstractContextManager[None]:
    """Waits until no other process works on a run folder."""
    return alone(run.with_name(f"{run.name}.lock"), f"works on {run}")


def _younger(init: Path | None, run: Path) -> bool:
    """Whether a run was finished before the one that it began from: that was trained anew, so it has to follow."""
    if init is None:
        return False
    return (init / runs.RECORD).stat().st_mtime_ns > (run / runs.RECORD).stat().st_mtime_ns


def _measured(stages: Sequence[Path], data: Path, seed: int, per_task: int) -> dict[str, Any]:
    """What came of a variant: its rates, and what its last stage's run.json says. A variant is judged once."""
    last = stages[-1]
    with _alone(last):
        if not (last / runs.METRICS).is_file():
            evaluate(last, data, per_task=per_task, seed=seed, bound=0)
    records = [runs.read_record(stage) for stage in stages]
    return {
        "run": portable(last),
        "metrics": measured(last),
        "validation": records[-1]["validation"],
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "commit": records[-1]["commit"],
        "dirty": records[-1]["dirty"],
    }


def run(
    name: str,
    profile: Profile,
    data: str | Path,
    out: str | Path,
    steps: Sequence[int],
    seed: int = 0,
    per_task: int = 6,
    values: Iterable[str] = (),
) -> dict[str, Any]:
    """Trains and measures the variants of an ablation; returns what came out (see `variant_rows` and `save`).

    `steps` are those of stages 1, 2 and 3, `per_task` the test rows of each task (delete a variant's metrics.json to
    measure it anew), `values` the variants, all if none is named. ValueError if there is no such ablation or value, or a
    stage has no steps.
    """
    data, out, profiles = resolve(data), resolve(out), variants(profile, name, values)
    if len(steps) != 3 or min(steps) < 1:
        raise ValueError(f"steps: expected three numbers from 1 up, one a stage; found {steps}")
    found = {}
    for value, varied in profiles.items():
        started = time.perf_counter()
        precompute(varied, data)
        stages = _trained(_places(out, name, value, varied, profile), data, steps, seed)
        found[value] = _measured(stages, data, seed, per_task)
        print(f"{name} {value}: {(time.perf_counter() - started) / 60:.1f} min")
    return {
        "ablation": name,
        "profile": profile.name,
        "data": dataset_fingerprint(data),
        "steps": list(steps),
        "seed": seed,
        "per_task": per_task,
        "variants": found,
    }


def _mean_rate(metrics: dict[str, Any], rate: str) -> float | None:
    """A rate over all cells of the matrix that have it, weighted by their rows; None if none has."""
    cells = [
        name.removesuffix(rate)
        for name in metrics
        if name.startswith("matrix.") and name.endswith(f".{rate}")
    ]
    if not cells:
        return None
    return float(
        np.average(
            [metrics[f"{c}{rate}"] for c in cells], weights=[metrics[f"{c}n"] for c in cells]
        )
    )


def variant_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a variant: right modalities, rates over the whole matrix, loss on plain talk, minutes of training."""
    rows = []
    for value, variant in results["variants"].items():
        metrics = variant["metrics"]
        row = {results["ablation"]: value, "modality": metrics["modality_accuracy"]}
        row |= {rate: _mean_rate(metrics, rate) for rate in _SHOWN}
        row |= {"loss on plain talk": metrics.get("language_loss_ratio")}
        rows.append(row | {"minutes": variant["seconds"] / 60})
    return rows


def save(results: dict[str, Any], folder: str | Path) -> Path:
    """Writes the results to FOLDER/NAME.json; returns the file."""
    folder = resolve(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{results['ablation']}.json"
    write_json(file, results)
    return file
