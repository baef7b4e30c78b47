"""The any-to-any matrix: a run's replies to unseen requests, judged by models that it was not trained to please.

    anytoany evaluate --run RUN [--data DATA --per-task N]

Test rows say what their reply should contain: `meta["expect"]` lists for each part its kind, the attributes a judge
should find, and for media the caption a decoder would be told. The profile names the judges; one without them is measured
by `similarity`. Results go to RUN/metrics.json, what came of each row and media to look at to RUN/evaluation. "matrix",
"combinations" (several media in a message) and "more" hold {cell: {"n", rates}}, "intervals" {cell: {rate: {"n", "low",
"high"}}} around them, "baselines" {cell: {"chance", "upper_bound", "text_only"}} of what to hold them against.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytoany_lib.batches import collate
from anytoany_lib.checkpoints.publishing import run_to_measure
from anytoany_lib.config import portable
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import Row
from anytoany_lib.evaluation import failures, similarity
from anytoany_lib.evaluation.baselines import (
    chance_by_attribute,
    evenly,
    text_only,
    untouched,
    upper_bounds,
)
from anytoany_lib.evaluation.intervals import intervals
from anytoany_lib.evaluation.judging import (
    CELLS,
    Verdict,
    by_author,
    cell_of,
    chance_by_part,
    check_expected,
    grouped,
    load_judges,
    outcomes,
    rates,
    request_of,
    verdicts,
)
from anytoany_lib.evaluation.perplexity import losses
from anytoany_lib.evaluation.retrieval import retrieval_rates
from anytoany_lib.evaluation.stored_replies import Drawing, key_of, open_folder, replies_folder
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import Message
from anytoany_lib.modalities import ALOUD
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs, terminal
from anytoany_lib.system.files import held, read_json, write_json
from anytoany_lib.system.peak_memory import peak_memory_bytes
from anytoany_lib.system.remote import local, publish

_TIPPED = 2  # test rows of a rate that another machine may judge otherwise
_SPARSE = 4  # an attribute may be asked of a quarter of a cell's rows only


@dataclass(frozen=True)
class _Settings:
    """Test rows of each task (None: all), rows of each cell whose baselines are measured, the seed, requests at once.

    ValueError names the value that cannot be used.
    """

    per_task: int | None
    bound: int
    seed: int
    batch_size: int

    def __post_init__(self):
        for name, least in (("per_task", 1), ("bound", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not (value is None and name == "per_task") and value < least:
                raise ValueError(f"{name} has to be a whole number from {least} up, found {value}")


@dataclass(frozen=True)
class _Evaluation:
    """The model of a run folder, the dataset it is measured on, the settings, and the folder that keeps replies."""

    model: AnyToAny
    run: Path
    data: Path
    settings: _Settings
    kept: Path

    def replies(self, requests: list[list[Message]]) -> tuple[Drawing, list[Message]]:
        """The replies to requests, and before them what they are drawn with (see `stored_replies`)."""
        profile, settings = self.model.profile, vars(self.settings)
        key = key_of(self.run, profile, self.data, requests, sampling=Sampling(), **settings)
        folder = open_folder(self.kept, key)
        drawing = Drawing(self.model, folder, self.settings.seed, self.settings.batch_size)
        return drawing, drawing.replies(requests, "replies")


@torch.no_grad()
def language_loss_ratio(model: AnyToAny, rows: Sequence[Row]) -> float | None:
    """Cross entropy on held-out plain answers, relative to the LLM as it was before any training.

    None if no row has its answer with it.
    """
    own = untouched = 0.0
    for row in rows:
        if row.messages[-1]["role"] == "assistant":
            batch = collate([model.messages.encode(row.messages)], lambda *_: None, None, 1)
            _, loss, before = losses(model, batch.to(model.device))
            own, untouched = own + loss, untouched + before
    return round(own / untouched, 4) if untouched else None


def test_set(data: Path, per_task: int | None) -> list[Row]:
    """The test rows that say what to expect, `per_task` of each task at most, held-out pairs in their share.

    ValueError if there are none, or if one does not say enough.
    """
    manifest = read_manifest(data, "test")
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in manifest:
        if "expect" in row.meta:
            check_expected(row, ("task", "unseen"), ("kind", "scene", "caption"))
            groups[row.meta["task"]].append(manifest.resolved(row))
    if not groups:
        raise ValueError(
            f"{data}: no test row says what its reply should contain (meta['expect']); anytoany retrieval "
            "measures captioned media without judges"
        )
    return [row for rows in groups.values() for row in evenly(rows, per_task)]


def _combines(cell: str) -> bool:
    """Whether a cell is beyond the matrix, for several media in one message."""
    return "->" in cell and cell not in CELLS


def _baselines(
    drawing: Drawing, judges: Any, results: Sequence[Verdict], bound: int
) -> dict[str, Any]:
    """The metrics "upper_bound" and "chance" by kind of part, and "baselines" by cell."""
    cells = {name: found for name, found in grouped(results).items() if "->" in name}
    few = {name: evenly([v.row for v in found], bound) for name, found in cells.items() if bound}
    by_kind, bounds = upper_bounds(drawing, judges, few)
    worded = text_only(drawing, judges, few)
    baselines = {
        name: {
            "chance": chance_by_attribute(judges, [v.row for v in found], [v.reply for v in found])
        }
        | ({"upper_bound": bounds[name]} if name in bounds else {})
        | ({"text_only": worded[name]} if name in worded else {})
        for name, found in cells.items()
    }
    # Of what is to be said aloud the words are judged too, but the untouched model has no voice.
    known = [
        v.row
        for v in results
        if any("answers" in part["scene"] and ALOUD not in part for part in v.row.meta["expect"])
    ]
    if known and bound:
        baselines[known[0].meta["task"]] = {"untouched": untouched(drawing, judges, known)}
    guessed = chance_by_part(judges, [v.row for v in results], [v.reply for v in results])
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

    With `save` they are written to the run folder, what came of each row beside them (see `failures`).

    `bound` is the number of rows of a cell whose baselines are measured (0: of none), `examples` how many right and wrong replies of
    each task are kept with their media. Replies are kept in RUN/.evaluation while it lasts, with `keep` for good: the same
    evaluation, interrupted, goes on there and comes to the same numbers.
    """
    settings = _Settings(per_task, bound, seed, batch_size)
    run = run_to_measure(run)
    record = runs.read_record(run)
    data = data or next(iter(record["data"]), None)
    if data is None:
        raise ValueError(
            f"{run} was trained on no dataset here: name one (--data, or DATA in notebook 08)"
        )
    data, started = local(data), time.perf_counter()
    read_manifest(data, "test")  # before the models are loaded
    model = AnyToAny.from_pretrained(run)
    with held(run, "trains or measures it"), replies_folder(run) as kept:
        measured = _by_judges if model.profile.judges else _by_similarity
        found, results = measured(_Evaluation(model, run, data, settings, kept))
        metrics = {
            "profile": record["profile"]["name"],
            "run": portable(run),
            "seed": seed,
            "commit": runs.provenance()["commit"],
            **(_rates(results, seed) | found),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if save:
            rows = read_manifest(data, "test").catalogue
            failures.save(run / runs.EVALUATION, results, examples, rows.digest)
            write_json(run / runs.METRICS, metrics)
        if not keep:
            shutil.rmtree(kept)
        publish(run)
    return metrics


def _by_judges(evaluation: _Evaluation) -> tuple[dict[str, Any], list[Verdict]]:
    """What the profile's judges make of each reply, and the metrics beside."""
    model, settings = evaluation.model, evaluation.settings
    judges, rows = load_judges(model.profile), test_set(evaluation.data, settings.per_task)
    drawing, replies = evaluation.replies(list(map(request_of, rows)))
    results = verdicts(judges, rows, replies)
    found = _baselines(drawing, judges, results, settings.bound)
    return found | {"language_loss_ratio": language_loss_ratio(model, rows)}, results


def _by_similarity(evaluation: _Evaluation) -> tuple[dict[str, Any], list[Verdict]]:
    """What `similarity` makes of each reply where the profile names no judges, and the metrics beside (see `retrieval`)."""
    model, settings = evaluation.model, evaluation.settings
    similarity.check(model.profile)
    requests = similarity.media_requests(evaluation.data, settings.per_task, settings.seed)
    _, replies = evaluation.replies([request.messages for request in requests])
    model.make_room()  # for the models that the media are compared with
    found, results = similarity.rank_replies(
        model.profile, requests, replies, settings.seed, str(model.device)
    )
    manifest, chosen = read_manifest(evaluation.data, "test"), {request.id for request in requests}
    rows = list(map(manifest.resolved, manifest))
    captioned = [row for row in rows if "caption" in row.meta and row.id in chosen]
    plain = [row for row in rows if row.meta.get("task") == "plain"]
    return {
        **found,
        "retrieval": retrieval_rates(model, captioned, settings.seed, settings.batch_size),
        "language_loss_ratio": language_loss_ratio(model, plain),
    }, results


def _by_task(results: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts by task, of those that are counted in the cell of a combination."""
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in results:
        if _combines(cell_of(verdict.row)):
            groups[verdict.row.meta["task"]].append(verdict)
    return dict(groups)


def _rates(results: Sequence[Verdict], seed: int) -> dict[str, Any]:
    """The metrics "matrix" in its own order, "combinations" of media and "more", {cell: rates}, and "intervals" of them all.

    What a combination counts together, as "which of several" and "compare", stands in "more" task by task. With them how each
    author's requests came out, and the share of all replies that have the right kinds of media.
    """
    groups = grouped(results) | _by_task(results)
    cells = {name: rates(found) for name, found in groups.items()}
    return {
        "matrix": {name: cells[name] for name in CELLS if name in cells},
        "combinations": {name: cell for name, cell in cells.items() if _combines(name)},
        "more": {n: cell for n, cell in cells.items() if n not in CELLS and not _combines(n)},
        "intervals": {name: intervals(outcomes(found), seed) for name, found in groups.items()},
        "authors": by_author(results),
        "modality_accuracy": round(float(np.mean([v.modality for v in results])), 4),
    }


def differences(recorded: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Rates that differ from a record by more than two test rows, one line each.

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
            if abs(cell[rate] - again[rate]) * asked_of > _TIPPED:
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


def matrix_text(metrics: dict[str, Any]) -> str:
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
    for author, found in metrics.get("authors", {}).items():
        lines.append(
            f"worded by {author:<10}{found['n']:>4}  {100 * found['modality']:>7.1f}%  all right {100 * found['right']:.1f}%"
        )
    for name, cell in metrics.get("more", {}).items():
        if before := metrics.get("baselines", {}).get(name, {}).get("untouched"):
            lines.append(
                f"{name:<20}{cell['n']:>4}  {100 * cell['answers']:.0f}% right, untouched language model {100 * before['answers']:.0f}%"
            )
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


def add_test_options(parser: argparse.ArgumentParser) -> None:
    """Gives a command the options that say which test rows are drawn, and how."""
    parser.add_argument(
        "--data", help="dataset whose test rows to use (default: what the run was trained on)"
    )
    parser.add_argument("--per-task", type=int, help="test rows of each task (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: evaluate a run and print its matrix."""
    parser = terminal.parser(
        "evaluate",
        "Measure a run on every direction of the any-to-any matrix.",
        "--run ckpt/runs/tiny/stage3 --per-task 10",
    )
    parser.add_argument("--run", required=True, help="folder, URL, or OWNER/NAME on the hub")
    add_test_options(parser)
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
    given = vars(parser.parse_args(arguments))
    check = given.pop("check")
    metrics = evaluate(**given, save=not check)
    print(matrix_text(metrics))
    if check:
        recorded = read_json(run_to_measure(given["run"]) / runs.METRICS)
        wrong = differences(recorded, metrics)
        print("\n".join(wrong) or f"as recorded in {given['run']}/{runs.METRICS}")
        raise SystemExit(bool(wrong))
