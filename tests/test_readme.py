"""The README says what the last demo measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_readme_has_the_results_of_the_recorded_demo():
    spec = importlib.util.spec_from_file_location("make_readme", REPOSITORY / "docs/make_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert module.section() in readme, "stale: run make readme"
