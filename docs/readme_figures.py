"""Two drawings of README and docs, as SVG: how data flow through the system, and what each of the three stages trains.

What is in them comes from a profile: names of decoders and signal tokens, and its table of stages. The same profile gives
the same bytes. In the manner of the framework picture of the NExT-GPT paper (arXiv 2309.05519), drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from anytoany_lib.config import DecoderConfig, Profile, StageConfig
from anytoany_lib.modalities import KINDS, MODALITIES

FOLDER = Path(__file__).resolve().parent / "figures"
_FROZEN, _TRAINED, _IDLE = ("#e7f1fb", "#5b93c9"), ("#fff0dc", "#e8830c"), ("#ffffff", "#c9ced6")
_KIND = {"text": "#1971c2", "image": "#c2255c", "audio": "#0b8f6b", "video": "#6741d9"}
_INK, _FAINT = "#1f2933", "#9aa5b1"
_DECODERS = {
    "stable-diffusion": "Stable Diffusion",
    "stable-diffusion-xl": "Stable Diffusion XL",
    "audioldm": "AudioLDM",
    "text-to-video": "text-to-video",
}
_PARTS = {
    "input_projection": "input projection",
    "token_rows": "new token rows",
    "lora": "LoRA",
    "output_projections": "output projections",
}
_READS = {
    "comprehension": ("a medium goes in,", "its caption comes out"),
    "generation": ("a caption goes in,", "its medium comes out"),
    "instructions": ("conversations,", "all kinds both ways"),
}


class Drawing:
    """An SVG picture on a white ground that grows element by element; coordinates in pixels."""

    def __init__(self, width: int, height: int, title: str):
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif" role="img">',
            f"<title>{escape(title)}</title>",
            "<defs>"
            + "".join(
                f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="5" markerHeight="5" orient="auto-start-reverse">'
                f'<path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker>'
                for name, colour in {**_KIND, "ink": _INK, "faint": _FAINT}.items()
            )
            + "</defs>",
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
        ]

    def add(self, element: str) -> None:
        """Any element, on top of what is there."""
        self._parts.append(element)

    def text(self, x: float, y: float, words: str, size: int = 17, **looks: str) -> None:
        """One line, centred on x unless `anchor` says otherwise; y is its base line."""
        anchor, colour = looks.get("anchor", "middle"), looks.get("colour", _INK)
        weight = f' font-weight="{looks["weight"]}"' if "weight" in looks else ""
        self.add(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'
        )

    def box(
        self,
        place: tuple[float, float, float, float],
        lines: Sequence[str],
        state: tuple[str, str],
        size: int = 17,
    ) -> None:
        """A part of the system at (x, y, width, height): its name over several lines, coloured by its state."""
        x, y, width, height = place
        fill, edge = state
        dashed = ' stroke-dasharray="5 4"' if state is _IDLE else ""
        self.add(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="9" fill="{fill}" stroke="{edge}" stroke-width="2"{dashed}/>'
        )
        leading = 1.2 * size
        first = y + height / 2 - leading / 2 * (len(lines) - 1) + size / 3
        colour = _FAINT if state is _IDLE else _INK
        for number, line in enumerate(lines):
            self.text(x + width / 2, first + leading * number, line, size, colour=colour)
        if state is not _IDLE:
            self.mark(x + width - 3, y + height - 3, state)

    def mark(self, x: float, y: float, state: tuple[str, str]) -> None:
        """A flame for what is trained, a snowflake for what is frozen."""
        if state is _TRAINED:
            self.add(
                f'<path transform="translate({x:g} {y:g})" d="M0 -14 C5 -8 9 -4 7 3 C6 8 -6 8 -7 3 C-8 -1 -5 -3 -4 -7 C-2 -5 -2 -3 -1 -3 C1 -6 1 -10 0 -14 z" '
                'fill="#f76707" stroke="#ffffff" stroke-width="1.5"/>'
            )
            return
        spokes = "".join(f'<path d="M0 -9 V9" transform="rotate({a})"/>' for a in (0, 60, 120))
        self.add(
            f'<g transform="translate({x:g} {y:g})" stroke="#ffffff" stroke-width="6" stroke-linecap="round">{spokes}</g>'
            f'<g transform="translate({x:g} {y:g})" stroke="#3d85c6" stroke-width="2.4" stroke-linecap="round">{spokes}</g>'
        )

    def arrow(self, path: str, colour: str = "ink", both: bool = False) -> None:
        """A line along an SVG path with a head at its end, or at both; `colour` is a kind of medium, "ink" or "faint"."""
        stroke = _KIND.get(colour, _FAINT if colour == "faint" else _INK)
        heads = f'marker-end="url(#{colour})"' + (f' marker-start="url(#{colour})"' if both else "")
        self.add(f'<path d="{path}" fill="none" stroke="{stroke}" stroke-width="2.6" {heads}/>')

    def icon(self, kind: str, x: float, y: float) -> None:
        """A text, picture, sound or clip, 44 pixels wide, centred on (x, y)."""
        colour = _KIND[kind]
        shapes = {
            "text": "M-15 -20 H8 L15 -13 V20 H-15 z M-8 -8 H7 M-8 0 H7 M-8 8 H3",
            "image": "M-20 -17 H20 V17 H-20 z M-20 11 L-8 -3 L2 8 L9 1 L20 12 M9 -11 a3.5 3.5 0 1 0 0.1 0",
            "audio": "M-18 -5 V5 M-12 -12 V12 M-6 -18 V18 M0 -8 V8 M6 -15 V15 M12 -10 V10 M18 -4 V4",
            "video": "M-20 -17 H20 V17 H-20 z M-20 -10 H20 M-20 10 H20 M-4 -6 L7 0 L-4 6 z",
        }
        self.add(
            f'<path transform="translate({x:g} {y:g})" d="{shapes[kind]}" fill="none" stroke="{colour}" stroke-width="2.6" stroke-linecap="round" stroke-linejoin="round"/>'
        )

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])


def framework(profile: Profile) -> str:
    """Data from left to right: encoder, input projection, language model, signal tokens, output projections, decoders."""
    drawing = Drawing(
        1200, 452, "Text, images, audio and video in; text, images, audio and video out"
    )
    trained = {part for stage in profile.stages.values() for part in stage.learning_rates}
    state = {part: _TRAINED if part in trained else _FROZEN for part in _PARTS}
    drawing.arrow("M122 50 H452", "text")
    drawing.arrow("M648 50 H1080", "text")
    drawing.box((150, 100, 112, 260), ["ImageBind"], _FROZEN)
    drawing.box((306, 100, 108, 260), ["input", "projection"], state["input_projection"])
    drawing.box((458, 18, 186, 342), [], _FROZEN)
    drawing.text(551, 88, "language model", weight="bold")
    drawing.text(551, 112, "in 4-bit NF4" if profile.llm.quantization == "nf4" else "")
    drawing.box((486, 170, 130, 52), ["LoRA"], state["lora"])
    drawing.box((486, 258, 130, 62), ["new token", "rows"], state["token_rows"])
    for number, kind in enumerate(KINDS):
        y = 50 + 90 * number
        drawing.text(10, y + 6, kind, anchor="start", weight="bold", colour=_KIND[kind])
        drawing.icon(kind, 94, y)
        if kind in profile.decoders:
            _lane(drawing, y, kind, profile.decoders[kind], state["output_projections"])
        drawing.icon(kind, 1110, y)
        drawing.text(1190, y + 6, kind, anchor="end", weight="bold", colour=_KIND[kind])
    _brackets(drawing, 384)
    _legend(drawing, 432, "trained, in one stage or more")
    return str(drawing)


def _lane(
    drawing: Drawing, y: float, kind: str, decoder: DecoderConfig, state: tuple[str, str]
) -> None:
    """A medium's way in and out: its arrows, its signal tokens, its output projection and its decoder."""
    for left, right in ((122, 144), (264, 300), (416, 452), (646, 764), (884, 914), (1062, 1082)):
        drawing.arrow(f"M{left} {y} H{right}", kind)
    signal = MODALITIES[kind].signal
    drawing.text(704, y - 26, f"{signal.format(0)} …", 15, colour=_KIND[kind])
    drawing.text(704, y - 9, signal.format(decoder.signals - 1), 15, colour=_KIND[kind])
    drawing.box((770, y - 33, 112, 66), ["output", "projection"], state)
    drawing.box((920, y - 33, 140, 66), _DECODERS[decoder.pipeline].split(" ", 1), _FROZEN)


def _brackets(drawing: Drawing, y: float) -> None:
    """What each part of the way is for, below it."""
    for left, right, words in (
        (150, 262, "encode"),
        (306, 414, "align"),
        (458, 756, "understand, and decide what to answer with"),
        (770, 882, "align"),
        (920, 1060, "generate"),
    ):
        drawing.add(
            f'<path d="M{left} {y - 8} V{y} H{right} V{y - 8}" fill="none" stroke="{_FAINT}" stroke-width="1.6"/>'
        )
        drawing.text((left + right) / 2, y + 18, words, 15)


def _legend(drawing: Drawing, y: float, trained: str) -> None:
    drawing.mark(300, y - 5, _TRAINED)
    drawing.text(316, y, trained, 15, anchor="start")
    drawing.mark(610, y - 5, _FROZEN)
    drawing.text(626, y, "frozen: its weights never change", 15, anchor="start")


def stages(profile: Profile) -> str:
    """A strip for each stage: the parts data pass through, those that are trained and how fast, and what is minimised."""
    height = 176
    drawing = Drawing(
        1200, 36 + height * len(profile.stages), f"The three stages, profile {profile.name}"
    )
    for at, (number, stage) in enumerate(sorted(profile.stages.items())):
        top = 12 + height * at
        if at:
            drawing.add(f'<path d="M16 {top - 8} H1184" stroke="#e4e7eb" stroke-width="2"/>')
        drawing.text(16, top + 50, f"Stage {number}", 22, anchor="start", weight="bold")
        for line, words in enumerate(_READS[stage.reads]):
            drawing.text(16, top + 76 + 20 * line, words, 15, anchor="start")
        _chain(drawing, top + 84, stage)
        for line, words in enumerate(_told(stage)):
            drawing.text(866, top + 44 + 25 * line, words, 16, anchor="start")
    _legend(drawing, 22 + height * len(profile.stages), "trained, and its learning rate")
    return str(drawing)


def _chain(drawing: Drawing, middle: float, stage: StageConfig) -> None:
    """The parts of a stage around the line y = middle: trained ones with their rates, those that have no say pale."""
    reads, writes = stage.reads != "generation", stage.reads != "comprehension"

    def part(name: str, used: bool, place: tuple[float, float, float, float], size: int) -> None:
        rate = stage.learning_rates.get(name)
        words = _PARTS[name].rsplit(" ", 1) if size == 17 else [_PARTS[name]]
        state = _TRAINED if rate else _FROZEN if used else _IDLE
        drawing.box(place, [*words, *([f"{rate:g}"] if rate else [])], state, size)

    top = middle - 36
    drawing.box((178, top, 104, 72), ["ImageBind"], _FROZEN if reads else _IDLE)
    part("input_projection", reads, (308, top, 106, 72), 17)
    drawing.box((440, middle - 72, 142, 144), [], _FROZEN)
    drawing.text(511, middle - 50, "language model", 16, weight="bold")
    part("lora", False, (450, middle - 38, 122, 46), 15)
    part("token_rows", True, (450, middle + 14, 122, 46), 15)
    part("output_projections", writes, (608, top, 106, 72), 17)
    target = _FROZEN if writes else _IDLE
    drawing.box((750, top, 98, 72), ["embedding of", "the caption"], target, 15)
    for left, used in ((284, reads), (416, reads), (584, writes)):
        drawing.arrow(f"M{left} {middle} H{left + 18}", "ink" if used else "faint")
    drawing.arrow(f"M720 {middle} H744", "ink" if writes else "faint", both=True)
    for left, right in ((178, 434), (584, 848)):
        drawing.arrow(f"M{left} {middle - 56} H{right}", "text")
        drawing.text(left + 26, middle - 62, "text", 14, colour=_KIND["text"])


def _told(stage: StageConfig) -> list[str]:
    """What a stage minimises and for how long, in lines of 44 letters at most."""
    answer = "caption" if stage.reads == "comprehension" else "reply"
    lines = [f"loss: cross entropy of the {answer}"]
    if stage.reads != "comprehension":
        lines += [
            f"+ {stage.alignment_weight:g} × {stage.alignment} distance of a projection",
            "from the embedding of its caption",
        ]
        if stage.denoising_weight:
            lines.append(f"+ {stage.denoising_weight:g} × the decoder's own training loss")
    rows = stage.rows_a_step
    lines.append(
        f"{stage.steps} steps of {rows} rows"
        if stage.steps
        else f"epochs: {stage.epochs:g}, in steps of {rows} rows"
    )
    if stage.fit_after.steps:
        lines.append(f"then the output projections alone: {stage.fit_after.steps} steps")
    return lines


def write(profile: Profile) -> None:
    """Puts both drawings into docs/figures."""
    FOLDER.mkdir(exist_ok=True)
    for name, drawn in drawings(profile).items():
        (FOLDER / name).write_text(drawn, encoding="utf-8")


def drawings(profile: Profile) -> dict[str, str]:
    """Both drawings by the names of their files."""
    return {"framework.svg": framework(profile), "stages.svg": stages(profile)}
