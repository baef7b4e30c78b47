"""Charts of counts, shares and rates, in the one look that all of the notebooks' figures have.

In come numbers by their names; out come PNGs for a notebook to show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from anytoany_lib.figures.display import picture
from anytoany_lib.memory import planning

# One colour for a kind of medium, and for what is trained, in every figure.
KIND_COLOURS = {"text": "#7f8a96", "image": "#4a90d9", "audio": "#e08e2b", "video": "#3f9e5f"}
TRAINED, FROZEN, GREY = "#1f7a46", "#b8c0c8", "#5b6570"
_RED, _NAVY = "#c0504d", "#1f4e79"
_SOFT = ("#4a90d9", "#9cc3ea", "#3f9e5f", "#f2b661", "#e08e2b", "#d9dde2", "#8d97a2", "#c79fd9",
         "#c0504d", "#7a6fb0", "#1f4e79")  # fmt: skip


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


def layers(names: Sequence[str], values: np.ndarray, title: str) -> Image:
    """Values (names, layers) as a map: a row a name, a column a layer, in percent."""
    figure, axis = panel(max(5.0, 1.8 + 0.26 * values.shape[1]), 1.3 + 0.3 * len(names))
    shown = axis.imshow(100 * values, cmap="magma_r", aspect="auto", vmin=0)
    axis.set_yticks(range(len(names)), names)
    figure.colorbar(shown, label="%", pad=0.02)
    entitle(axis, title, "layer")
    return picture(figure)


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
    """A rate of every cell of metrics.json with its 95 % interval; beside it what guessing gets, and the decoder when it is
    told the true caption.
    """
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
