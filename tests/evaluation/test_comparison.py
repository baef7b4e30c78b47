"""Runs side by side: of unlike profiles, unmeasured, imported, killed and resumed; and what is wrong is named."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_run

from anytoany_lib.config import Profile, portable, resolve
from anytoany_lib.evaluation import comparison
from anytoany_lib.evaluation.intervals import interval
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs

SHIPPED = resolve("ckpt/tiny/run")


def changed(folder: Path, **settings) -> Path:
    """A run folder that has only the shipped run's record, with changes."""
    folder.mkdir(parents=True)
    record = runs.read_record(SHIPPED) | settings
    (folder / runs.RECORD).write_text(json.dumps(record))
    return folder


def by_name(rows: list[dict], title: str) -> dict[str, list]:
    return {row[title]: [v for k, v in row.items() if k != title] for row in rows}


def test_a_run_does_not_differ_from_its_copy(tmp_path: Path):
    assert comparison.differences([SHIPPED, changed(tmp_path / "copy")]) == []


def test_what_differs_is_found_by_its_dotted_name(tmp_path: Path):
    profile = json.loads(json.dumps(runs.read_record(SHIPPED)["profile"]))
    profile["lora"]["rank"] = 5
    profile["stages"]["3"]["alignment"] = "mse"
    other = changed(tmp_path / "a", profile=profile, seed=7, commit="abc", dirty=True)
    rows = comparison.differences([SHIPPED, other])
    assert list(rows[0]) == ["setting", portable(SHIPPED), portable(other)]
    found = by_name(rows, "setting")
    own = runs.read_record(SHIPPED)
    assert found.pop("commit") == [own["commit"], "abc"]
    assert found == {
        "profile.lora.rank": [own["profile"]["lora"]["rank"], 5],
        "profile.stages.3.alignment": ["l2", "mse"],  # which the older record does not mention
        "seed": [own["seed"], 7],
        "dirty": [own.get("dirty"), True],
    }


def test_moved_data_is_the_same_data_and_changed_data_is_not(tmp_path: Path):
    ((name, mark),) = runs.read_record(SHIPPED)["data"].items()
    moved = changed(tmp_path / "moved", data={"elsewhere": mark})
    redone = changed(tmp_path / "redone", data={name: "0123"})
    assert by_name(comparison.differences([SHIPPED, moved]), "setting") == {
        "data.names": [[name], ["elsewhere"]]
    }
    assert by_name(comparison.differences([SHIPPED, redone]), "setting") == {
        "data.fingerprints": [[mark], ["0123"]]
    }


def test_another_profile_and_an_imported_run_stand_beside(tmp_path: Path):
    big = Profile.load("nextgpt-7b")
    imported = {"file": "pytorch_model.pt", "bytes": 792}
    other = changed(tmp_path / "big", profile=big.model_dump(mode="json"), imported=imported)
    found = by_name(comparison.differences([SHIPPED, other]), "setting")
    assert found["profile.name"] == ["tiny", "nextgpt-7b"]
    assert found["imported.file"] == [None, "pytorch_model.pt"]
    assert found["profile.judges"][1] is None
    assert comparison.curve(other) == [] and comparison.measured(other) == {}
    rates = by_name(comparison.results([other, SHIPPED]), "measured")
    assert all(blank is None for blank, _ in rates.values()) and "modality_accuracy" in rates
    assert comparison.curves([other]).data[:4] == b"\x89PNG"


def test_rates_stand_side_by_side_with_their_intervals(tmp_path: Path):
    one, two = changed(tmp_path / "one"), changed(tmp_path / "two")
    cell, around = {"n": 24, "modality": 1.0, "thing": 0.75}, {"n": 24, "low": 0.5, "high": 0.875}
    metrics = {
        "matrix": {"text->image": cell},
        "combinations": {"image+audio->text": {"n": 8, "thing": 0.5}},
        "more": {},
        "ranks": {"text->image": {"median rank": 1.0, "distractors": 99}},
        "intervals": {c: {"thing": around} for c in ("text->image", "image+audio->text")},
        "baselines": {"text->image": {"chance": {"thing": 0.1}}},
        "modality_accuracy": 0.5,
        "seconds": 3,
    }
    (one / "metrics.json").write_text(json.dumps(metrics))
    assert comparison.measured(one)["matrix.text->image.thing"] == 0.75
    cell = {"n": 24, "modality": 0.5, "colour": 0.25}  # as it was before there were intervals
    (two / "metrics.json").write_text(json.dumps({"matrix": {"text->image": cell}}))
    assert by_name(comparison.results([one, two]), "measured") == {
        "matrix.text->image.modality": ["1.000", "0.500"],
        "matrix.text->image.thing": ["0.750 [0.500, 0.875]", None],
        "matrix.text->image.colour": [None, "0.250"],
        "combinations.image+audio->text.n": [8, None],
        "combinations.image+audio->text.thing": ["0.500 [0.500, 0.875]", None],
        "ranks.text->image.median rank": ["1.000", None],
        "ranks.text->image.distractors": [99, None],
        "modality_accuracy": ["0.500", None],
    }
    cell["n"] = 12
    (two / "metrics.json").write_text(json.dumps({"matrix": {"text->image": cell}}))
    rows = by_name(comparison.results([one, two]), "measured")
    assert rows["matrix.text->image.n"] == [24, 12]


def evaluated(folder: Path, cells: dict, test_rows: str = "rows") -> Path:
    """A run folder with outcomes of its test rows."""
    file = changed(folder) / "evaluation/outcomes.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"test_rows": test_rows, "cells": cells}))
    return folder


def test_rates_differ_row_by_row_and_few_changes_are_no_proof(tmp_path: Path):
    names = [f"r{n}" for n in range(8)]
    before = {"a->b": {"rows": names, "thing": [0] * 7 + [1], "count": [1, None, 0, *[None] * 5]}}
    before["c->d"] = {"rows": ["s0", "s1"], "thing": [1, 1]}
    after = {
        "a->b": {"rows": names[::-1], "thing": [1] * 7 + [0], "count": [*[None] * 5, 1, None, 1]}
    }
    after["c->d"] = {"rows": ["s0", "s1", "s2"], "thing": [1, 1, 0]}
    pair = [evaluated(tmp_path / n, c) for n, c in (("one", before), ("two", after))]
    found = by_name(comparison.changes(pair), "higher than the first")
    assert list(found) == ["all cells.thing", "all cells.count", "a->b.thing", "a->b.count"]
    (together,), (thing,), (count,) = (
        found[name] for name in ("all cells.thing", "a->b.thing", "a->b.count")
    )
    # r1 to r6 rose, r0 and r7 stayed: 6 of 8 rows, and 6 of the 10 that both runs replied to. All of six
    # changes go one way in 2 of 64 throws of a coin; a resample of 8 rows has 6 risen ones among them on average.
    low, high = interval(np.array([0, 1, 1, 1, 1, 1, 1, 0], float))
    assert thing == f"+0.750 [{low:+.3f}, {high:+.3f}] of 8, beyond chance" and low >= 0.375
    assert together.startswith("+0.600 [") and together.endswith("of 10, beyond chance")
    assert count.startswith("+0.500 [") and count.endswith("] of 2")  # one row changed


def test_runs_that_cannot_be_compared_row_by_row_say_so(tmp_path: Path):
    cells = {"a->b": {"rows": ["r"], "thing": [1]}}
    one = evaluated(tmp_path / "one", cells)
    other = evaluated(tmp_path / "other", cells, "others")
    bare = changed(tmp_path / "bare")
    ((told,),) = by_name(comparison.changes([one, other]), "higher than the first").values()
    assert told.startswith("other test rows than") and "DATA" in told
    for pair in ([one, bare], [bare, one]):
        ((told,),) = by_name(comparison.changes(pair), "higher than the first").values()
        assert "bare has no evaluation/outcomes.json: run 08_evaluate" in told
    assert comparison.changes([one]) == []


def test_steps_logged_again_after_a_kill_count_once(tmp_path: Path):
    lines = [(5, 3.0), (10, 2.0), (15, 9.0), (10, 1.0), (15, 0.5)]
    text = [json.dumps({"step": step, "text": loss, "learning_rate": 1}) for step, loss in lines]
    (tmp_path / runs.CURVES).write_text("\n".join(text) + "\n")
    assert [(n["step"], n["text"]) for n in comparison.curve(tmp_path)] == [
        (5, 3.0),
        (10, 1.0),
        (15, 0.5),
    ]


def test_curves_of_several_runs_are_drawn_over_one_another(tmp_path: Path, monkeypatch):
    drawn = []
    monkeypatch.setattr(comparison, "picture", drawn.append)
    other = changed(tmp_path / "other")
    shutil.copy(SHIPPED / runs.CURVES, other)
    comparison.curves([SHIPPED, other, changed(tmp_path / "without")])
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    assert panels.keys() == {"text", "divergence", "image", "audio", "video"}
    last = comparison.curve(SHIPPED)[-1]
    for name, axis in panels.items():
        labels = [line.get_label() for line in axis.lines]
        assert labels == [portable(SHIPPED), portable(other)]
        assert axis.lines[0].get_xydata()[-1].tolist() == [last["step"], last[name]]


def test_none_named_is_the_newest_two_and_the_shipped_one(tmp_path: Path, monkeypatch):
    made = [changed(tmp_path / "ckpt" / "runs" / name) for name in ("a", "b", "c")]
    shipped = changed(tmp_path / "ckpt" / "tiny" / "run")
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for age, run in enumerate(made):
        os.utime(run / runs.RECORD, (1000 + age, 1000 + age))
    assert [p.resolve() for p in comparison.chosen()] == [made[2], made[1], shipped]
    assert comparison.chosen([made[0], shipped, made[0]]) == [made[0], shipped]
    shutil.rmtree(tmp_path / "ckpt")
    with pytest.raises(FileNotFoundError, match="no run in ckpt"):
        comparison.chosen()


def test_errors_name_the_folder(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path / 'none'}"):
        comparison.chosen([tmp_path / "none"])
    broken = changed(tmp_path / "broken")
    (broken / "metrics.json").write_text("{")
    (broken / runs.CURVES).write_text('{"step": 5}\n{"st')
    with pytest.raises(ValueError, match=f"{broken / 'metrics.json'}: "):
        comparison.results([broken])
    with pytest.raises(ValueError, match=f"{broken / runs.CURVES}: cut or damaged at line 2"):
        comparison.curves([broken])
    strange = changed(tmp_path / "strange", profile={"name": "strange"})
    with pytest.raises(ValueError, match=f"{strange / runs.RECORD}: profile: llm"):
        comparison.differences([strange])
    (broken / runs.RECORD).write_text("no JSON")
    with pytest.raises(ValueError, match=f"{broken / runs.RECORD}: "):
        comparison.chosen([broken])


def test_the_same_prompt_gets_the_same_picture_and_one_model_is_loaded_at_a_time(
    tmp_path: Path, monkeypatch
):
    models, alive, load = [], [], AnyToAny.from_pretrained

    def loaded(run):
        alive.append(sum(model() is not None for model in models))
        model = load(run)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(AnyToAny, "from_pretrained", loaded)
    prompts, quick = ["Draw a red bell."], Sampling(steps=2)
    folders = [small_run(tmp_path / name) for name in ("run", "copy")]
    first, second = comparison.replies(folders, prompts, 3, quick)
    assert alive == [0, 0]
    pictures = [
        [part["image"] for part in reply[0]["content"] if part["type"] == "image"]
        for reply in (first, second)
    ]
    assert len(pictures[0]) == 1 and pictures[0][0].tobytes() == pictures[1][0].tobytes()
    shown = comparison.grid(folders, prompts, [first, second]).data
    assert shown.count("<img") == 2 and shown.count("Draw a red bell.") == 2
    assert all(str(folder) in shown for folder in folders)
