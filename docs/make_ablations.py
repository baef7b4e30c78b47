"""Writes the tables of docs/ablations/README.md from the results beside it.

    python docs/make_ablations.py

Each NAME.json there is what `notebooks/ablation.ipynb` found. What is said about the tables is written by hand, outside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anytoany_lib.evaluation import ablations

FOLDER = Path(__file__).resolve().parent / "ablations"
REPORT = FOLDER / "README.md"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _chance(results: dict[str, Any]) -> str:
    """How far apart two rates have to be: 95 % of the differences between two samples of that size are smaller."""
    metrics = next(iter(results["variants"].values()))["metrics"]
    rows = sum(
        n for name, n in metrics.items() if name.startswith("matrix.") and name.endswith(".n")
    )
    worst = 1.96 * math.sqrt(2 * 0.25 / rows)
    return f"{rows} replies a variant: differences below {worst:.2f} may well be chance"


def table(results: dict[str, Any]) -> Iterator[str]:
    """The lines of one ablation's table, and what it was measured on."""
    rows = ablations.variant_rows(results)
    for row in rows:
        del row["minutes"]  # by the clock of a machine that may have done other work
    losses = [variant["validation"] for variant in results["variants"].values()]
    names = [name for name in losses[0] if all(name in of_one for of_one in losses)]
    head = [*rows[0], *(f"{name} loss" for name in names)]
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for row, of_one in zip(rows, losses, strict=True):
        values = [*row.values(), *(of_one[name] for name in names)]
        yield "| " + " | ".join(map(_shown, values)) + " |"
    steps = ", ".join(map(str, results["steps"]))
    yield ""
    yield f"Profile {results['profile']}, {steps} steps, seed {results['seed']}; {_chance(results)}."


def mark(name: str) -> str:
    """The line before an ablation's table."""
    return f"<!-- {name}: written by docs/make_ablations.py from {name}.json, do not edit -->"


def section(name: str) -> str:
    """An ablation's table between its marks."""
    results = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return "\n".join([mark(name), *table(results), f"<!-- end of {name} -->"])


def main() -> None:
    """Puts every table in its place."""
    text = REPORT.read_text(encoding="utf-8")
    for name in sorted(path.stem for path in FOLDER.glob("*.json")):
        begin, end = text.index(mark(name)), f"<!-- end of {name} -->"
        text = text[:begin] + section(name) + text[text.index(end) + len(end) :]
    REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
