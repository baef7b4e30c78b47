"""Runs side by side: what differed in how they were made, what was measured, which rates differ beyond chance, how the
losses fell, and what each replies.

In come run folders of any profiles, in any number; a run without metrics.json or metrics.jsonl (an imported one, one that
was never evaluated) has blanks there. Out come rows and pictures for `figures` to show. Notebook 09 shows all five.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML, Image
from matplotlib.figure import Figure

from anytoany_lib.config import portable
from anytoany_lib.data.formats.json_files import json_records
from anytoany_lib.evaluation.failures import OUTCOMES
from anytoany_lib.evaluation.intervals import by_chance, interval
from anytoany_lib.figures.charts import picture
from anytoany_lib.figures.display import NOT_LOSSES, conversations
from anytoany_lib.generation.replies import reply_all
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import Message
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import read_json
from anytoany_lib.system.remote import local

_MADE_BY = ("stage", "steps", "seed", "init", "imported", "versions", "commit", "dirty")
_CELLS = ("matrix", "combinations", "more")
_MEASURED = (*_CELLS, "ranks", "retrieval", "modality_accuracy", "language_loss_ratio")
_EVERY_CELL, _CHANCE = "all cells", 0.05

Rows = list[dict[str, Any]]


def chosen(folders: Iterable[str | Path] = ()) -> list[Path]:
    """The run folders named, each once; if none is, the newest two and the one that ships. FileNotFoundError if there is none."""
    named = [local(folder) for folder in folders]
    if not named:
        found = runs.all_runs()
        named = [*found[:2], *found[-1:]]
    if not named:
        raise FileNotFoundError("no run in ckpt: train one with notebooks 04 to 06")
    for folder in named:
        runs.read_record(folder)
    return list(dict.fromkeys(named))


def made_by(run: Path) -> dict[str, Any]:
    """All that went into a run, by dotted names; a setting younger than the run has the value that stands for what was done then."""
    record = runs.read_record(run)
    profile = runs.profile_of(record, run).model_dump(mode="json")
    data = {"names": list(record["data"]), "fingerprints": list(record["data"].values())}
    known = {name: record[name] for name in _MADE_BY if name in record}
    return runs.flat({"profile": profile, "data": data} | known)


def _side_by_side(title: str, columns: Mapping[str, Mapping[str, Any]], all_rows: bool) -> Rows:
    """One row for each name in any column; without `all_rows` only where the columns differ."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = []
    for name in names:
        values = [column.get(name) for column in columns.values()]
        if all_rows or any(value != values[0] for value in values):
            rows.append({title: name} | dict(zip(columns, values, strict=True)))
    return rows


def differences(folders: Sequence[Path]) -> Rows:
    """What differs in how runs were made, a row a setting and a column a run; None where one has no such setting."""
    return _side_by_side("setting", {portable(run): made_by(run) for run in folders}, False)


def _metrics(run: Path) -> dict[str, Any]:
    """A run's metrics.json, {} if it was never evaluated. ValueError names a file that is no JSON."""
    file = run / runs.METRICS
    return read_json(file) if file.is_file() else {}


def measured(run: Path) -> dict[str, Any]:
    """Every rate of a run's metrics.json by its dotted name; {} if it was never evaluated."""
    metrics = _metrics(run)
    return runs.flat({name: metrics[name] for name in _MEASURED if metrics.get(name, {}) != {}})


def _shown(run: Path) -> dict[str, Any]:
    """Rates as people read them: "0.970", or "0.970 [0.931, 0.993]" where an interval is known."""
    shown = {n: f"{v:.3f}" if isinstance(v, float) else v for n, v in measured(run).items()}
    for cell, of_cell in _metrics(run).get("intervals", {}).items():
        for rate, around in of_cell.items():
            for part in _CELLS:
                if (name := f"{part}.{cell}.{rate}") in shown:
                    shown[name] += " [{low:.3f}, {high:.3f}]".format(**around)
    return shown


def results(folders: Sequence[Path]) -> Rows:
    """What was measured, a row a rate and a column a run; how many rows a rate is of ("n") only where runs differ."""
    columns = {portable(run): _shown(run) for run in folders}
    rows = _side_by_side("measured", columns, True)
    counts = _side_by_side("measured", columns, False)
    return [row for row in rows if not row["measured"].endswith(".n") or row in counts]


def _outcomes(run: Path) -> tuple[str, dict[str, dict[str, int]]]:
    """(which test rows, {rate: {row: 1 or 0}}), rates of all cells together first. ("", {}) if none were written."""
    file = run / runs.EVALUATION / OUTCOMES
    if not file.is_file():
        return "", {}
    found = read_json(file)
    together: dict[str, dict[str, int]] = defaultdict(dict)
    by_cell: dict[str, dict[str, int]] = {}
    for cell, of_cell in found["cells"].items():
        names = of_cell.pop("rows")
        for rate, values in of_cell.items():
            asked = {n: v for n, v in zip(names, values, strict=True) if v is not None}
            together[f"{_EVERY_CELL}.{rate}"] |= asked
            by_cell[f"{cell}.{rate}"] = asked
    return found["test_rows"], together | by_cell


def _changed(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether any row that both have is right in one of them only."""
    return any(other.get(row, value) != value for row, value in one.items())


def _change(one: Mapping[str, int], other: Mapping[str, int], seed: int) -> str:
    """By how much the other rate is higher over the rows of both: "+0.125 [0.000, 0.250] of 16, beyond chance"."""
    differences = np.array([other[row] - value for row, value in one.items() if row in other])
    if not len(differences):
        return "no row in common"
    low, high = interval(differences, seed)
    told = f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}] of {len(differences)}"
    return told + (", beyond chance" if by_chance(differences) < _CHANCE else "")


def changes(folders: Sequence[Path], seed: int = 0) -> Rows:
    """How much higher each rate is than the first run's, with its interval, over the test rows that both replied to.

    A row a rate, those of all cells together first, and a column a run; rates of a cell in which no row changed are left
    out. A run that was not evaluated on the first one's test rows says so.
    """
    (test_rows, first), *others = map(_outcomes, folders)
    columns: dict[str, dict[str, str]] = {}
    for run, (own_rows, found) in zip(folders[1:], others, strict=True):
        if not (first and found):
            lacking = portable(run if first else folders[0])
            told = {"-": f"{lacking} has no {runs.EVALUATION}/{OUTCOMES}: run 08_evaluate on it"}
        elif own_rows != test_rows:
            other = f"other test rows than {portable(folders[0])}"
            told = {"-": f"{other}: name one DATA in 08_evaluate"}
        else:
            told = {
                rate: _change(rows, found[rate], seed)
                for rate, rows in first.items()
                if rate in found and (rate.startswith(_EVERY_CELL) or _changed(rows, found[rate]))
            }
        columns[portable(run)] = told
    return _side_by_side("higher than the first", columns, True)


def curve(run: Path) -> Rows:
    """The lines of a run's metrics.jsonl, [] without one; of a step logged again, the last. ValueError names a line that is no JSON."""
    file = run / runs.CURVES
    by_step = {line["step"]: line for line in json_records(file)} if file.is_file() else {}
    return [by_step[step] for step in sorted(by_step)]


def curves(folders: Sequence[Path]) -> Image:
    """The training losses of runs, a panel a loss and a line a run, each over the steps of its own stage."""
    lines = {portable(run): curve(run) for run in folders}
    names = [name for of_run in lines.values() for line in of_run for name in line]
    losses = [name for name in dict.fromkeys(names) if name not in NOT_LOSSES]
    figure = Figure(figsize=(4.2 * max(1, len(losses)), 3))
    for number, loss in enumerate(losses):
        axis = figure.add_subplot(1, len(losses), number + 1)
        for colour, (run, of_run) in enumerate(lines.items()):
            points = [(line["step"], line[loss]) for line in of_run if loss in line]
            if points:
                axis.plot(*zip(*points, strict=True), color=f"C{colour}", label=run, linewidth=1)
        axis.set(title=loss, xlabel="step", yscale="log")
        axis.legend(fontsize=7)
    if not losses:
        figure.suptitle("no run has a metrics.jsonl", fontsize=10)
    figure.tight_layout()
    return picture(figure)


def replies(
    folders: Sequence[Path],
    prompts: Sequence[str | list[Message]],
    seed: int = 0,
    sampling: Sampling | None = None,
) -> list[list[Message]]:
    """What each run answers to the same prompts (texts or conversations) and seeds, a list a run; one model is in memory at a time."""
    asked = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
    # No name holds the model, so it is gone before the next one is loaded.
    return [reply_all(AnyToAny.from_pretrained(run), asked, seed, sampling) for run in folders]


def grid(
    folders: Sequence[Path], prompts: Sequence[str], answers: Sequence[Sequence[Message]]
) -> HTML:
    """Replies as a grid: a row a prompt, a column a run (see `replies`)."""
    rows = []
    for number, prompt in enumerate(prompts):
        cards = [
            ([{"role": "user", "content": prompt}, of_run[number]], portable(run))
            for run, of_run in zip(folders, answers, strict=True)
        ]
        rows.append(conversations(cards).data)
    return HTML("<br>".join(rows))
