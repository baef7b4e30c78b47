"""What the README and docs say was measured is what was measured; what they show and link to is there."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytoany_lib.config import Profile

REPOSITORY = Path(__file__).resolve().parents[2]
LARGEST_PICTURE = 400_000


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of docs by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    return importlib.import_module


def test_every_part_of_readme_and_docs_is_what_the_script_writes_today(script):
    make = script("make_readme")
    texts = {page: (REPOSITORY / page).read_text(encoding="utf-8") for page in make.PAGES}
    stale = [
        f"{page}: {name}"
        for page, parts in make.PAGES.items()
        for name in parts
        if make.part(page, name) not in texts[page]
    ]
    assert not stale, "run make readme"


def test_every_part_has_one_name_and_every_mark_is_of_a_part(script):
    make = script("make_readme")
    names = [name for parts in make.PAGES.values() for name in parts]
    assert len(names) == len(set(names))
    for page, parts in make.PAGES.items():
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        marked = re.findall(r"<!-- (.+): written by docs/make_readme\.py", text)
        assert sorted(marked) == sorted(parts), page


def test_the_conda_environment_is_written_from_pyproject(script):
    make = script("make_environment")
    stale = "run docs/make_environment.py"
    assert make.ENVIRONMENT.read_text(encoding="utf-8") == make.text(), stale


def test_the_drawings_show_the_profile_as_it_is(script):
    figures, profile = script("readme_figures"), Profile.load(script("make_readme").DRAWN)
    stale = [
        name
        for name, drawn in figures.drawings(profile).items()
        if (figures.FOLDER / name).read_text(encoding="utf-8") != drawn
    ]
    assert not stale, "run make readme"


def test_the_drawing_of_the_stages_has_their_rates_steps_and_losses(script):
    figures, profile = script("readme_figures"), Profile.load("tiny")
    changed = profile.model_dump(mode="json")
    changed["stages"]["2"] |= {"steps": 77, "alignment": "mse", "denoising_weight": 0.5}
    changed["stages"]["2"]["learning_rates"]["output_projections"] = 0.0123
    drawn = figures.stages(Profile.parse(changed, "changed"))
    for words in ("77 steps of 16 rows", ">0.0123<", "× mse distance", "0.5 × the decoder"):
        assert words in drawn and words not in figures.stages(profile), words


def test_the_tree_names_every_folder(script):
    tree = script("readme_tree")
    assert tree.FOLDERS.keys() | tree.wings().keys() == tree.folders_there(), (
        "docs/readme_tree.py: FOLDERS"
    )


def test_pictures_are_small(script):
    folders = (script("readme_results").DEMO, script("readme_figures").FOLDER)
    files = [path for folder in folders for path in folder.rglob("*.*")]
    assert {".png", ".gif", ".flac", ".svg"} <= {path.suffix for path in files}
    assert not [path for path in files if path.stat().st_size > LARGEST_PICTURE]


def test_the_recorded_conversation_has_every_kind_both_ways(script):
    conversation = script("readme_conversation")
    told = json.loads((conversation.FOLDER / conversation.RECORD).read_text(encoding="utf-8"))
    kinds = {
        role: {part["type"] for m in told["messages"] if m["role"] == role for part in m["content"]}
        for role in ("user", "assistant")
    }
    everything = {"text", "image", "audio", "video"}
    assert kinds == {"user": everything, "assistant": everything}


@pytest.mark.long
def test_the_shipped_run_still_says_what_was_recorded(script, tmp_path):
    conversation = script("readme_conversation")

    def told(folder: Path) -> list[list[str]]:
        """Texts as they are, media by their kinds: their pixels may differ a little from one machine to another."""
        record = json.loads((folder / conversation.RECORD).read_text(encoding="utf-8"))
        return [[p.get("text", p["type"]) for p in m["content"]] for m in record["messages"]]

    conversation.record(REPOSITORY / "ckpt" / "tiny" / "run", tmp_path / "again")
    assert told(tmp_path / "again") == told(conversation.FOLDER)


def test_a_new_demo_is_taken_over_with_a_sheet_of_its_replies(script, monkeypatch, tmp_path):
    results, conversation = script("readme_results"), script("readme_conversation")
    kept = json.loads((conversation.FOLDER / conversation.RECORD).read_text(encoding="utf-8"))
    turns = [kept["messages"][at : at + 2] for at in range(0, len(kept["messages"]), 2)]
    examples = [{"task": f"turn {n}", "messages": turn} for n, turn in enumerate(turns)]
    run, out, demo = tmp_path / "run", tmp_path / "out", tmp_path / "demo"
    shutil.copytree(conversation.FOLDER, run / "evaluation")
    (run / "evaluation" / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
    shutil.copy(results.SHIPPED / "metrics.json", run)
    out.mkdir()
    shutil.copy(results.DEMO / "demo.json", out)
    monkeypatch.setattr(results, "DEMO", demo)
    results.take_over(run, out)
    assert (demo / "demo.json").read_bytes() == (out / "demo.json").read_bytes()
    shipped = json.loads((results.SHIPPED / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads((demo / "metrics.json").read_text(encoding="utf-8")) == shipped
    with Image.open(demo / results.SHEET) as sheet:
        colours = np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)
        assert sheet.width > 1000 and len(colours) > 50  # it shows something


def test_times_on_fresh_machines_become_a_table(script, monkeypatch, tmp_path):
    results = script("readme_results")
    monkeypatch.setattr(results, "DEMO", tmp_path)
    assert results.fresh() == ""
    demo = {"seconds": 1805, "bytes": 2_340_000_000, "torch": "2.13.0+cpu"}
    app = {"seconds": 125, "bytes": 7_100_000_000, "torch": "2.13.0+cu130"}
    told = {"3.11": {"make demo": demo}, "3.13": {"make app": app}}
    (tmp_path / results.FRESH).write_text(json.dumps({"python": told}), encoding="utf-8")
    assert results.fresh().splitlines()[-3:] == [
        "| --- | --- | --- | --- |",
        "| 3.11 | 2.13.0+cpu | 30 min 05 s, 2.3 GB | – |",
        "| 3.13 | 2.13.0+cu130 | – | 2 min 05 s, 7.1 GB |",
    ]


def test_the_report_on_ablations_has_their_results(script):
    module = script("make_ablations")
    names = [path.stem for path in module.FOLDER.glob("*.json")]
    report = module.REPORT.read_text(encoding="utf-8")
    assert names and all(module.section(name) in report for name in names), (
        "stale: run docs/make_ablations.py"
    )
