"""Imports by the names that modules had before the library was in wings."""

from __future__ import annotations

import ast
import importlib
import warnings
from pathlib import Path

import pytest

from anytoany_lib import old_names

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_EXTRAS = [name for name in old_names.MOVED if not name.endswith((".app", ".gradio_app"))]


@pytest.mark.parametrize("old", WITHOUT_EXTRAS)
def test_an_old_name_gives_the_module_itself_and_a_warning(old: str):
    new = importlib.import_module(old_names.MOVED[old])
    with pytest.warns(FutureWarning, match=f"{old} is {new.__name__} now"):
        found = old_names.OldNames().create_module(old_names.OldNames().find_spec(old))
    assert found is new
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert importlib.import_module(old) is new
    assert new.__spec__ is not None and new.__spec__.name == new.__name__


@pytest.mark.parametrize(
    ("wing", "old", "new"),
    [(wing, *names) for wing, table in old_names.RENAMED.items() for names in table.items()],
)
def test_an_old_function_name_gives_the_function_itself_and_a_warning(
    wing: str, old: str, new: str
):
    module, _, attribute = new.rpartition(".")
    with pytest.warns(FutureWarning, match=f"{wing}.{old} is anytoany_lib.{new} now"):
        found = getattr(importlib.import_module(wing), old)
    assert found is getattr(importlib.import_module(f"anytoany_lib.{module}"), attribute)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = importlib.import_module(wing).nothing


def test_names_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError, match="anytoany_lib.widgets"):
        importlib.import_module("anytoany_lib.widgets")


def test_the_kit_itself_uses_no_old_name():
    for file in [*ROOT.glob("anytoany_lib/**/*.py"), *ROOT.glob("bench/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
                assert not old_names.MOVED.keys() & set(names), file
