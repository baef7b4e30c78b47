"""The repository's address: in one place, written from there into badges, Colab cells and install lines, and taken away again."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs"))
make_address = importlib.import_module("make_address")
make_gallery = importlib.import_module("make_gallery")

GITHUB = "https://github.com/someone/anytoany"
BADGE = "colab-badge.svg"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that hold the address, where they may be written, without one."""
    for name in (make_address.SETTINGS, "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder, files in (("notebooks", "*.ipynb"), ("docs", "*.md")):
        (tmp_path / folder).mkdir()
        for path in (ROOT / folder).glob(files):
            shutil.copy(path, tmp_path / folder / path.name)
    make_address.write(None, tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_file_has_the_address_of_pyproject():
    texts = make_address.texts(make_address.address())
    stale = [path.name for path, text in texts.items() if path.read_text("utf-8") != text]
    assert not stale, "run make address"


def test_without_an_address_nothing_leads_anywhere(copy: Path):
    for name, text in contents(copy).items():
        assert BADGE not in text and "colab.research.google.com/github" not in text, name
    assert "urls" not in tomllib.loads((copy / make_address.SETTINGS).read_text())["project"]
    assert "git clone" not in make_address.colab_cell(None)


def test_an_address_is_written_everywhere_and_taken_away_again(copy: Path):
    before = contents(copy)
    changed = make_address.write(GITHUB, copy)
    with_address = contents(copy)
    settings = tomllib.loads(with_address[make_address.SETTINGS])
    assert settings["project"]["urls"] == {"Repository": GITHUB}
    notebooks = sorted((copy / "notebooks").glob("*.ipynb"))
    assert {*notebooks, copy / "README.md", copy / "CONTRIBUTING.md"} <= {*changed}
    for path in notebooks:
        opening = nbformat.read(path, as_version=4).cells[0].source
        place = f"github/someone/anytoany/blob/main/notebooks/{path.name})"
        assert opening.count(BADGE) == opening.count(place) == 1, path.name
    readme = with_address["README.md"]
    assert readme.count(BADGE) == 1 and "blob/main/notebooks/07_chat.ipynb)" in readme
    assert f"git clone {GITHUB} anytoany" in with_address["CONTRIBUTING.md"]
    assert make_address.write(GITHUB, copy) == []
    assert sorted(make_address.write(None, copy)) == sorted(changed)
    assert contents(copy) == before


def test_outputs_stay_and_are_still_those_of_their_code(copy: Path):
    gallery = copy / "notebooks" / "gallery.ipynb"
    outputs = [c.outputs for c in make_gallery.code_of(nbformat.read(gallery, as_version=4))]
    make_address.write(GITHUB, copy)
    notebook = nbformat.read(gallery, as_version=4)
    assert [cell.outputs for cell in make_gallery.code_of(notebook)] == outputs and any(outputs)
    assert notebook.metadata[make_gallery.RAN] == make_gallery.digest(notebook)


def test_the_colab_cell_is_three_lines_behind_the_parameters(copy: Path):
    path = copy / "notebooks" / "00_setup.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if make_address.COLAB not in c.metadata.get("tags", [])]
    assert len(cells) == len(notebook.cells) - 1
    notebook.cells = cells
    made = make_address.with_address(notebook, GITHUB, path.stem)
    tags = [cell.metadata.get("tags") for cell in made.cells if cell.cell_type == "code"]
    assert tags[:2] == [["parameters"], [make_address.COLAB]]
    code = [line for line in make_address.colab_cell(GITHUB).splitlines() if line[0] != "#"]
    assert len(code) == 3 and f"git clone -q --depth 1 {GITHUB} anytoany" in code[1]


def test_what_colab_cannot_open_has_no_badge_but_is_cloned(copy: Path):
    elsewhere = "https://git.example.org/someone/anytoany"
    make_address.write(elsewhere, copy)
    texts = contents(copy)
    assert BADGE not in texts["README.md"] + texts["notebooks/00_setup.ipynb"]
    assert f"git clone -q --depth 1 {elsewhere} anytoany" in texts["notebooks/00_setup.ipynb"]


@pytest.mark.parametrize("given", ["someone/anytoany", "https://a.b/c; rm -rf x", "$(x)", " "])
def test_what_is_no_address_is_refused_and_nothing_written(copy: Path, given: str):
    before = contents(copy)
    with pytest.raises(
        ValueError, match=r"expected an address like https://github\.com"
    ) as refused:
        make_address.write(given, copy)
    assert json.dumps(given) in str(refused.value) and contents(copy) == before
