"""What the README and docs say was measured is what was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def script(name: str):
    """A script of docs, imported."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_results_of_the_recorded_demo():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert script("make_readme").section() in readme, "stale: run make readme"


def test_the_report_on_ablations_has_their_results():
    module = script("make_ablations")
    names = [path.stem for path in module.FOLDER.glob("*.json")]
    report = module.REPORT.read_text(encoding="utf-8")
    assert names and all(module.section(name) in report for name in names), (
        "stale: run docs/make_ablations.py"
    )
