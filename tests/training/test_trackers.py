"""Trackers: they get the numbers of metrics.jsonl and the settings of run.json, or are refused before training starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.system import runs
from anytoany_lib.training.trackers import EVENTS, tracker_names


@pytest.fixture(scope="module")
def quick(profile: Profile) -> Profile:
    stage = profile.stages[1].model_copy(update={"batch_size": 2})
    return profile.model_copy(update={"stages": {1: stage}})


def test_names_are_checked(monkeypatch: pytest.MonkeyPatch):
    assert tracker_names("") == [] and tracker_names(" , ") == []
    with pytest.raises(
        ValueError, match="no tracker 'mlflow': report_to takes tensorboard, trackio, wandb"
    ):
        tracker_names("mlflow")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="wandb is not installed; pip install wandb"):
        tracker_names("wandb")
    monkeypatch.setitem(sys.modules, "wandb", json)
    assert tracker_names("wandb") == ["wandb"]


def test_a_tracker_that_cannot_be_used_is_refused_before_anything_is_written(
    quick: Profile, tmp_path: Path
):
    with pytest.raises(ValueError, match="no tracker 'tensorbored'"):
        train.train(quick, 1, tmp_path / "no data", tmp_path / "run", report_to="tensorbored")
    assert not (tmp_path / "run").exists()


def test_the_settings_of_a_run_say_whether_its_code_was_committed(monkeypatch: pytest.MonkeyPatch):
    answers = {"status": " M train.py", "rev-parse": "abc", "ls-files": "runs.py"}
    monkeypatch.setattr(runs, "_git", lambda command, *_: answers[command])
    assert (runs.provenance()["commit"], runs.provenance()["dirty"]) == ("abc", True)
    answers["status"] = ""
    assert runs.provenance()["dirty"] is False
    answers["ls-files"] = None
    assert (runs.provenance()["commit"], runs.provenance()["dirty"]) == (None, None)


def test_only_the_library_s_own_files_count():
    assert runs._git("rev-parse", "--show-prefix") == "anytoany_lib/"
    listed = runs._git("ls-files", "--", ".").splitlines()
    assert "system/runs.py" in listed and not any(
        Path(name).name.startswith("test_") for name in listed
    )


def test_tensorboard_reads_the_curves_of_metrics_jsonl(
    quick: Profile, toy_data: Path, tmp_path: Path
):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars() -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(run / EVENTS / "anytoany"))
        events.Reload()
        names = events.Tags()["scalars"]
        return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}

    run = tmp_path / "run"
    for _ in range(2):  # what stood there before is replaced
        train.train(quick, 1, toy_data, run, max_steps=10, report_to="tensorboard")
    lines = [json.loads(line) for line in (run / runs.CURVES).read_text().splitlines()]
    found = scalars()
    assert found.keys() == lines[0].keys() - {"step"}
    for name, points in found.items():
        assert points == [(n["step"], pytest.approx(n[name], rel=1e-6)) for n in lines], name
    (settings,) = (run / EVENTS).rglob("hparams.yml")
    assert "profile.stages.1.batch_size: 2" in settings.read_text()
