"""The model card of a run: what it was made of, on which terms, how good it was measured to be, and how it is loaded.

All of it is read from run.json and metrics.json. Names and captions in them are anybody's text: `text` makes words of them
that are no markdown, and the metadata is written by a YAML library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from anytoany_lib.config import Profile, Source, resolve
from anytoany_lib.config.licences import licence_of
from anytoany_lib.gates.sources import HUB_NAME, how_to_get
from anytoany_lib.modalities import KINDS
from anytoany_lib.system import runs
from anytoany_lib.system.files import read_json

CARD = "README.md"
_LONGEST = 100
# What means something in markdown or HTML, wherever in a line it stands.
_MARKS = re.compile(r"([!-*:<>@\[-`{-~]|(?<=www)\.)", re.IGNORECASE)
_NOT_COMMERCIAL = re.compile(r"\bNC\b|non-?commercial|research", re.IGNORECASE)
Cell = tuple[float, float | None]


def one_line(value: Any) -> str:
    """Anybody's text as one line of printable characters, cut where it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def text(value: Any) -> str:
    """Anybody's text as words in markdown, which it cannot leave."""
    return _MARKS.sub(r"\\\1", one_line(value))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of markdown, the first of which is the heading, as a table."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + " --- |" * len(rows[0]), *body]


def _rate(value: Any) -> float | None:
    """A value if it is a rate between 0 and 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None


def matrix(metrics: Mapping[str, Any]) -> dict[tuple[str, str], Cell]:
    """(kind that is shown, kind that is asked for) -> the rate of replies of the right kinds, and the mean of the rates of
    what they should show, None if the cell has none. Only cells that were measured.
    """
    measured = metrics.get("matrix")
    cells = {}
    for shown in KINDS:
        for asked in KINDS:
            cell = measured.get(f"{shown}->{asked}") if isinstance(measured, Mapping) else None
            if not isinstance(cell, Mapping) or (right := _rate(cell.get("modality"))) is None:
                continue
            rates = (_rate(v) for name, v in cell.items() if name not in ("n", "modality"))
            others = [rate for rate in rates if rate is not None]
            cells[shown, asked] = (right, sum(others) / len(others) if others else None)
    return cells


def _results(cells: Mapping[tuple[str, str], Cell], data: Sequence[str]) -> list[EvalResult]:
    """The matrix in the hub's metadata form."""
    found = []
    for (shown, asked), rates in cells.items():
        names = ("replies of the right kinds", "what they should show, mean of rates")
        for name, value in zip(names, rates, strict=True):
            if value is not None:
                found.append(
                    EvalResult(
                        task_type="any-to-any",
                        task_name=f"{shown} to {asked}",
                        dataset_type="test-rows",
                        dataset_name=f"test rows of {', '.join(data) or 'unnamed data'}",
                        metric_type="accuracy",
                        metric_name=f"{shown} to {asked}, {name}",
                        metric_value=round(value, 4),
                    )
                )
    return found


def _measured(cells: Mapping[tuple[str, str], Cell]) -> Iterator[str]:
    """The matrix as a table, or that there is none."""
    if not cells:
        yield "Not measured: the run has no any-to-any matrix (`anytoany evaluate` makes one)."
        return
    yield "Percent of replies whose media are of the right kinds / mean of the rates of what they should show:"
    yield ""
    rows = [["shown \\ asked for", *KINDS]]
    for shown in KINDS:
        row = [cells.get((shown, asked), (None, None)) for asked in KINDS]
        rows.append([shown, *(" / ".join(map(_percent, cell)) for cell in row)])
    yield from _table(rows)


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.0f}"


def _terms(licence: str | None) -> str:
    """Whether a licence's name forbids commercial use."""
    if not licence:
        return "not stated"
    return "**forbidden**" if _NOT_COMMERCIAL.search(licence) else "see the licence"


def _place(source: Source | None) -> str:
    """Where a part is had, as its profile says."""
    if source is None:
        return "not stated"
    return source.place + (f", added to {source.difference_to}" if source.difference_to else "")


def parts_and_terms(profile: Profile) -> Iterator[str]:
    """The frozen parts with their terms, and which of them forbid commercial use."""
    rows = [["part", "from", "licence", "commercial use"]]
    forbidden = []
    for what, (folder, source) in profile.frozen_parts().items():
        licence = licence_of(folder, source)
        place = text(_place(source)) if source else text(folder)
        rows.append([what, place, text(licence or "not stated"), _terms(licence)])
        forbidden += [what] if _terms(licence) == "**forbidden**" else []
    yield from _table(rows)
    yield ""
    said = f"is forbidden by the licences of: {', '.join(forbidden)}"
    yield f"Commercial use {said if forbidden else 'is forbidden by no licence that is stated'}."


def _body(name: str, record: Mapping[str, Any], profile: Profile, cells: Any) -> Iterator[str]:
    """The card's lines below its metadata."""
    data = record["data"].items()
    steps, seed = (text(record.get(key)) for key in ("steps", "seed"))
    yield from (f"# {text(name.split('/')[1])}", "")
    yield (
        f"An any-to-any model of the kit anytoany: profile {text(profile.name)}, stage {text(record['stage'])}, "
        f"{steps} steps, seed {seed}. Here are its trained weights and settings; the frozen parts are fetched from their own places."
    )
    yield from ("", "## Use", "", "```python", "from anytoany_lib import AnyToAny")
    yield f'model = AnyToAny.from_pretrained("{name}")'
    yield 'print(model.chat([{"role": "user", "content": "Hello."}]))'
    yield from ("```", "", f"The language model: {text(how_to_get('llm', profile.llm.folder))}.")
    yield from ("", "## How good it is", "", *_measured(cells), "", "## Data", "")
    yield from _table([["data", "fingerprint"], *([text(k), text(v)] for k, v in data)])
    yield from ("", "## Parts and their terms", "", *parts_and_terms(profile), "", "## Code", "")
    changed = ", with uncommitted changes" if record.get("dirty") else ""
    versions = record.get("versions")
    packages = versions.items() if isinstance(versions, Mapping) else ()
    yield f"Commit {text(record.get('commit') or 'not recorded')}{changed}; " + ", ".join(
        f"{text(package)} {text(version)}" for package, version in packages
    )


def model_card(run: str | Path, name: str) -> str:
    """The card of a run folder for the repository `name` (OWNER/NAME): metadata in YAML, then markdown.

    A run that was not measured says so. FileNotFoundError if there is no run, ValueError if its files are none of the kit's.
    """
    run = resolve(run)
    record = runs.read_record(run)
    profile = runs.profile_of(record, run)
    metrics = read_json(run / runs.METRICS) if (run / runs.METRICS).is_file() else {}
    cells = matrix(metrics if isinstance(metrics, Mapping) else {})
    base = profile.llm.source.hub if profile.llm.source else None
    metadata = ModelCardData(
        base_model=base if base and HUB_NAME.fullmatch(base) else None,
        library_name="anytoany",
        pipeline_tag="any-to-any",
        tags=["any-to-any", "anytoany"],
        model_name=name.split("/")[1],
        eval_results=_results(cells, [one_line(Path(path).name) for path in record["data"]])
        or None,
    )
    body = "\n".join(_body(name, record, profile, cells))
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"
