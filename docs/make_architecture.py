"""Draws docs/figures/architecture.svg and writes the list of modules in docs/ARCHITECTURE.md.

    python docs/make_architecture.py

Both are read from the folders and the imports in the code: a wing of the library is one door, and so is every module on
the ground floor. `problems` says what breaks the rules of the house: a circle, a full wing, an import of the toy world
from outside. tests/project/test_docs.py wants none.
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

TOYS = "toyworld"  # the data of profile `tiny`: for notebooks and tests, unknown to the rest
# The modules that hold the whole idea, in the order in which it unfolds.
READING_PATH = (
    "modalities",
    "messages",
    "batches",
    "projections",
    "llm",
    "model",
    "train",
    "encoders.imagebind",
    "generation.events",
    "generation.kv_cache",
    "generation.decoding",
    "generation.media_models",
    "generation.replies",
    "decoders.adapters",
)
PATH_BEGIN = "<!-- reading path: written by docs/make_architecture.py, do not edit -->"
PATH_END = "<!-- end of reading path -->"
DOZEN = 12  # files of a folder at most: more is another wing

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


# --- the rules of the house ---


def door(module: str) -> str:
    """What stands for a module in the picture: its wing, or itself if it is on the ground floor."""
    return module.split(".")[0]


def running(imports: Imports) -> dict[str, set[str]]:
    """module -> the modules that it imports when it runs: not those that only type checkers read."""
    return {name: {one for one, runs in found.items() if runs} for name, found in imports.items()}


def doors(imports: Imports) -> dict[str, set[str]]:
    """door -> the doors that it imports from. The package itself, which loads all names late, has none."""
    graph: dict[str, set[str]] = {door(name): set() for name in imports if name != PACKAGE}
    for name, found in running(imports).items():
        if name != PACKAGE:
            graph[door(name)] |= {door(one) for one in found} - {door(name), PACKAGE}
    return graph


def problems(imports: Imports) -> list[str]:
    """What breaks the rules, a sentence each; nothing if the house stands."""
    said = [
        f"{name} imports {one}: the toy world is for notebooks and tests"
        for name, found in imports.items()
        for one in sorted(found)
        if door(one) == TOYS and door(name) != TOYS
    ]
    for graph in (running(imports), doors(imports)):
        said += [
            f"{name} imports itself by way of others"
            for name in graph
            if name in _reached(name, graph)
        ]
    folders: dict[str, int] = {}
    for name in imports:
        if sources().get(name, Path()).name != "__init__.py":
            folder = name.rpartition(".")[0]
            folders[folder] = folders.get(folder, 0) + 1
    said += [
        f"{folder or 'the ground floor'} holds {count} files, {DOZEN} at most"
        for folder, count in folders.items()
        if count > DOZEN
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
    """(door, door that it imports from), without those that a way over other doors implies."""
    graph = doors(imports)
    return [
        (name, other)
        for name, others in graph.items()
        for other in sorted(others)
        if not any(other in _reached(between, graph) for between in others - {other})
    ]


def floors(imports: Imports) -> list[list[str]]:
    """The doors from the top floor down: each one floor above the highest that it imports from."""
    graph = doors(imports)
    height: dict[str, int] = {}
    while len(height) < len(graph):
        for name, others in graph.items():
            if name not in height and all(other in height for other in others):
                height[name] = 1 + max((height[other] for other in others), default=-1)
    top = max(height.values())
    return [[name for name in graph if height[name] == floor] for floor in range(top, -1, -1)]


# --- the picture ---

WIDTH, MARGIN = 1180, 12
GAP, FLOOR_GAP, PADDING = 30, 34, 12
LINE, TITLE_LINE = 17, 20
CHARACTER, TITLE_CHARACTER = 7.25, 7.8
SHADES = [34, 44, 22, 38, 52]  # of the doors beside each other on a floor, in % of lightness


@dataclass
class Box:
    """A door as it is drawn: its lines of text, its floor counted from the top, its colour, and its place."""

    title: str
    lines: list[str]
    floor: int
    colour: str
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def _text(name: str, files: dict[str, Path]) -> tuple[str, str]:
    """What a door says: its title, and the modules behind it or, on the ground floor, what the module is."""
    inside = [
        module.partition(".")[2]
        for module, file in files.items()
        if module.startswith(f"{name}.") and not file.name.startswith("__")
    ]
    if inside:
        return f"{name}/", " ".join(inside)
    return f"{name}.py", _first_sentence(files[name])


def _widths(texts: list[tuple[str, str]]) -> list[float]:
    """Of doors side by side: none narrower than its longest word, and wider where there is more to say."""
    least = [
        max(TITLE_CHARACTER * len(title), *(CHARACTER * len(word) for word in said.split()))
        + 2 * PADDING
        for title, said in texts
    ]
    left = WIDTH - 2 * MARGIN - GAP * (len(texts) + 1) - sum(least)
    every = sum(len(said) for _, said in texts)
    return [width + left * len(said) / every for width, (_, said) in zip(least, texts, strict=True)]


def _boxes(imports: Imports) -> tuple[list[list[Box]], float]:
    """The doors of every floor at their places, and the height of the picture."""
    files, drawn, y = sources(), [], float(MARGIN)
    plan = floors(imports)
    for number, names in enumerate(plan):
        texts = [_text(name, files) for name in names]
        x, floor = float(MARGIN + GAP), []
        for at, width in enumerate(_widths(texts)):
            title, said = texts[at]
            lines = wrap(said, int((width - 2 * PADDING) / CHARACTER), break_long_words=False)
            # Doors of a floor differ in shade, so that their arrows can be told apart.
            hue = 360 * number / len(plan)
            colour = f"hsl({hue:.0f}, 50%, {SHADES[at % len(SHADES)]}%)"
            floor.append(Box(title, lines, number, colour, x, y + PADDING, width))
            x += width + GAP
        height = max(len(box.lines) for box in floor) * LINE + TITLE_LINE + 2 * PADDING - 4
        for box in floor:
            box.height = height
        drawn.append(floor)
        y += height + 2 * PADDING + FLOOR_GAP
    return drawn, y - FLOOR_GAP + MARGIN


def _ways(drawn: list[list[Box]], pairs: list[tuple[str, str]]) -> list[tuple[Box, list]]:
    """Each arrow as the box it leaves and the points it passes, through gaps between the boxes of the floors on its way."""
    by_name = {re.sub(r"/$|\.py$", "", box.title): box for floor in drawn for box in floor}
    ends = [(by_name[a], by_name[b]) for a, b in pairs]
    taken: dict[tuple[int, float], int] = {}
    ways = []
    for upper, lower in ends:
        leaving = sorted((b.middle for a, b in ends if a is upper))
        coming = sorted((a.middle for a, b in ends if b is lower))
        points = [(_port(upper, leaving.index(lower.middle), len(leaving)), upper.y + upper.height)]
        end = _port(lower, coming.index(upper.middle), len(coming))
        for floor in drawn[upper.floor + 1 : lower.floor]:
            share = (floor[0].y - points[0][1]) / (lower.y - points[0][1])
            straight = points[0][0] + share * (end - points[0][0])
            gaps = [floor[0].x - GAP / 2, *(box.x + box.width + GAP / 2 for box in floor)]
            gap = min(gaps, key=lambda x: abs(x - straight))
            lane = taken.get((floor[0].floor, gap), 0)
            taken[floor[0].floor, gap] = lane + 1
            x = gap + 5 * (-1) ** lane * ((lane + 1) // 2)
            points += [(x, floor[0].y - PADDING), (x, floor[0].y + floor[0].height + PADDING)]
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


def _drawn_floor(floor: list[Box]) -> str:
    return (
        f'<rect x="{MARGIN}" y="{floor[0].y - PADDING:.1f}" width="{WIDTH - 2 * MARGIN}" '
        f'height="{floor[0].height + 2 * PADDING:.1f}" rx="10" fill="{floor[0].colour}" fill-opacity="0.10"/>'
    )


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
    drawn, height = _boxes(imports)
    said = "An arrow means: imports. Where doors between two already lead from one to the other, it is left out."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 26:.0f}" '
        f'font-family="Helvetica, Arial, sans-serif">',
        "<title>The wings of anytoany_lib and the modules on its ground floor, and which import which</title>",
        "<style>.about{font-size:12px;fill:#444}"
        ".box{font-size:14px;font-weight:bold;fill:#222}"
        ".module{font-size:12px;font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#333}</style>",
        f'<rect width="{WIDTH}" height="{height + 26:.0f}" fill="#ffffff"/>',
    ]
    parts += [_drawn_floor(floor) for floor in drawn]
    for box, points in _ways(drawn, arrows(imports)):
        (x, y), colour = points[-1], box.colour
        parts += [
            f'<path d="{_curve(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<path d="M{x - 4:.1f},{y - 7:.1f} h8 l-4,7 z" fill="{colour}"/>',
        ]
    parts += [line for floor in drawn for box in floor for line in _drawn_box(box)]
    parts.append(f'<text x="{MARGIN + 14}" y="{height + 14:.0f}" class="about">{said}</text>')
    return "\n".join([*parts, "</svg>", ""])


# --- the list of modules ---


def _first_sentence(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    paragraph = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s|: `?python -m", paragraph)[0].rstrip(".")


def reading_path() -> str:
    """The reading path as a table in markdown, with the lines of each module and of all."""
    files = sources()
    lengths = {
        name: len(files[name].read_text(encoding="utf-8").splitlines()) for name in READING_PATH
    }
    lines = [PATH_BEGIN, "", "| module | lines | what it is |", "| --- | ---: | --- |"]
    lines += [
        f"| `{name}` | {length} | {_first_sentence(files[name])} |"
        for name, length in lengths.items()
    ]
    return "\n".join([*lines, f"| all of it | {sum(lengths.values()):,} | |", "", PATH_END])


def section() -> str:
    """The list of modules in markdown: the ground floor, then wing by wing, a line for each module."""
    files = sources()
    ground = [name for name in files if "." not in name and files[name].name != "__init__.py"]
    wings = [name for name in files if name != PACKAGE and files[name].name == "__init__.py"]
    lines = [BEGIN, "", "### The ground floor", ""]
    lines += [f"- `{name}`: {_first_sentence(files[name])}" for name in ground]
    for wing in wings:
        lines += ["", f"### `{wing}`: {_first_sentence(files[wing])}", ""]
        lines += [
            f"- `{name}`: {_first_sentence(files[name])}"
            for name in files
            if name.rpartition(".")[0] == wing and name not in wings and name != f"{wing}.__main__"
        ]
    return "\n".join([*lines, "", END])


def main() -> None:
    """Draws the picture and writes the list, unless a rule of the house is broken."""
    imports = read_imports()
    if wrong := problems(imports):
        raise SystemExit("\n".join(wrong))
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(picture(imports), encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    for begin, end, written in ((PATH_BEGIN, PATH_END, reading_path()), (BEGIN, END, section())):
        text = text.split(begin)[0] + written + text.split(end)[1]
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
