"""What a recipe's run is measured by, and its numbers beside the targets. What cannot be measured here says why."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from anytoany_lib.benchmarks.annotations import read_items
from anytoany_lib.benchmarks.understanding import mend, predict, read_predictions, score
from anytoany_lib.benchmarks.vqa import normalise_answer
from anytoany_lib.data import read_manifest, splits_in
from anytoany_lib.evaluation.matrix import evaluate
from anytoany_lib.evaluation.perplexity import perplexity
from anytoany_lib.generation.replies import draw_all
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny
from anytoany_lib.recipe.settings import Recipe
from anytoany_lib.system import terminal

COCO = "coco-karpathy"
ANNOTATIONS = {COCO: "dataset_coco.json"}  # in a benchmark's folder
UNMEASURED = "not measured"  # why a measure has no number; it is tried again the next time
PER_TASK = 60  # requests of each kind of medium that are drawn
_BATCH = 16
# A task's number in the results of lmms-eval, by what the recipe calls it.
_TASKS = {"MVBench": "mvbench", "ClothoAQA": "clotho_aqa_test", "OmniBench": "omni_bench"}
_MEDIA_FIRST = ("clotho_aqa_test", "omni_bench")  # whose sounds that harness's messages lose
_PLAIN = ("hellaswag", "arc_easy")

Found = dict[str, Any]


def coco_captions(run: Path, data: Path, sources: Path) -> Found:
    """CIDEr of captions on Karpathy's test split of COCO, times 100 as papers print it."""
    folder = sources / COCO
    if not (folder / ANNOTATIONS[COCO]).is_file():
        return {UNMEASURED: f"{folder / ANNOTATIONS[COCO]} is not there"}
    items = read_items(COCO, folder / ANNOTATIONS[COCO])
    predictions = run / f"{COCO}.jsonl"
    mend(predictions)
    predict(AnyToAny.from_pretrained(run), items, folder, predictions, batch_size=_BATCH)
    found = score(items, read_predictions(predictions))
    return {
        "COCO CIDEr": 100 * found["metrics"]["CIDEr-D"],
        "n": found["n"],
        "failed": found["failed"],
    }


def music_questions(run: Path, data: Path, sources: Path) -> Found:
    """Accuracy of the test questions of MUSIC-AVQA: the same word, written as VQA's evaluation writes it."""
    found = question_accuracy(AnyToAny.from_pretrained(run), data, "music-avqa")
    return {"MU-AVQA": found["accuracy"], "n": found["n"]} if found else _NO_QUESTIONS


_NO_QUESTIONS = {UNMEASURED: "the dataset has no test questions of MUSIC-AVQA"}


def question_accuracy(model: AnyToAny, data: Path, source: str) -> Found | None:
    """{"n", "accuracy" in %} of the test rows of a source whose last turn is a short answer; None if there are none."""
    if "test" not in splits_in(data):
        return None
    manifest = read_manifest(data, "test")
    rows = [manifest.resolved(row) for row in manifest if row.source == source]
    if not rows:
        return None
    sampling = Sampling(kinds=())
    drafts = draw_all(model, [row.messages[:-1] for row in rows], 0, sampling, _BATCH)
    right = [
        normalise_answer(draft.text()) == normalise_answer(row.messages[-1]["content"][0]["text"])
        for draft, row in zip(drafts, rows, strict=True)
    ]
    return {"n": len(right), "accuracy": 100 * fmean(right)}


def right_media(run: Path, data: Path, sources: Path) -> Found:
    """How many of a hundred requests for a medium get one of that kind."""
    metrics = evaluate(run, data, per_task=PER_TASK, bound=0)
    cells = {
        name: cell["modality"]
        for name, cell in metrics["matrix"].items()
        if name.startswith("text->") and name != "text->text"
    }
    return {"right media": 100 * fmean(cells.values()), "cells": cells}


def plain_talk(run: Path, data: Path, sources: Path) -> Found:
    """Perplexity of held-out plain answers, beside that of the language model before training."""
    manifest = read_manifest(data, "test")
    rows = [row for row in manifest if row.meta.get("plain")]
    if not rows:
        return {UNMEASURED: "the dataset has no plain test rows"}
    return perplexity(AnyToAny.from_pretrained(run), rows)


def harness(run: Path, data: Path, sources: Path) -> Found:
    """The tasks of lmms-eval, which fetches their data itself; what there is of its results is not measured again."""
    if importlib.util.find_spec("lmms_eval") is None:
        return {UNMEASURED: 'lmms-eval is not installed: pip install -e ".[lmms-eval]"'}
    found: Found = {}
    failed = []
    for name, task in _TASKS.items():
        command = [sys.executable, "-m", "lmms_eval", "--model", "anytoany", "--tasks", task]
        command += ["--model_args", f"run={run},batch_size={_BATCH}"]
        command += ["--force_simple"] if task in _MEDIA_FIRST else []
        try:
            numbers = _harness_results(command, run / "lmms-eval" / task)[task]
        except RuntimeError as error:  # the others are measured all the same
            failed.append(str(error))
            continue
        found[name] = _percent(numbers)
    return found | ({UNMEASURED: "; ".join(failed)} if failed else {})


def plain_benchmarks(run: Path, data: Path, sources: Path) -> Found:
    """The mean of lm-eval's text tasks with the adapter, above that without it, in points."""
    if importlib.util.find_spec("lm_eval") is None:
        return {UNMEASURED: 'lm-eval is not installed: pip install -e ".[lm-eval]"'}
    means = {}
    for name, adapter in (("trained", "True"), ("untouched", "False")):
        command = [sys.executable, "-m", "anytoany_lib.harnesses.lm_eval", "run", "--model"]
        command += ["anytoany", "--model_args", f"run={run},adapter={adapter}"]
        command += ["--tasks", ",".join(_PLAIN), "--batch_size", str(_BATCH)]
        try:
            results = _harness_results(command, run / "lm-eval" / name)
        except RuntimeError as error:
            return {UNMEASURED: str(error)}
        accuracies = [
            results[task].get("acc_norm,none", results[task]["acc,none"]) for task in _PLAIN
        ]
        means[name] = 100 * fmean(accuracies)
    return {"plain benchmarks": means["trained"] - means["untouched"]} | means


def _percent(numbers: Mapping[str, Any]) -> float:
    """A task's first number that is no standard error, in %: one harness counts to 1, the other to 100."""
    value = next(
        v for key, v in numbers.items() if isinstance(v, int | float) and "stderr" not in key
    )
    return float(100 * value if value <= 1 else value)


def _harness_results(command: list[str], out: Path) -> dict[str, dict[str, Any]]:
    """The results of a harness below OUT, which is run if there are none. RuntimeError with its last words if it fails."""
    if not (files := sorted(out.rglob("*results*.json"))):
        done = subprocess.run(
            [*command, "--output_path", str(out)], capture_output=True, text=True, check=False
        )
        files = sorted(out.rglob("*results*.json"))
        if done.returncode or not files:
            last = " ".join(done.stderr.split()[-60:])
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {last}")
    results: dict[str, dict[str, Any]] = json.loads(files[-1].read_text(encoding="utf-8"))[
        "results"
    ]
    return results


# In this order: what needs nothing else comes first.
MEASURES: dict[str, Callable[[Path, Path, Path], Found]] = {
    "plain talk": plain_talk,
    "music questions": music_questions,
    "right media": right_media,
    "coco captions": coco_captions,
    "lmms-eval": harness,
    "lm-eval": plain_benchmarks,
}


def results(recipe: Recipe, done: Mapping[str, Found]) -> list[dict[str, Any]]:
    """For a table: each target, what NExT-GPT was measured at, and what this run reached, None where nothing measured it."""
    found: Found = {}
    for name, record in done.items():
        if name.startswith("measuring "):
            found |= record
    rows = []
    for name, target in recipe.targets.items():
        value = found.get(name)
        rows.append(
            {
                "target": name,
                "at least": target.at_least,
                "NExT-GPT": target.nextgpt,
                "this run": None if value is None else round(value, 1),
                "reached": None if value is None else "yes" if value >= target.at_least else "no",
            }
        )
    return rows


def results_text(recipe: Recipe, done: Mapping[str, Found]) -> str:
    """The same as a table, and why what was not measured was not."""
    reasons = [
        f"{name.removeprefix('measuring ')}: not measured, {record[UNMEASURED]}"
        for name, record in done.items()
        if UNMEASURED in record
    ]
    return "\n".join([terminal.table(results(recipe, done)), *reasons])
