"""Whole evaluations of a few rows: the same numbers every time, and what cannot be used is said or counted."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from small_runs import few_rows, small_run
from tiny_encoders import write_clip

from anytoany_lib import demo
from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.data.rows import DataError
from anytoany_lib.evaluation import matrix, stored_replies

TASKS = ("text->image", "image->audio", "audio->text", "text->video", "which of several", "plain")
VARIES = ("seconds", "commit", "peak_memory_bytes")
NO_JUDGES = {"judges": None, "judges_folder": None}


@pytest.fixture(scope="module")
def few(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One test row of each of these tasks, and one captioned medium of each kind."""
    return few_rows(toy_data, tmp_path_factory.mktemp("few"), TASKS, captioned=1)


def measured(run: Path, data: Path) -> tuple[str, ...]:
    """An evaluation's metrics but for time, place and memory, and what came of every row."""
    metrics = matrix.evaluate(run, data, bound=1, batch_size=1)
    same = {name: value for name, value in metrics.items() if name not in VARIES}
    files = [run / "evaluation" / name for name in ("outcomes.json", "failures.jsonl")]
    return json.dumps(same), *(file.read_text() for file in files)


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> list[int]:
    """Kills the evaluation at a call of the owner's function; returns the list that the calls are counted in."""
    whole, calls = getattr(owner, name), []

    def until_killed(*given: Any) -> list:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(owner, name, until_killed)
    return calls


@pytest.mark.parametrize("profile_changes", [{}, NO_JUDGES], ids=["judges", "similarity"])
def test_twice_and_interrupted_give_the_same_to_the_last_digit(
    profile_changes: dict, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = small_run(tmp_path / "run", **profile_changes)
    once = measured(run, few)
    kills = [(stored_replies, "draw")]
    kills += [] if profile_changes else [(stored_replies.Drawing, "media")]
    for owner, name in kills:
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, 2)
            with pytest.raises(KeyboardInterrupt):
                measured(run, few)
        assert (run / ".evaluation/replies-000000.safetensors").is_file()
    with monkeypatch.context() as patch:
        drawn = interrupt(patch, stored_replies, "draw", 0)
        again = measured(run, few)
    assert again == once and not (run / ".evaluation").exists()
    assert len(drawn) <= 2  # the first four rows were read
    if not profile_changes:
        assert measured(run, few) == once


NOTHING: list[dict] = []
BROKEN = [{"type": "audio", "audio": np.full(8000, np.nan, np.float32), "sampling_rate": 16000}]


@pytest.mark.parametrize("profile_changes", [{}, NO_JUDGES], ids=["judges", "similarity"])
@pytest.mark.parametrize("content", [NOTHING, BROKEN], ids=["empty", "not finite"])
def test_empty_replies_and_broken_media_count_as_wrong_and_are_listed(
    content: list, profile_changes: dict, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        stored_replies, "draw", lambda model, prompts, *how: [deepcopy(content) for _ in prompts]
    )
    run = small_run(tmp_path / "run", **profile_changes)
    metrics = matrix.evaluate(run, few, bound=0)
    cells = metrics["matrix"] | metrics["combinations"]
    rows = sum(cell["n"] for cell in cells.values())
    assert rows == (5 if not profile_changes else 6)  # none is left out
    for name, cell in cells.items():
        kinds = name.split("->")[1] == "audio" and content is BROKEN
        assert cell["modality"] == float(kinds)
        assert all(cell[rate] == 0 for rate in cell if rate not in ("n", "modality"))
    lines = (run / "evaluation/failures.jsonl").read_text().splitlines()
    apart = [n for n in metrics["more"] if n != "which of several"]  # which is in a combination
    assert len(lines) == rows + sum(metrics["more"][name]["n"] for name in apart)
    examples = (run / "evaluation/examples.json").read_text()
    assert ("cannot be written" in examples) == (content is BROKEN)


def test_a_run_of_another_profile_is_refused_before_anything_is_drawn(few: Path, tmp_path: Path):
    profile = json.loads(Profile.load("tiny").model_dump_json())
    wider = profile["projection"] | {"width": profile["projection"]["width"] * 2}
    with pytest.raises(ValueError, match=r"does not fit the profile: .* instead of .*name its own"):
        matrix.evaluate(small_run(tmp_path / "wider", projection=wider), few)
    absent = profile["llm"] | {"folder": "ckpt/not-there"}
    with pytest.raises((FileNotFoundError, OSError), match="not-there"):
        matrix.evaluate(small_run(tmp_path / "absent", llm=absent), few)
    with pytest.raises(FileNotFoundError, match="no run in .*train one"):
        matrix.evaluate(tmp_path / "nowhere", few)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_task": 0}, "per_task has to be a whole number from 1 up, found 0"),
        ({"bound": -1}, "bound has to be a whole number from 0 up, found -1"),
        ({"batch_size": 0}, "batch_size has to be a whole number from 1 up, found 0"),
    ],
)
def test_senseless_settings_are_refused(changes: dict, message: str, few: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        matrix.evaluate(small_run(tmp_path / "run"), few, **changes)


def test_data_without_what_to_measure_by_are_refused(few: Path, tmp_path: Path):
    run, bare = small_run(tmp_path / "run"), small_run(tmp_path / "bare", **NO_JUDGES)
    rows = list(read_manifest(few, "test"))
    lacking = next(row for row in rows if row.meta.get("task") == "text->image")
    del lacking.meta["expect"][0]["caption"]
    write_manifest([lacking], tmp_path / "lacking", "test")
    plain = next(row for row in rows if row.meta.get("task") == "plain")
    write_manifest([plain], tmp_path / "plain", "test")
    del plain.meta["expect"]
    write_manifest([plain], tmp_path / "nothing", "test")
    for other in (run, bare):
        with pytest.raises(ValueError, match=f"row {lacking.id} .*expected 'caption' in .*kind"):
            matrix.evaluate(other, tmp_path / "lacking")
        with pytest.raises(DataError, match=r"no test.parquet .*02_data"):
            matrix.evaluate(other, tmp_path / "none")
    with pytest.raises(ValueError, match=r"no test row says .*retrieval measures captioned media"):
        matrix.evaluate(run, tmp_path / "nothing")
    with pytest.raises(ValueError, match="no test row has a caption or says what medium"):
        matrix.evaluate(bare, tmp_path / "plain")


def shown(notebook: Path) -> str:
    """All that an executed notebook shows, as JSON text."""
    cells = nbformat.read(notebook, as_version=4).cells
    return json.dumps([cell.get("outputs", []) for cell in cells])


def test_notebooks_show_and_compare_runs_without_judges(toy_data: Path, tmp_path: Path):
    data = few_rows(toy_data, tmp_path / "data", ("image->image", "plain"), captioned=8)
    spaces = {"clip": str(write_clip(tmp_path / "clip"))}
    run = small_run(tmp_path / "run", similarity=spaces, **NO_JUDGES)
    told = {"RUN": str(run), "DATA": str(data)}
    demo.execute(demo.NOTEBOOKS / "08_evaluate.ipynb", told, tmp_path / "out")
    outputs = shown(tmp_path / "out/08_evaluate.ipynb")
    assert outputs.count('"image/png": ') == 3  # right modalities, ranks, and how sure they are
    assert "clip median rank" in outputs
    # A CLIP of random weights finds some pictures and films unlike their captions.
    assert "[text-&gt;image] wrong: clip R@5" in outputs and "<video" in outputs
    other = small_run(tmp_path / "other", **NO_JUDGES)
    demo.execute(
        demo.NOTEBOOKS / "09_compare.ipynb",
        {"RUNS": [str(run), str(other)], "PROMPTS": ["Draw a red bell."]},
        tmp_path / "out",
    )
    outputs = shown(tmp_path / "out/09_compare.ipynb")
    assert "other has no evaluation/outcomes.json: run 08_evaluate" in outputs
    assert "matrix.text-&gt;image.clip R@1" in outputs
