"""What the notebooks look at: galleries with sound and film to play, tables, loss curves that grow, heat maps,
data reports.

In come message parts, losses or rates; out come HTML and PNG that stay in an executed notebook as they are, without a
running kernel. Every text is escaped, media are shrunk to a preview.
"""

from __future__ import annotations

import html
import io
import math
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML, Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anytoany_lib.chat.html import part_html
from anytoany_lib.decoders.denoising import is_term
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message, Part, medium_of, parts_of
from anytoany_lib.modalities import KINDS

_SMALL_PIXELS, _SMALL_SECONDS, _SMALL_RATE = 256, 8.0, 24_000  # a gallery shows many
NOT_LOSSES = ("step", "seconds", "learning_rate", "tokens_per_second", "skipped_steps")
_STYLE = """<style>
.a2a-card { display: inline-block; vertical-align: top; margin: 4px; padding: 6px; border: 1px solid #8884;
  border-radius: 6px; box-sizing: border-box; overflow-wrap: anywhere; }
.a2a-card img, .a2a-card video { width: 100%; min-width: 0 !important; max-width: 144px; }
.a2a-card audio, .a2a-card img, .a2a-card video { display: block; }
.a2a-card audio { width: 100%; }
.a2a-card b { display: block; font-size: smaller; opacity: .6; }
.a2a-below { font-size: smaller; opacity: .8; white-space: pre-line; }
</style>"""


def small(part: Part) -> Part:
    """A text as it is, a medium's part with its medium (a path or in memory) shrunk to a preview."""
    kind, medium = part["type"], medium_of(part)
    if kind == "text" or medium is None:
        return part
    if kind == "image":
        medium = media_files.as_image(medium).copy()
        medium.thumbnail((_SMALL_PIXELS, _SMALL_PIXELS))
    elif kind == "audio":
        samples, rate = media_files.as_audio(medium)
        samples = samples[: int(_SMALL_SECONDS * rate)]
        medium = media_files.as_audio((samples, rate), min(rate, _SMALL_RATE))
    elif isinstance(medium, str | Path):
        medium = media_files.load_video(
            medium, max_seconds=_SMALL_SECONDS, short_side=_SMALL_PIXELS // 2
        )
    return {"type": kind, kind: medium}


def gallery(cards: Iterable[tuple[Sequence[Part], str]], width: int = 160) -> HTML:
    """Cards side by side: (parts, the line below them). `width` of one card in pixels."""
    return _cards(((_parts_html(parts), below) for parts, below in cards), width)


def conversations(talks: Iterable[tuple[Sequence[Message], str]], width: int = 230) -> HTML:
    """Cards side by side: (messages, the line below them), each turn under its role."""
    return _cards(((_turns_html(messages), below) for messages, below in talks), width)


def _parts_html(parts: Sequence[Part]) -> str:
    return "".join(part_html(small(part)) for part in parts)


def _turns_html(messages: Sequence[Message]) -> str:
    return "".join(
        f"<b>{html.escape(message['role'])}</b>{_parts_html(parts_of(message))}"
        for message in messages
    )


def _cards(contents: Iterable[tuple[str, str]], width: int) -> HTML:
    """Boxes of finished HTML, each with a line of plain text below."""
    made = [
        f'<div class="a2a-card" style="width:{width}px">{content}'
        f'<div class="a2a-below">{html.escape(below)}</div></div>'
        for content, below in contents
    ]
    return HTML(_STYLE + "".join(made) if made else "<i>nothing to show</i>")


def table(rows: Sequence[Mapping[str, Any]]) -> HTML:
    """Rows of the same columns, in the order of the first row's keys; floats with three digits, None as a dash."""
    if not rows:
        return HTML("<i>no rows</i>")

    def cell(value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        return html.escape(f"{value:.3g}" if isinstance(value, float) else str(value))

    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th style="text-align:left">{html.escape(str(name))}</th>' for name in columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:left">{cell(row.get(name))}</td>' for name in columns)
        + "</tr>"
        for row in rows
    )
    heading = f"<thead><tr>{head}</tr></thead>" if any(map(str.strip, columns)) else ""
    return HTML(f"<table>{heading}<tbody>{body}</tbody></table>")


def facts(values: Mapping[str, Any]) -> HTML:
    """A table of names and their values."""
    return table([{"": name, " ": value} for name, value in values.items()])


def megabytes(count: float) -> str:
    """Bytes as people read them: "12.3 MB"."""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def outcome(record: Mapping[str, Any]) -> HTML:
    """What a training came to, from its `run.json`: fits, held-out losses, time, peak memory."""
    fits = {f"fitted alone, {name}": value for name, value in record["fitted"].items()}
    losses = {f"held-out loss, {name}": loss for name, loss in record["validation"].items()}
    memory = {f"peak memory, {at}": megabytes(n) for at, n in record["peak_memory_bytes"].items()}
    return facts(fits | losses | {"minutes": record["seconds"] / 60} | memory)


def picture(figure: Figure) -> Image:
    """A matplotlib figure as a PNG to display."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return Image(data=buffer.getvalue(), format="png")


class LivePlot:
    """Loss curves that grow in place while a stage trains.

    `with LivePlot("stage 1") as plot: train(..., on_log=plot)`; `plot.lines` keeps what was logged.
    """

    def __init__(self, title: str, every: float = 2.0):
        self.title, self.every = title, every
        self.lines: list[dict[str, Any]] = []
        self._drawn = -math.inf

    def __enter__(self) -> LivePlot:
        self._handle = display(
            HTML(f"<i>{html.escape(self.title)}: no step yet</i>"), display_id=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._draw()

    def __call__(self, line: dict[str, Any]) -> None:
        """Takes one logged line; redraws if the last drawing is `every` seconds old."""
        self.lines.append(line)
        if time.monotonic() - self._drawn > self.every:
            self._draw()

    def _draw(self) -> None:
        names = list(dict.fromkeys(n for line in self.lines for n in line if n not in NOT_LOSSES))
        if names:
            self._handle.update(picture(self._figure(names)))
            self._drawn = time.monotonic()

    def _figure(self, names: list[str]) -> Figure:
        groups: dict[str, list[str]] = {}
        for name in names:
            measure = "distance to the caption" if name != "text" else "cross entropy"
            groups.setdefault("error of denoising" if is_term(name) else measure, []).append(name)
        figure = Figure(figsize=(5 * len(groups), 2.8))
        for number, (measure, group) in enumerate(groups.items()):
            axis = figure.add_subplot(1, len(groups), number + 1)
            for name in group:
                of_name = [line for line in self.lines if name in line]
                steps, losses = [line["step"] for line in of_name], [line[name] for line in of_name]
                axis.plot(steps, losses, marker=".", label=f"{name} {losses[-1]:.3f}")
            axis.set(xlabel="step", ylabel=measure)
            axis.set_ylim(bottom=0)
            axis.legend(fontsize=8)
        last = self.lines[-1]
        figure.suptitle(
            f"{self.title}: step {last['step']}, {last['seconds']:.0f} s, {last['tokens_per_second']} tokens/s",
            fontsize=10,
        )
        return figure


def heat(
    axis: Axes,
    values: np.ndarray,
    names: tuple[Sequence[str], Sequence[str]],
    span: tuple[float, float],
    form: str,
) -> None:
    """Draws one heat map with its numbers: names of rows and columns, span (lowest, highest); nan stays blank."""
    low, high = span
    axis.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    turn: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, names[1])) > 8 else {}
    axis.set_xticks(range(len(names[1])), names[1], fontsize=8, **turn)
    axis.set_yticks(range(len(names[0])), names[0], fontsize=8)
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value < low + 0.6 * (high - low) else "black"
            axis.text(x, y, form.format(value), ha="center", va="center", fontsize=8, color=colour)


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    form: str = "{:.2f}",
) -> Image:
    """A matrix (len(rows), len(columns)) in colours, its numbers written in."""
    figure = Figure(figsize=(2.5 + 0.7 * len(columns), 1.2 + 0.36 * len(rows)))
    axis = figure.add_subplot()
    finite = values[~np.isnan(values)]
    heat(axis, values, (rows, columns), (finite.min(initial=0), finite.max(initial=1e-9)), form)
    axis.set_title(title, fontsize=10)
    return picture(figure)


def matrix(metrics: Mapping[str, Any], rates: Sequence[str]) -> Image:
    """The any-to-any matrix of metrics.json, one map a rate: rows are what is given, columns what is answered.

    Combinations of media given are rows below the four kinds.
    """
    cells = {**metrics["matrix"], **metrics.get("combinations", {})}
    given = list(dict.fromkeys([*KINDS, *(name.split("->")[0] for name in cells)]))
    figure = Figure(figsize=(3.4 * len(rates), 1.1 + 0.45 * len(given)))
    for number, rate in enumerate(rates):
        values = np.array(
            [[cells.get(f"{g}->{w}", {}).get(rate, np.nan) for w in KINDS] for g in given],
            dtype=float,
        )
        axis = figure.add_subplot(1, len(rates), number + 1)
        heat(axis, 100 * values, (given, KINDS), (0, 100), "{:.0f}")
        axis.set_title(f"{rate}, %", fontsize=10)
        axis.set_xlabel("answered", fontsize=8)
        if not number:
            axis.set_ylabel("given", fontsize=8)
    figure.tight_layout()
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
        axis.set_yticks(range(len(counts)), [textwrap.shorten(n, 28) for n in counts], fontsize=8)
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
