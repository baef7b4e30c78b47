"""Ablations: one setting varied and all else equal, every variant trained through the three stages and measured.

    papermill notebooks/ablation.ipynb out.ipynb -p ABLATION lora_rank -p STEPS "60 40 120"

All variants read the same cached features, start from the same seed and take the same number of steps in each stage; then
the any-to-any matrix judges them, on few rows a task. A stage that was finished, and a variant that was measured, are not
done again. Runs lie in OUT/NAME/VALUE/stageN, out of the way of notebook 07; the results of all variants go to one JSON.

Measured for tiny with 60, 40 and 120 steps on one thread, in minutes of the processor: stages 1 and 2 take 7 together, a step
of stage 3 takes 3.8 s; so about 16 a variant (estimated) and the evaluation on top.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytoany_lib import runs
from anytoany_lib.comparison import measured
from anytoany_lib.config import Profile, resolve
from anytoany_lib.data import dataset_fingerprint
from anytoany_lib.evaluate import METRICS, evaluate
from anytoany_lib.features import precompute
from anytoany_lib.train import train

PUBLISHED_ORDER = "1-2-3"
_SHOWN = ("thing", "colour", "motion", "count", "unseen_pairs")
Settings = dict[str, Any]


def _soft_tokens(settings: Settings, count: int) -> None:
    settings["encoder"]["soft_tokens"] = count


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


ABLATIONS: dict[str, tuple[Callable[[Settings, Any], None], tuple[Any, ...]]] = {
    "soft_tokens": (_soft_tokens, (1, 4, 8)),
    "signal_tokens": (_signal_tokens, (1, 4, 8)),
    "alignment": (_alignment, ("l2", "mse", "cosine", "l2+denoising")),
    "stage_order": (_stage_order, (PUBLISHED_ORDER, "1-3-2")),
    "lora_rank": (_lora_rank, (4, 16, 64)),
    "quantization": (_quantization, ("nf4", "none")),
}


def variants(profile: Profile, name: str) -> dict[str, Profile]:
    """The profiles of an ablation by the value that is varied. ValueError says which ablations there are."""
    if name not in ABLATIONS:
        raise ValueError(f"no ablation {name!r}: expected one of {', '.join(ABLATIONS)}")
    change, values = ABLATIONS[name]
    found = {}
    for value in values:
        settings = profile.model_dump()
        change(settings, value)
        found[str(value)] = Profile.parse(settings, f"ablation {name}, {value}")
    return found


def _stands(run: Path, profile: Profile, made_of: dict[str, Any]) -> bool:
    """Whether a run folder holds just this training already."""
    if not (run / runs.RECORD).is_file():
        return False
    record = runs.read_record(run)
    same = all(record[name] == value for name, value in made_of.items())
    return same and runs.profile_of(record, run) == profile


def _trained(
    profile: Profile, order: str, data: Path, folder: Path, steps: Sequence[int], seed: int
) -> list[Path]:
    """The runs of the stages in this order, each from the one before; those that stand are left as they are."""
    made: list[Path] = []
    again = False
    mark = dataset_fingerprint(data)
    for stage in map(int, order.split("-")):
        run, count = folder / f"stage{stage}", steps[stage - 1]
        made_of = {"stage": stage, "steps": count, "seed": seed}
        stands = _stands(run, profile, made_of) and mark in runs.read_record(run)["data"].values()
        again = again or not stands  # what was made from another run has to follow it
        if again:
            init = made[-1] if made else None
            train(profile, stage, data, run, init, max_steps=count, seed=seed)
        made.append(run)
    return made


def run(
    name: str,
    profile: Profile,
    data: str | Path,
    out: str | Path,
    steps: Sequence[int],
    seed: int = 0,
    per_task: int = 6,
) -> dict[str, Any]:
    """Trains and measures every variant of an ablation; returns what came out (see `table` and `save`).

    `steps` are those of stages 1, 2 and 3, `per_task` the test rows of each task (delete a variant's metrics.json to
    measure it anew). ValueError if there is no such ablation or a stage has no steps.
    """
    data, profiles = resolve(data), variants(profile, name)
    if len(steps) != 3 or min(steps) < 1:
        raise ValueError(f"steps: expected three numbers from 1 up, one a stage; found {steps}")
    precompute(profile, data)
    found = {}
    for value, varied in profiles.items():
        order = value if name == "stage_order" else PUBLISHED_ORDER
        stages = _trained(varied, order, data, resolve(out) / name / value, steps, seed)
        last, started = stages[-1], time.perf_counter()
        if not (last / METRICS).is_file():
            evaluate(last, data, per_task=per_task, seed=seed, bound=0)
        records = [runs.read_record(stage) for stage in stages]
        found[value] = {
            "metrics": measured(last),
            "validation": records[-1]["validation"],
            "seconds": round(sum(record["seconds"] for record in records), 1),
            "commit": records[-1]["commit"],
            "dirty": records[-1]["dirty"],
        }
        print(f"{name} {value}: measured in {time.perf_counter() - started:.0f} s")
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


def table(results: dict[str, Any]) -> list[dict[str, Any]]:
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
    runs.write_file(file, json.dumps(results, indent=2) + "\n")
    return file
