"""The notebooks as a course: what every one of them has to have, and that the tests would notice if it had not."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from IPython.display import HTML, Image
from nbformat import NotebookNode

from anytoany_lib.figures import charts, diagrams

ROOT = Path(__file__).resolve().parents[2]
EVERY = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in EVERY if path.stem[0] == "0"]
sys.path.append(str(ROOT / "docs"))
make_address = importlib.import_module("make_address")
FIGURES = {
    name
    for module in (charts, diagrams)
    for name, found in inspect.getmembers(module, inspect.isfunction)
    if inspect.get_annotations(found, eval_str=True).get("return") in (Image, HTML)
    and found.__module__ == module.__name__
}
_SHOWING = {"print", "display", "show", "LivePlot"}


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The code cells with a tag."""
    return [cell for cell in code_of(notebook) if tag in cell.metadata.get("tags", [])]


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parsed(source: str) -> ast.Module:
    """A cell of code, its magics as calls."""
    return ast.parse(TransformerManager().transform_cell(source))


def called(source: str) -> set[str]:
    """The names of all functions that code calls."""
    calls = (node.func for node in ast.walk(parsed(source)) if isinstance(node, ast.Call))
    return {
        func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls
    }


def shows(source: str) -> bool:
    """Whether a cell leaves something to look at."""
    return isinstance(parsed(source).body[-1], ast.Expr) or bool(_SHOWING & called(source))


def faults(name: str, notebook: NotebookNode) -> Iterator[str]:
    """What a notebook lacks of a lesson, in words."""
    yield from _faults_of_its_opening(name, notebook)
    yield from _faults_of_its_cells(notebook)
    if name[0] == "0" and not FIGURES & called(
        "\n".join(cell.source for cell in code_of(notebook))
    ):
        yield "draws no figure of the live model"
    tries = [cell.source for cell in notebook.cells if cell.source.startswith("## What to try")]
    if len(tries) != 1 or len(re.findall(r"^- ", tries[0], re.MULTILINE)) not in (2, 3):
        yield "has not two or three things to try"


def _faults_of_its_opening(name: str, notebook: NotebookNode) -> Iterator[str]:
    opening, code = notebook.cells[0].source, code_of(notebook)
    if not opening.startswith("# ") or not all(
        f"**{what}**" in opening for what in ("Reads", "Writes")
    ):
        yield "does not say first what it reads and writes"
    badge = make_address.badge(make_address.address(), name)
    if re.findall(r"\[!\[Open in Colab\S*", opening) != ([badge] if badge else []):
        yield f"has another badge than {badge or 'none'}: run make address"
    if tagged(notebook, "parameters") != code[:1]:
        yield "does not begin with its parameters, in one cell"
    elif not all(": " in line.split("=")[0] for line in code[0].source.splitlines() if "=" in line):
        yield "has a parameter without its type"
    installing = tagged(notebook, "colab")
    if installing != code[1:2]:
        yield "does not install the kit in Colab, in one cell behind the parameters"
    elif installing[0].source != make_address.colab_cell(make_address.address()):
        yield "sets Colab up in another way than all others: run make address"


def _faults_of_its_cells(notebook: NotebookNode) -> Iterator[str]:
    code = code_of(notebook)
    lengths = [len(cell.source.splitlines()) for cell in code]
    if max(lengths) > 25:
        yield f"has a cell of {max(lengths)} lines, 25 are the most"
    if statistics.median(lengths) >= 9:
        yield f"has cells of {statistics.median(lengths)} lines at the median, not under 9"
    kept = "ran" in notebook.metadata  # see docs/make_outputs.py
    if not kept and any(cell.outputs or cell.execution_count for cell in code):
        yield "holds outputs"
    lessons = [cell for cell in code[1:] if "colab" not in cell.metadata.get("tags", [])]
    silent = [cell.id for cell in lessons if not shows(cell.source)]
    if silent:
        yield f"has cells that show nothing: {', '.join(silent)}"


@pytest.fixture
def lesson() -> NotebookNode:
    """One of the notebooks, to be spoilt."""
    return copy.deepcopy(nbformat.read(NUMBERED[4], as_version=4))


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_every_notebook_is_a_lesson(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert list(faults(path.stem, notebook)) == []


def from_scratch() -> list[NotebookNode]:
    """The code of notebook from_scratch up to where the library comes in to compare, without the install cell."""
    cells = nbformat.read(ROOT / "notebooks" / "from_scratch.ipynb", as_version=4).cells
    titles = [cell.source.splitlines()[0] for cell in cells]
    own = cells[: titles.index("## The library computes the same")]
    code = [cell for cell in own if cell.cell_type == "code"]
    return [cell for cell in code if "colab" not in cell.metadata.get("tags", [])]


def lines_of_code(source: str) -> int:
    """Lines that are neither blank nor part of an import, a docstring or a comment."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            left_out |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(map(str.strip, source.splitlines()), 1)
    return sum(bool(line) and line[0] != "#" and n not in left_out for n, line in lines)


def test_lines_of_code_are_counted():
    source = 'import a\nfrom b import (\n    c,\n)\n\n# why\ndef f():\n    """What."""\n    return c  # so\n'
    assert lines_of_code(source) == 2


def test_from_scratch_takes_no_more_lines_than_its_title_says():
    title = nbformat.read(ROOT / "notebooks" / "from_scratch.ipynb", as_version=4).cells[0].source
    said = re.match(r"# From scratch: any-to-any in (\d+) lines\n", title)
    assert said and sum(lines_of_code(cell.source) for cell in from_scratch()) <= int(said[1])


def test_from_scratch_has_of_the_library_only_frozen_models_data_and_figures():
    nodes = [node for cell in from_scratch() for node in ast.walk(ast.parse(cell.source))]
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {
        name.removeprefix("anytoany_lib.") for name in modules if name.startswith("anytoany_lib")
    }
    assert own == {"checkpoints", "config", "encoders.imagebind", "figures", "toyworld"}


def _other_badge(notebook: NotebookNode) -> None:
    other = make_address.badge("https://github.com/someone/else", NUMBERED[4].stem)
    notebook.cells[0].source += f"\n\n{other}"


def _no_reads(notebook: NotebookNode) -> None:
    notebook.cells[0].source = notebook.cells[0].source.replace("**Reads**", "Reads")


def _two_parameter_cells(notebook: NotebookNode) -> None:
    code_of(notebook)[2].metadata["tags"] = ["parameters"]


def _untyped(notebook: NotebookNode) -> None:
    code_of(notebook)[0].source += "\nMORE = 1"


def _no_install(notebook: NotebookNode) -> None:
    notebook.cells.remove(tagged(notebook, "colab")[0])


def _other_setup(notebook: NotebookNode) -> None:
    tagged(notebook, "colab")[0].source += "\nDATA = 'elsewhere'"


def _long(notebook: NotebookNode) -> None:
    code_of(notebook)[3].source += "\nprint(1)" * 26


def _all_long(notebook: NotebookNode) -> None:
    for cell in code_of(notebook):
        cell.source += "\nprint(1)" * 9


def _outputs(notebook: NotebookNode) -> None:
    notebook.metadata.pop("ran", None)
    code_of(notebook)[3].execution_count = 1


def _silent(notebook: NotebookNode) -> None:
    code_of(notebook)[3].source = "x = 1"


def _no_figure(notebook: NotebookNode) -> None:
    for cell in code_of(notebook):
        for name in FIGURES:
            cell.source = re.sub(rf"\b{name}\(", "print(", cell.source)


def _nothing_to_try(notebook: NotebookNode) -> None:
    cell = next(c for c in notebook.cells if c.source.startswith("## What to try"))
    cell.source = cell.source.partition("\n- ")[0]


SPOILT: dict[Callable[[NotebookNode], None], str] = {
    _other_badge: "has another badge than",
    _no_reads: "does not say first",
    _two_parameter_cells: "does not begin with its parameters",
    _untyped: "has a parameter without its type",
    _no_install: "does not install the kit",
    _other_setup: "sets Colab up in another way",
    _long: "has a cell of",
    _all_long: "at the median",
    _outputs: "holds outputs",
    _silent: "has cells that show nothing",
    _no_figure: "draws no figure",
    _nothing_to_try: "has not two or three things to try",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__.strip("_"))
def test_what_a_lesson_lacks_is_noticed(lesson: NotebookNode, spoil: Callable):
    spoil(lesson)
    found = list(faults(NUMBERED[4].stem, lesson))
    assert any(fault.startswith(SPOILT[spoil]) or SPOILT[spoil] in fault for fault in found), found
