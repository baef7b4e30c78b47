"""The house rules of the library's own code: every module says what it is for, and nothing is longer than one can read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "anytoany_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
FUNCTION_LINES, FILE_LINES = 50, 400
# Files that may be longer, by the reason.
LONGER: dict[str, str] = {}


def _parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def _functions(module: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(_parsed(module))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_a_module_says_what_it_is_for_and_can_be_read(module: Path):
    said = ast.get_docstring(_parsed(module))
    assert said, "its first line says what it is for"
    assert said.splitlines()[0].endswith((".", ":", ",")) or "\n" in said
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in _functions(module)}
    assert not {name: n for name, n in lengths.items() if n > FUNCTION_LINES}
    name, lines = module.relative_to(LIBRARY).as_posix(), len(module.read_text().splitlines())
    assert lines <= FILE_LINES or name in LONGER, f"{lines} lines: split it, or give a reason"


def test_every_exception_is_needed():
    for name in LONGER:
        assert len((LIBRARY / name).read_text().splitlines()) > FILE_LINES, name


def test_public_functions_say_what_they_take_and_give():
    bare = []
    for module in MODULES:
        for function in _functions(module):
            arguments = function.args
            given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            given += [more for more in (arguments.vararg, arguments.kwarg) if more]
            untyped = [a.arg for a in given if not a.annotation and a.arg not in ("self", "cls")]
            if not function.name.startswith("_") and (untyped or not function.returns):
                bare.append((module.name, function.name, untyped or "->"))
    assert not bare
