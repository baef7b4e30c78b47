"""The any-to-any matrix: a run's replies to unseen requests, judged by models that it was not trained to please.

    python -m anytoany_lib.evaluate --run RUN [--data DATA --per-task N]

Test rows say what their reply should contain: `meta["expect"]` lists for each part its kind, the attributes a judge
should find, and for media the caption a decoder would be told. The profile names the judges. Results go to
RUN/metrics.json, failures and examples with their media to RUN/evaluation. "matrix", "combinations" (several media in a
message) and "more" hold {cell: {"n", rates}}, "intervals" {cell: {rate: {"n", "low", "high"}}} around them, "baselines"
{cell: {"chance", "upper_bound", "text_only"}} of what to hold them against.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from anytoany_lib import failures, runs, similarity
from anytoany_lib.baselines import chances, evenly, text_only, upper_bounds
from anytoany_lib.batches import collate
from anytoany_lib.config import portable, resolve
from anytoany_lib.data import Row, read_manifest
from anytoany_lib.failures import EXAMPLES
from anytoany_lib.intervals import intervals
from anytoany_lib.judging import (
    CELLS,
    Verdict,
    cell_of,
    chance,
    load_judges,
    outcomes,
    rates,
    request_of,
    verdicts,
)
from anytoany_lib.kept_replies import FOLDER as KEPT
from anytoany_lib.kept_replies import key_of, opened, reply_to
from anytoany_lib.messages import IGNORED, Message
from anytoany_lib.model import AnyToAny
from anytoany_lib.phases import peak_memory_bytes
from anytoany_lib.retrieval import measure as measure_retrieval
from anytoany_lib.sampling import Sampling

METRICS = "metrics.json"
_SPARSE = 4  # an attribute may be asked of a quarter of a cell's rows only


@torch.no_grad()
def language_loss_ratio(model: AnyToAny, rows: Sequence[Row]) -> float | None:
    """Cross entropy on held-out plain answers, relative to the LLM as it was before any training.

    None if no row has its answer with it.
    """
    answered = [row for row in rows if row.messages[-1]["role"] == "assistant"]
    if not answered:
        return None
    sums = np.zeros(2)
    for row in answered:
        batch = collate([model.messages.encode(row.messages)], lambda *_: None, None, 1).to(
            model.device
        )
        learnt = batch.labels[:, 1:] != IGNORED
        labels = batch.labels[:, 1:][learnt]
        inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
        hidden = model.hidden_states(inputs, batch.mask, use_cache=False)[:, :-1][learnt]
        sums[0] += F.cross_entropy(model.logits(hidden), labels, reduction="sum").item()
        if model.adapter is None:
            untouched = hidden
        else:
            with model.adapter.disable_adapter():
                untouched = model.hidden_states(inputs, batch.mask, use_cache=False)[:, :-1][learnt]
        head = model.causal_lm.get_output_embeddings()
        sums[1] += F.cross_entropy(head(untouched).float(), labels, reduction="sum").item()
    return round(float(sums[0] / sums[1]), 4)


def test_set(data: Path, per_task: int | None) -> list[Row]:
    """The test rows that say what to expect, `per_task` of each task at most, held-out pairs in their share.

    ValueError if there are none.
    """
    manifest = read_manifest(data, "test")
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in manifest:
        if "expect" in row.meta:
            groups[row.meta["task"]].append(manifest.resolved(row))
    if not groups:
        raise ValueError(
            f"{data}: no test row says what its reply should contain (meta['expect']); python -m anytoany_lib.retrieval "
            "measures captioned media without judges"
        )
    return [row for rows in groups.values() for row in evenly(rows, per_task)]


def _grouped(results: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts by cell."""
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in results:
        groups[cell_of(verdict.row)].append(verdict)
    return dict(groups)


def _combines(cell: str) -> bool:
    """Whether a cell is beyond the matrix, for several media in one message."""
    return "->" in cell and cell not in CELLS


def _baselines(
    model: AnyToAny,
    judges: Any,
    groups: dict[str, list[Verdict]],
    folder: Path,
    bound: int,
    how: tuple[int, int],
) -> dict[str, Any]:
    """The metrics "upper_bound" and "chance" by kind of part, and "baselines" by cell; `how` is (seed, batch size)."""
    cells = {name: found for name, found in groups.items() if "->" in name}
    few = {name: evenly([v.row for v in found], bound) for name, found in cells.items()}
    by_kind, bounds = upper_bounds(model, judges, few, folder, *how)
    worded = text_only(model, judges, few, folder, *how)
    baselines = {
        name: {"chance": chances(judges, [v.row for v in found], [v.reply for v in found])}
        | ({"upper_bound": bounds[name]} if name in bounds else {})
        | ({"text_only": worded[name]} if name in worded else {})
        for name, found in cells.items()
    }
    results = [v for found in groups.values() for v in found]
    guessed = chance(judges, [v.row for v in results], [v.reply for v in results])
    return {"upper_bound": by_kind, "chance": guessed, "baselines": baselines}


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    per_task: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    examples: int = 2,
    bound: int = 8,
    save: bool = True,
    keep: bool = False,
) -> dict[str, Any]:
    """Measures a run on the test rows of a dataset (its own if none is named); returns its metrics.

    With `save` they are written to the run folder, examples and failures beside them (see `failures`).

    `bound` is the number of rows of a cell whose baselines are measured, `examples` how many right and wrong replies of
    each task are kept with their media. Replies are kept in RUN/.evaluation while it lasts, with `keep` for good: the same
    evaluation, interrupted, goes on there and comes to the same numbers.
    """
    run = resolve(run)
    record = runs.read_record(run)
    data = data or next(iter(record["data"]), None)
    if data is None:
        raise ValueError(
            f"{run} was trained on no dataset here: name one (--data, or DATA in notebook 08)"
        )
    data, started = resolve(data), time.perf_counter()
    model = AnyToAny.from_pretrained(run)
    measured = _by_judges if model.profile.judges else _by_similarity
    how = {"per_task": per_task, "bound": bound, "seed": seed, "batch_size": batch_size}
    found, results = measured(model, run, data, **how)
    metrics = {
        "profile": record["profile"]["name"],
        "run": portable(run),
        "seed": seed,
        "commit": runs.provenance()["commit"],
        **found,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if save:
        failures.save(run / EXAMPLES, results, examples)
        runs.write_file(run / METRICS, json.dumps(metrics, indent=2) + "\n")
    if not keep:
        shutil.rmtree(run / KEPT)
    return metrics


def _opened(
    model: AnyToAny, run: Path, data: Path, requests: list[list[Message]], **settings: Any
) -> Path:
    """The folder of replies to these requests; see `kept_replies`."""
    key = key_of(run, model.profile, data, requests, sampling=Sampling(), **settings)
    return opened(run / KEPT, key)


def _by_judges(
    model: AnyToAny,
    run: Path,
    data: Path,
    per_task: int | None,
    bound: int,
    seed: int,
    batch_size: int,
) -> tuple[dict[str, Any], list[Verdict]]:
    """The metrics that the profile's judges give, and all verdicts."""
    judges, rows = load_judges(model.profile), test_set(data, per_task)
    requests, how = list(map(request_of, rows)), (seed, None, batch_size)
    folder = _opened(model, run, data, requests, bound=bound, seed=seed, batch_size=batch_size)
    replies = reply_to(model, requests, folder, "replies", *how)
    results = verdicts(judges, rows, replies)
    groups = _grouped(results)
    return {
        **_measured(groups, seed),
        **_baselines(model, judges, groups, folder, bound, (seed, batch_size)),
        "modality_accuracy": round(float(np.mean([v.modality for v in results])), 4),
        "language_loss_ratio": language_loss_ratio(model, rows),
    }, results


def _by_similarity(
    model: AnyToAny,
    run: Path,
    data: Path,
    per_task: int | None,
    bound: int,
    seed: int,
    batch_size: int,
) -> tuple[dict[str, Any], list[Verdict]]:
    """The metrics of a profile without judges (see `similarity` and `retrieval`), and replies in the form of verdicts."""
    asked = similarity.wishes(data, per_task, seed)
    requests = [wish.request for wish in asked]
    folder = _opened(model, run, data, requests, seed=seed, batch_size=batch_size)
    replies = reply_to(model, requests, folder, "replies", seed, None, batch_size)
    found, results = similarity.measure(model.profile, asked, replies, seed, str(model.device))
    manifest = read_manifest(data, "test")
    rows = list(map(manifest.resolved, manifest))
    captioned = [row for row in rows if "caption" in row.meta]
    return {
        **found,
        **_split(found["matrix"]),
        "retrieval": measure_retrieval(model, captioned, seed, batch_size),
        "language_loss_ratio": language_loss_ratio(
            model, [row for row in rows if row.meta.get("task") == "plain"]
        ),
    }, results


def _split(cells: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """Cells as "matrix" in its own order, "combinations" of media, and "more"."""
    return {
        "matrix": {name: cells[name] for name in CELLS if name in cells},
        "combinations": {name: cell for name, cell in cells.items() if _combines(name)},
        "more": {n: cell for n, cell in cells.items() if n not in CELLS and not _combines(n)},
    }


def _measured(groups: dict[str, list[Verdict]], seed: int) -> dict[str, Any]:
    """The metrics "matrix", "combinations" and "more", {cell: rates}, and "intervals" of them all."""
    return {
        **_split({name: rates(found) for name, found in groups.items()}),
        "intervals": {name: intervals(outcomes(found), seed) for name, found in groups.items()},
    }


def differences(recorded: dict[str, Any], found: dict[str, Any], rows: int = 2) -> list[str]:
    """Rates that differ from a record by more than `rows` test rows, one line each.

    On one machine the same seed gives the same rates; another one rounds otherwise, and a reply may tip over.
    """
    lines = []
    for name, cell in recorded["matrix"].items():
        again = found["matrix"].get(name, {"n": 0})
        if again["n"] != cell["n"]:
            lines.append(f"{name}: {cell['n']} rows were recorded, {again['n']} measured")
            continue
        for rate in cell.keys() - {"n"}:
            asked_of = cell["n"] if rate == "modality" else cell["n"] / _SPARSE
            if abs(cell[rate] - again[rate]) * asked_of > rows:
                lines.append(f"{name} {rate}: {cell[rate]} was recorded, {again[rate]} measured")
    return lines


def beside(metrics: dict[str, Any], cell: str, rate: str) -> str:
    """A rate in percent with its 95 % interval, then upper bound / text only / chance: "96 (88-100) of 98 / 90 / 8".

    What was not measured is a dash; metrics recorded before there were intervals and baselines by cell have dashes only.
    """
    value = {**metrics["matrix"], **metrics.get("combinations", {})}[cell][rate]
    around = metrics.get("intervals", {}).get(cell, {}).get(rate)
    shown = f"{100 * value:.0f}"
    if around:
        shown += f" ({100 * around['low']:.0f}-{100 * around['high']:.0f})"
    others = metrics.get("baselines", {}).get(cell, {})
    found = [others.get(kind, {}).get(rate) for kind in ("upper_bound", "text_only", "chance")]
    return f"{shown} of " + " / ".join("–" if f is None else f"{100 * f:.0f}" for f in found)


def table(metrics: dict[str, Any]) -> str:
    """The matrix as text: a line for each cell with its rates, their 95 % intervals and baselines."""
    cells = {**metrics["matrix"], **metrics.get("combinations", {})}
    lines = [
        "rate % (95 % interval) of upper bound / text only / chance",
        f"{'cell':<20}{'n':>4}  modality  what was asked for",
    ]
    for name, cell in cells.items():
        asked = ", ".join(
            f"{rate} {beside(metrics, name, rate)}" + _count(metrics, name, rate)
            for rate in cell
            if rate not in ("n", "modality")
        )
        lines.append(f"{name:<20}{cell['n']:>4}  {100 * cell['modality']:>7.0f}%  {asked}")
    ratio = metrics["language_loss_ratio"]
    lines.append(
        f"right modalities {100 * metrics['modality_accuracy']:.1f}%, language loss ratio {ratio}"
    )
    return "\n".join(lines)


def _count(metrics: dict[str, Any], cell: str, rate: str) -> str:
    """ " (n 12)" where a rate was asked of fewer rows than the cell has."""
    asked = metrics.get("intervals", {}).get(cell, {}).get(rate, {}).get("n")
    of_cell = {**metrics["matrix"], **metrics.get("combinations", {})}[cell]["n"]
    return f" (n {asked})" if asked not in (None, of_cell) else ""


def main() -> None:
    """Command line: evaluate a run and print its matrix."""
    parser = argparse.ArgumentParser(
        description="Measure a run on every direction of the any-to-any matrix."
    )
    parser.add_argument("--run", required=True)
    parser.add_argument(
        "--data", help="dataset whose test rows to use (default: what the run was trained on)"
    )
    parser.add_argument("--per-task", type=int, help="test rows of each task (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--bound", type=int, default=8, help="rows of each cell whose baselines are measured"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the replies in RUN/.evaluation when finished"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if the run's metrics.json says otherwise",
    )
    given = vars(parser.parse_args())
    check = given.pop("check")
    metrics = evaluate(**given, save=not check)
    print(table(metrics))
    if check:
        recorded = json.loads((resolve(given["run"]) / METRICS).read_text())
        wrong = differences(recorded, metrics)
        print("\n".join(wrong) or f"as recorded in {given['run']}/{METRICS}")
        raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
