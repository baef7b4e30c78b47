"""Draws docs/figures/architecture.svg and writes the list of modules in docs/ARCHITECTURE.md.

    python docs/make_architecture.py

`LAYERS` says by hand where a module belongs; who imports whom is read from the code. `problems` says where the two
disagree: a module without a place, an import that goes up or sideways, a circle, an import of the toy world from outside.
tests/test_docs.py wants none.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "anytoany_lib"
FIGURE = REPOSITORY / "docs" / "figures" / "architecture.svg"
DOCUMENT = REPOSITORY / "docs" / "ARCHITECTURE.md"
BEGIN = "<!-- modules: written by docs/make_architecture.py, do not edit -->"
END = "<!-- end of modules -->"

# From the top down: layer, what it is for, and its boxes. A module may import from the layers below its own and from
# its own box; not from a layer above, nor from another box beside it.
LAYERS: list[tuple[str, str, dict[str, str]]] = [
    (
        "Entry",
        "what users import",
        {"The package: AnyToAny, Chat, Profile, Session": "anytoany_lib"},
    ),
    (
        "Whole jobs",
        "many runs, many notebooks",
        {
            "Demo, ablations, comparing": "demo ablations comparison figures charts diagrams anatomy",
            "How the tiny models were trained": """toyworld.pace toyworld.training toyworld.captions
                toyworld.autoencoder toyworld.image_training toyworld.video_training
                toyworld.audio_models toyworld.audio_training toyworld.encoder_data
                toyworld.encoder_probes toyworld.encoder_training toyworld.judge_training
                toyworld.decoder_checks toyworld.cards""",
        },
    ),
    (
        "Uses",
        "what one does with a model",
        {
            "Chat": """chat bubbles markdown rendering pages uploads settings widget served serving app
                gradio_app""",
            "Training": """train around job checkpoint fitting reading sharded stage_data ranks
                trackers rehearsal""",
            "Any-to-any matrix": """evaluate judging kept_replies baselines failures similarity
                retrieval perplexity""",
            "Toy world": """toyworld toyworld.pictures toyworld.sounds toyworld.scenes
                toyworld.language toyworld.talks toyworld.tasks toyworld.dataset toyworld.mels toyworld.text_judge
                toyworld.judges""",
            "Published benchmarks": "benchmarks benchmark_media benchmark_files",
        },
    ),
    (
        "System",
        "the parts put together",
        {
            "Fetching and planning": "checkpoints wholeness nextgpt memory room activations",
            "The any-to-any model": "model generation decoding recall",
            "Features of frozen models": "features feature_store contents cache live frozen costs npy_folder",
            "Metrics": "caption_metrics caption_tokens java_metrics vqa distances extractors",
        },
    ),
    (
        "Sources",
        "what goes in, what comes out",
        {
            "Decoders": """decoders conditions decoder_memory broken_media denoising mels
                previews blueprints""",
            "Encoder": "imagebind imagebind_layers imagebind_inputs clip_words",
            "Datasets": """data readers published instructions placing turns named_media marks folders captions shards
                parquet_folder json_files segments reports inspection records manifests ledger""",
        },
    ),
    (
        "Forms",
        "media, words, weights, places",
        {
            "Folders elsewhere": "remote hub downloads differences",
            "Language model": "llm projections",
            "Conversations": """messages pieces tokenizing batches events sampling templates
                template_worker""",
            "Media files": """media containers formats sounds mixing clips animations pictures
                orientation rows""",
        },
    ),
    (
        "Ground",
        "stands on nothing else",
        {
            "Threads, time, counting": """background ahead interrupts phases residence
                out_of_memory storages intervals aligned""",
            "Profiles and runs": """config modalities runs files sources foreign_code urls digests
                legacy_tokenizer""",
        },
    ),
]

TOYS = "toyworld"

Imports = dict[str, dict[str, bool]]


# --- what the code says ---


def sources() -> dict[str, Path]:
    """Every module of the package by its name without the package's, which alone stands for the package itself."""
    found = {}
    for file in sorted((REPOSITORY / PACKAGE).rglob("*.py")):
        parts = file.relative_to(REPOSITORY).with_suffix("").parts
        parts = parts[1:-1] if parts[-1] == "__init__" else parts[1:]
        found[".".join(parts) or PACKAGE] = file
    return found


def _named(node: ast.AST, package: list[str], modules: set[str]) -> set[str]:
    """The package's modules that one import statement names; `package` is where a relative one begins."""
    if isinstance(node, ast.Import):
        full = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        begin = package[: len(package) - node.level + 1] if node.level else []
        base = begin + (node.module.split(".") if node.module else [])
        full = [[*base, alias.name] for alias in node.names]
    else:
        return set()
    found = set()
    for one in full:
        if one[0] == PACKAGE:
            name, inside = ".".join(one[1:]), ".".join(one[1:-1])
            found.add(name if name in modules else inside or PACKAGE)
    return found


def _for_types_alone(tree: ast.Module) -> set[ast.AST]:
    """What stands below `if TYPE_CHECKING:`, which never runs."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def read_imports() -> Imports:
    """module -> {imported module: whether that import ever runs}, inside functions too."""
    files = sources()
    imports: Imports = {}
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        never = _for_types_alone(tree)
        package = list(file.relative_to(REPOSITORY).parts[:-1])
        imports[name] = {}
        for node in ast.walk(tree):
            for imported in _named(node, package, set(files)):
                ran = imports[name].get(imported, False)
                imports[name][imported] = ran or node not in never
    return imports


# --- where the table and the code disagree ---


def places() -> dict[str, tuple[int, str]]:
    """module -> (its layer, counted from the top; its box)."""
    return {
        module: (layer, box)
        for layer, (_, _, boxes) in enumerate(LAYERS)
        for box, modules in boxes.items()
        for module in modules.split()
    }


def problems(imports: Imports) -> list[str]:
    """What is wrong, a sentence each; nothing if the table is true of the code."""
    place = places()
    said = [f"{name} has no place in LAYERS" for name in imports if name not in place]
    said += [f"{name} has a place in LAYERS, but no file" for name in place if name not in imports]
    for name, imported in imports.items():
        for other in sorted(imported):
            if name not in place or other not in place or place[name] == place[other]:
                continue
            if place[other][0] <= place[name][0]:
                way = "up" if place[other][0] < place[name][0] else "sideways"
                said.append(f"{name} imports {other}: {way}")
            if other.startswith(TOYS) and not name.startswith(TOYS):
                said.append(f"{name} imports {other}: the toy world is for notebooks and tests")
    running = {
        name: {other for other, runs in imported.items() if runs}
        for name, imported in imports.items()
    }
    said += [
        f"{name} imports itself by way of others"
        for name in imports
        if name in _reached(name, running)
    ]
    return said


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """All that one gets to from `start`, in one step or many."""
    found: set[str] = set()
    ahead = list(graph.get(start, ()))
    while ahead:
        if (name := ahead.pop()) not in found:
            found.add(name)
            ahead += graph.get(name, ())
    return found


def arrows(imports: Imports) -> list[tuple[str, str]]:
    """(box, box that it imports from), without those that a way over other boxes implies."""
    place = places()
    graph: dict[str, set[str]] = {box: set() for _, _, boxes in LAYERS for box in boxes}
    for name, imported in imports.items():
        graph[place[name][1]] |= {place[other][1] for other in imported} - {place[name][1]}
    return [
        (box, other)
        for box, others in graph.items()
        for other in sorted(others)
        if not any(other in _reached(between, graph) for between in others - {other})
    ]


# --- the picture ---

WIDTH, MARGIN, TITLES = 1180, 12, 132
GAP, BAND_GAP, PADDING = 30, 44, 12
LINE, TITLE_LINE = 17, 20
CHARACTER, TITLE_CHARACTER = 7.25, 7.8
HUES = [275, 335, 20, 50, 150, 205, 240]  # of the layers, in degrees
SHADES = [34, 44, 22, 38, 52]  # of the boxes beside each other in one, in % of lightness


@dataclass
class Box:
    """A group of modules as it is drawn: its lines of text, its layer, its colour, and its place."""

    title: str
    lines: list[str]
    layer: int
    colour: str
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def _widths(boxes: dict[str, list[str]]) -> list[float]:
    """Of boxes side by side: none narrower than its longest words, and wider where there is more to say."""
    least = [
        max(TITLE_CHARACTER * len(title), *(CHARACTER * len(_short(one)) for one in modules))
        + 2 * PADDING
        for title, modules in boxes.items()
    ]
    wanted = [sum(len(_short(module)) + 1 for module in modules) for modules in boxes.values()]
    left = WIDTH - 2 * MARGIN - TITLES - GAP * (len(boxes) + 1) - sum(least)
    return [width + left * more / sum(wanted) for width, more in zip(least, wanted, strict=True)]


def _short(module: str) -> str:
    return module.replace(f"{TOYS}.", "")


def _boxes() -> tuple[list[list[Box]], float]:
    """The boxes of every layer at their places, and the height of the picture."""
    drawn, y = [], float(MARGIN)
    for number, (_, _, boxes) in enumerate(LAYERS):
        modules_of = {title: modules.split() for title, modules in boxes.items()}
        x, layer = MARGIN + TITLES + GAP, []
        for at, width in enumerate(_widths(modules_of)):
            title, modules = list(modules_of.items())[at]
            shown = " ".join(map(_short, modules))
            lines = wrap(shown, int((width - 2 * PADDING) / CHARACTER), break_long_words=False)
            # Boxes of a layer differ in shade, so that their arrows can be told apart.
            colour = f"hsl({HUES[number] + 9 * (at % 3)}, 50%, {SHADES[at]}%)"
            layer.append(Box(title, lines, number, colour, x, y + PADDING, width))
            x += width + GAP
        height = max(len(box.lines) for box in layer) * LINE + TITLE_LINE + 2 * PADDING - 4
        for box in layer:
            box.height = height
        drawn.append(layer)
        y += height + 2 * PADDING + BAND_GAP
    return drawn, y - BAND_GAP + MARGIN


def _ways(drawn: list[list[Box]], pairs: list[tuple[str, str]]) -> list[tuple[Box, list]]:
    """Each arrow as the box it leaves and the points it passes, through gaps between the boxes of layers on its way."""
    by_title = {box.title: box for layer in drawn for box in layer}
    ends = [(by_title[a], by_title[b]) for a, b in pairs]
    taken: dict[tuple[int, float], int] = {}
    ways = []
    for upper, lower in ends:
        leaving = sorted((b.middle for a, b in ends if a is upper))
        coming = sorted((a.middle for a, b in ends if b is lower))
        points = [(_port(upper, leaving.index(lower.middle), len(leaving)), upper.y + upper.height)]
        end = _port(lower, coming.index(upper.middle), len(coming))
        for layer in drawn[upper.layer + 1 : lower.layer]:
            share = (layer[0].y - points[0][1]) / (lower.y - points[0][1])
            straight = points[0][0] + share * (end - points[0][0])
            gaps = [layer[0].x - GAP / 2, *(box.x + box.width + GAP / 2 for box in layer)]
            gap = min(gaps, key=lambda x: abs(x - straight))
            lane = taken.get((layer[0].layer, gap), 0)
            taken[layer[0].layer, gap] = lane + 1
            x = gap + 5 * (-1) ** lane * ((lane + 1) // 2)
            points += [(x, layer[0].y - PADDING), (x, layer[0].y + layer[0].height + PADDING)]
        ways.append((upper, [*points, (end, lower.y - 1)]))
    return ways


def _port(box: Box, number: int, of: int) -> float:
    """Where the arrow `number` of so many meets a side of its box."""
    return box.x + box.width * (number + 1) / (of + 1)


def _curve(points: list) -> str:
    """A path through points that is upright in each of them."""
    steps = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        half = (y0 + y1) / 2
        steps.append(f"C{x0:.1f},{half:.1f} {x1:.1f},{half:.1f} {x1:.1f},{y1:.1f}")
    return " ".join(steps)


def _drawn_band(layer: list[Box], name: str, about: str) -> list[str]:
    colour = f"hsl({HUES[layer[0].layer]}, 50%, 36%)"
    top, height = layer[0].y - PADDING, layer[0].height + 2 * PADDING
    middle, x = top + height / 2, MARGIN + 14
    lines = wrap(about, 18)
    first = middle - (len(lines) * 15) / 2
    return [
        f'<rect x="{MARGIN}" y="{top:.1f}" width="{WIDTH - 2 * MARGIN}" height="{height:.1f}" rx="10" '
        f'fill="{colour}" fill-opacity="0.10"/>',
        f'<text x="{x}" y="{first:.1f}" class="layer" fill="{colour}">{escape(name)}</text>',
        *(
            f'<text x="{x}" y="{first + 17 + 15 * n:.1f}" class="about">{escape(line)}</text>'
            for n, line in enumerate(lines)
        ),
    ]


def _drawn_box(box: Box) -> list[str]:
    x, y = box.x + PADDING, box.y + PADDING + 8
    return [
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="6" '
        f'fill="#ffffff" stroke="{box.colour}"/>',
        f'<text x="{x:.1f}" y="{y:.1f}" class="box">{escape(box.title)}</text>',
        *(
            f'<text x="{x:.1f}" y="{y + TITLE_LINE + LINE * n:.1f}" class="module">{line}</text>'
            for n, line in enumerate(box.lines)
        ),
    ]


def picture(imports: Imports) -> str:
    """The whole picture as SVG."""
    drawn, height = _boxes()
    said = "An arrow means: imports. Where boxes between two already lead from one to the other, it is left out."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 26:.0f}" '
        f'font-family="Helvetica, Arial, sans-serif">',
        "<title>The modules of anytoany_lib in layers, and which import which</title>",
        "<style>.layer{font-size:16px;font-weight:bold}.about{font-size:12px;fill:#444}"
        ".box{font-size:14px;font-weight:bold;fill:#222}"
        ".module{font-size:12px;font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#333}</style>",
        f'<rect width="{WIDTH}" height="{height + 26:.0f}" fill="#ffffff"/>',
    ]
    for layer, (name, about, _) in zip(drawn, LAYERS, strict=True):
        parts += _drawn_band(layer, name, about)
    for box, points in _ways(drawn, arrows(imports)):
        (x, y), colour = points[-1], box.colour
        parts += [
            f'<path d="{_curve(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<path d="M{x - 4:.1f},{y - 7:.1f} h8 l-4,7 z" fill="{colour}"/>',
        ]
    parts += [line for layer in drawn for box in layer for line in _drawn_box(box)]
    parts.append(f'<text x="{MARGIN + 14}" y="{height + 14:.0f}" class="about">{said}</text>')
    return "\n".join([*parts, "</svg>", ""])


# --- the list of modules ---


def _first_sentence(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    paragraph = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s|: `?python -m", paragraph)[0].rstrip(".")


def section() -> str:
    """The list of modules in markdown: every layer from the bottom up, a line for each module."""
    files, lines = sources(), [BEGIN, ""]
    for name, about, boxes in reversed(LAYERS):
        lines += [f"### {name}: {about}", ""]
        for box, modules in boxes.items():
            lines += [f"**{box}**", ""]
            lines += [
                f"- `{module}`: {_first_sentence(files[module])}" for module in modules.split()
            ]
            lines.append("")
    return "\n".join([*lines, END])


def main() -> None:
    """Draws the picture and writes the list, unless the table is not true."""
    imports = read_imports()
    if wrong := problems(imports):
        raise SystemExit(
            "\n".join([*wrong, "mend LAYERS in docs/make_architecture.py, or the import"])
        )
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(picture(imports), encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(before + section() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
