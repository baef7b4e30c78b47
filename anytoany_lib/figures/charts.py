"""Charts of numbers: counts, shares, spreads, rates and heat maps, in the one look that all figures have.

In come numbers by their names; out come PNGs for a notebook to show.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from anytoany_lib.memory import planning
from anytoany_lib.modalities import KINDS

# One colour for a kind of medium, and for what is trained, in every figure.
KIND_COLOURS = {"text": "#7f8a96", "image": "#4a90d9", "audio": "#e08e2b", "video": "#3f9e5f"}
TRAINED, FROZEN, GREY = "#1f7a46", "#b8c0c8", "#5b6570"
_RED, _NAVY = "#c0504d", "#1f4e79"
_SOFT = ("#4a90d9", "#9cc3ea", "#3f9e5f", "#f2b661", "#e08e2b", "#d9dde2", "#8d97a2", "#c79fd9",
         "#c0504d", "#7a6fb0", "#1f4e79")  # fmt: skip


def picture(figure: Figure) -> Image:
    """A matplotlib figure as a PNG to display."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return Image(data=buffer.getvalue(), format="png")


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one panel, open to the top and right."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def entitle(axis: Axes, title: str, across: str = "", down: str = "") -> None:
    """Small print: the title on the left, what is across and what is up or down."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(across, fontsize=9)
    axis.set_ylabel(down, fontsize=9)


def legend(axis: Axes, handles: Sequence[Any] | None = None, **more: Any) -> None:
    """The legend, to the right of the panel, where it covers nothing."""
    told: dict[str, Any] = {"handles": handles} if handles else {}
    told |= {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
    axis.legend(**told, fontsize=8, frameon=False, **more)


def short(text: str, length: int = 26) -> str:
    """A text cut to a length, with an ellipsis if it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def shares(counts: Mapping[str, int], trained: Sequence[str], title: str) -> Image:
    """How large the parts of a model are, on a logarithmic axis: what is trained in green, what is frozen in grey."""
    whole, most = sum(counts.values()), max(counts.values())
    figure, axis = panel(7.2, 0.9 + 0.3 * len(counts))
    colours = [TRAINED if name in trained else FROZEN for name in counts]
    bars = axis.barh(list(counts), list(counts.values()), color=colours, height=0.66)
    labels = [f"{count:,} ({count / whole:.2%})" for count in counts.values()]
    axis.bar_label(bars, labels, padding=4, fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(min(counts.values()) / 3, 40 * most)
    axis.invert_yaxis()
    kinds = {"trained": TRAINED, "frozen": FROZEN}
    legend(axis, [Patch(color=colour, label=name) for name, colour in kinds.items()])
    entitle(axis, title, "parameters")
    return picture(figure)


def tallies(counts: Mapping[str, int], title: str, unit: str = "rows") -> Image:
    """How many there are of each, the most first."""
    ordered = dict(sorted(counts.items(), key=lambda item: -item[1]))
    figure, axis = panel(6.6, 0.8 + 0.2 * len(ordered))
    names = [short(name, 40) for name in ordered]
    bars = axis.barh(names, list(ordered.values()), color=KIND_COLOURS["image"])
    axis.bar_label(bars, [f"{count:,}" for count in ordered.values()], padding=3, fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.12, y=0.01)
    entitle(axis, title, unit)
    return picture(figure)


def heat_maps(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    form: str = "{:.2f}",
    span: tuple[float, float] | None = None,
    across: str = "",
    down: str = "",
) -> Image:
    """Matrices (rows, columns) by title, side by side, numbers written in, nan blank; `span`: (lowest, highest) of the colours."""
    if span is None:
        every = np.concatenate([values[~np.isnan(values)] for values in panels.values()])
        span = every.min(initial=0), every.max(initial=1e-9)
    digits = max(len(form.format(value)) for value in span)
    width = max(3.4, 1.6 + (0.2 + 0.07 * digits) * len(columns))
    figure = Figure(figsize=(width * len(panels), 1.5 + 0.36 * len(rows)))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        _heat_map(axis, values, span, form)
        turn: dict[str, Any] = {"rotation": 35, "ha": "right"} if max(map(len, columns)) > 5 else {}
        axis.set_xticks(range(len(columns)), columns, fontsize=8, **turn)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(across, fontsize=8)
    axes[0].set_ylabel(down, fontsize=8)
    figure.tight_layout()
    return picture(figure)


def _heat_map(axis: Axes, values: np.ndarray, span: tuple[float, float], form: str) -> None:
    """One matrix in colours with its numbers, which are white where the colour is dark."""
    low, high = span
    axis.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value < low + 0.6 * (high - low) else "black"
            axis.text(x, y, form.format(value), ha="center", va="center", fontsize=8, color=colour)


def matrix(metrics: Mapping[str, Any], rates: Sequence[str]) -> Image:
    """The any-to-any matrix of metrics.json, a map a rate: rows are what is given (combinations last), columns what is answered."""
    cells = {**metrics["matrix"], **metrics.get("combinations", {})}
    given = list(dict.fromkeys([*KINDS, *(name.split("->")[0] for name in cells)]))
    panels = {}
    for rate in rates:
        values = [[cells.get(f"{g}->{w}", {}).get(rate, np.nan) for w in KINDS] for g in given]
        panels[f"{rate}, %"] = 100 * np.array(values, dtype=float)
    return heat_maps(panels, given, KINDS, "{:.0f}", (0, 100), "answered", "given")


def planned(phases: planning.Plan) -> Image:
    """The memory that each phase is planned to take, stacked by its parts; of models that take turns the largest counts."""
    stacks = {}
    for phase, sizes in phases.items():
        turns = planning.turns(sizes)
        stacks[phase] = {name: size for name, size in sizes.items() if name not in turns}
        if turns:
            stacks[phase]["whoever is at work"] = max(turns.values())
    figure, axis = panel(8.4, 1.0 + 0.42 * len(stacks))
    left = np.zeros(len(stacks))
    names = dict.fromkeys(name for sizes in stacks.values() for name in sizes)
    for name, colour in zip(names, cycle(_SOFT), strict=False):
        widths = np.array([sizes.get(name, 0) for sizes in stacks.values()]) / 2**30
        axis.barh(list(stacks), widths, 0.66, left, color=colour, label=name)
        left += widths
    for place, whole in enumerate(left):
        axis.text(whole, place, f" {whole:.2f} GiB", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.14 * left.max())
    legend(axis)
    entitle(axis, "planned memory of each phase", "GiB")
    return picture(figure)


def _dots(axis: Axes, values: Sequence[float | None], aside: float = 0, **look: Any) -> None:
    """A dot a line at its value, lines counted down from 0; none where there is no value."""
    known = [(value, line + aside) for line, value in enumerate(values) if value is not None]
    axis.scatter([value for value, _ in known], [line for _, line in known], **look)


def _lines(axis: Axes, names: Sequence[str]) -> None:
    """Names down the side, a line each."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(alpha=0.25)
    legend(axis)


def whiskers(metrics: Mapping[str, Any], rate: str) -> Image:
    """A rate of every cell of metrics.json with its 95 % interval, what guessing gets, and the decoder told the true caption."""
    cells = {**metrics["matrix"], **metrics.get("combinations", {})}
    found = {name: 100 * cell[rate] for name, cell in cells.items() if rate in cell}
    figure, axis = panel(6.4, 1.0 + 0.25 * max(1, len(found)))
    for line, name in enumerate(found):
        if around := metrics.get("intervals", {}).get(name, {}).get(rate):
            ends = [100 * around["low"], 100 * around["high"]]
            axis.plot(ends, [line, line], color=KIND_COLOURS["image"], linewidth=2)
    _dots(axis, list(found.values()), s=26, color=_NAVY, label="model", zorder=4)
    for what, label, marker, colour in (
        ("upper_bound", "decoder told the caption", "|", TRAINED),
        ("chance", "guessing", "x", _RED),
    ):
        others = [metrics.get("baselines", {}).get(n, {}).get(what, {}).get(rate) for n in found]
        percent = [None if value is None else 100 * value for value in others]
        _dots(axis, percent, s=46, marker=marker, color=colour, label=label, zorder=3)
    axis.set_xlim(-3, 103)
    _lines(axis, list(found))
    entitle(axis, f"{rate}: how often right, with its 95 % interval", "%")
    return picture(figure)


def compared(variants: Mapping[str, Mapping[str, float | None]], title: str) -> Image:
    """Rates of several variants ({variant: {rate: value}}), a line a rate; what one lacks is left out."""
    every = dict.fromkeys(name for rates in variants.values() for name in rates)
    names = [n for n in every if any(rates.get(n) is not None for rates in variants.values())]
    figure, axis = panel(6.4, 1.1 + 0.32 * max(1, len(names)))
    for number, (variant, rates) in enumerate(variants.items()):
        aside = 0.14 * (number - (len(variants) - 1) / 2)  # or equal rates would hide each other
        _dots(axis, [rates.get(name) for name in names], aside, s=34, label=short(variant, 40))
    axis.set_xlim(left=-0.03)
    _lines(axis, names)
    entitle(axis, title, "rate")
    return picture(figure)


def fates(report: Mapping[str, Any]) -> Image:
    """What became of the rows of a data report: kept or why dropped, and the kept ones by source, kind and split."""
    panels = {"rows": {"kept": report["kept"], **report["dropped"]}}
    panels |= {f"kept, by {name}": counts for name, counts in report["rows"].items()}
    tallest = max(len(counts) for counts in panels.values())
    figure = Figure(figsize=(3.6 * len(panels), 1.0 + 0.27 * tallest))
    for number, (title, counts) in enumerate(panels.items()):
        axis = figure.add_subplot(1, len(panels), number + 1)
        colours = ["C3" if name in report["dropped"] else "C0" for name in counts]
        bars = axis.barh(range(len(counts)), list(counts.values()), color=colours)
        axis.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=2, fontsize=8)
        axis.set_yticks(range(len(counts)), [short(n, 28) for n in counts], fontsize=8)
        axis.set_ylim(tallest - 0.5, -0.5)
        axis.margins(x=0.25)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_title(title, fontsize=10)
    figure.tight_layout()
    return picture(figure)


_SPREADS = {"caption_words": "words", "media_seconds": "seconds", "short_side_pixels": "pixels"}


def spreads(report: Mapping[str, Any]) -> Image:
    """How captions, durations and shorter sides of a data report are spread: a row each, a column each kind of medium."""
    kinds = [kind for kind in KINDS if any(kind in report[name] for name in _SPREADS)]
    figure = Figure(figsize=(3.6 * max(1, len(kinds)), 2.2 * len(_SPREADS)))
    for place, (name, kind) in enumerate(product(_SPREADS, kinds)):
        if kind in report[name]:
            axis = figure.add_subplot(len(_SPREADS), len(kinds), place + 1)
            _bars(axis, report[name][kind], f"{kind}: {name.replace('_', ' ')}", _SPREADS[name])
    figure.tight_layout()
    return picture(figure)


def _bars(axis: Axes, spread: Mapping[str, Any], title: str, unit: str) -> None:
    """One histogram as the report holds it; each bar goes from the number on its left up to the one on its right."""
    axis.bar(range(len(spread["counts"])), spread["counts"], width=0.92, align="edge")
    axis.set_xticks(range(len(spread["edges"])), spread["edges"], fontsize=7, rotation=60)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.tick_params("y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, fontsize=9)
    extent = f"{spread['least']:g} to {spread['most']:g} {unit}"
    axis.set_xlabel(f"{spread['n']:,} of {extent}, mean {spread['mean']:.3g}", fontsize=8)
