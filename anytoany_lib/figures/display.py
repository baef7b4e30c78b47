"""Cards with media to play, tables, and loss curves that grow while a stage trains.

In come message parts, rows or losses; out comes HTML that stays in an executed notebook as it is, without a running
kernel. Every text is escaped, media are shrunk to a preview.
"""

import html
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from IPython.display import HTML, display
from matplotlib.figure import Figure

from anytoany_lib.chat.html import part_html
from anytoany_lib.decoders.denoising import is_term
from anytoany_lib.figures.charts import picture
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message, Part, medium_of, parts_of

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
    body = ""
    for row in rows:
        cells = (f'<td style="text-align:left">{cell(row.get(name))}</td>' for name in columns)
        body += f"<tr>{''.join(cells)}</tr>"
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


class LivePlot:
    """Loss curves that grow in place: `with LivePlot("stage 1") as plot: train(..., on_log=plot)`; `plot.lines` keeps the log."""

    def __init__(self, title: str, every: float = 2.0):
        self.title, self.every = title, every
        self.lines: list[dict[str, Any]] = []
        self._drawn = -math.inf

    def __enter__(self) -> Self:
        first = HTML(f"<i>{html.escape(self.title)}: no step yet</i>")
        self._handle = display(first, display_id=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._draw()

    def __call__(self, line: dict[str, Any]) -> None:
        """Takes one logged line (its step, losses, and the pace if it is known); redraws if the last drawing is `every` seconds old."""
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
        last, pace = self.lines[-1], ""
        if "seconds" in last:
            pace = f", {last['seconds']:.0f} s, {last['tokens_per_second']} tokens/s"
        figure.suptitle(f"{self.title}: step {last['step']}{pace}", fontsize=10)
        return figure
