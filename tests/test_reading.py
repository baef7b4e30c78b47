"""Steps that do not fit the memory are computed in smaller batches, and teach the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from resuming import with_stage

from anytoany_lib import runs, train
from anytoany_lib.config import Profile
from anytoany_lib.model import AnyToAny
from anytoany_lib.trackers import Log

STEPS = 4


@pytest.fixture(scope="module")
def of_six(profile: Profile) -> Profile:
    """Profile tiny with a stage 1 that computes six rows at once."""
    return with_stage(profile, 1, batch_size=6, learning_rates={"input_projection": 5e-3})


def room_for(rows: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Lets a device with room for so many rows compute; returns the list of how many were tried at once in training."""
    tried, forward = [], AnyToAny.forward

    def full(model: AnyToAny, batch, *more):
        if model.training:
            tried.append(len(batch.ids))
        if len(batch.ids) > rows:
            raise torch.OutOfMemoryError("no room on this device")
        return forward(model, batch, *more)

    patch.setattr(AnyToAny, "forward", full)
    return tried


def test_a_step_that_does_not_fit_is_read_again_in_smaller_batches_and_teaches_the_same(
    of_six: Profile, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told = (of_six, 1, toy_data)
    monkeypatch.setattr(Log, "every", 1)
    whole = train.train(*told, tmp_path / "whole", max_steps=STEPS)
    with monkeypatch.context() as patch:
        tried = room_for(2, patch)
        patch.setattr("anytoany_lib.around._validation", lambda *_: {})
        parts = train.train(*told, tmp_path / "parts", max_steps=STEPS)
    assert tried[:5] == [6, 3, 2, 2, 2] and set(tried[5:]) == {2}
    record, other = runs.read_record(parts), runs.read_record(whole)
    assert (record["rows_at_once"], other["rows_at_once"]) == (2, 6)
    # Losses, not weights: Adam makes a whole step of a gradient that is nothing but rounding.
    learnt, expected = (
        [json.loads(line)["text"] for line in (run / runs.CURVES).read_text().splitlines()]
        for run in (parts, whole)
    )
    assert len(expected) == STEPS and learnt == pytest.approx(expected, rel=1e-3)


def test_a_training_that_goes_on_knows_what_fitted(
    of_six: Profile, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    tried = room_for(3, monkeypatch)
    monkeypatch.setattr("anytoany_lib.around._validation", lambda *_: {})
    update = train._update
    monkeypatch.setattr(train, "_update", lambda *a: 1 / 0 if a[3].step == 2 else update(*a))
    with pytest.raises(ZeroDivisionError):
        train.train(of_six, 1, toy_data, run, max_steps=STEPS, save_every=2)
    monkeypatch.setattr(train, "_update", update)
    tried.clear()
    train.train(of_six, 1, toy_data, run, max_steps=STEPS, resume=True)
    assert set(tried) == {3}


def test_a_row_that_does_not_fit_alone_says_what_to_do(
    of_six: Profile, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried = room_for(0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError, match="a single row.*checkpointing: true"):
        train.train(of_six, 1, toy_data, tmp_path / "run", max_steps=STEPS)
    assert tried == [6, 3, 2, 1]
