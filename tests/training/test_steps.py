"""Steps that do not fit the memory are computed in smaller batches, and teach the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from resuming import shallow, with_stage

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.training import finish
from anytoany_lib.training.stage_data import StageData
from anytoany_lib.training.trackers import Log

STEPS = 4


@pytest.fixture(scope="module")
def of_six(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Profile tiny, of its language model the first layers, with stages 1 and 2 that compute six rows at once."""
    small = shallow(profile, tmp_path_factory.mktemp("llm"))
    fit = {"rows": 6, "steps": 2, "batch_size": 4}
    small = with_stage(small, 2, batch_size=6, fit_before=fit, fit_after=fit)
    return with_stage(small, 1, batch_size=6, learning_rates={"input_projection": 5e-3})


def room_for(rows: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Lets a device with room for so many rows compute; returns the list of how many were tried at once in training."""
    tried, forward = [], AnyToAny.forward

    def full(model: AnyToAny, batch, *more):
        if model.training:
            tried.append(len(batch.ids))
        if len(batch.ids) > rows:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
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


def test_what_comes_before_and_after_the_steps_takes_fewer_rows_too(
    of_six: Profile, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried, read = [], AnyToAny.hidden_states
    room = [4]

    def full(self, inputs, *more, **named):
        tried.append(len(inputs))
        if len(inputs) > room[0]:
            raise torch.OutOfMemoryError("no room on this device")
        return read(self, inputs, *more, **named)

    def less(*arguments):
        room[0] = 1
        return validation(*arguments)

    validation = finish.validation_losses
    monkeypatch.setattr(AnyToAny, "hidden_states", full)
    monkeypatch.setattr(finish, "validation_losses", less)
    run = train.train(of_six, 2, toy_data, tmp_path / "run", max_steps=1)
    assert tried[:2] == [6, 3]  # in the fits before, and what fits there is where the steps begin
    assert max(tried[1:]) == 3
    record = runs.read_record(run)
    assert record["rows_at_once"] == 1 and record["validation"] and record["fitted"]


def test_features_that_do_not_fit_are_computed_for_fewer_rows(
    of_six: Profile, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    collated, read = [], StageData._collate

    def full(self, rows, *more):
        collated.append(len(rows))
        if len(rows) > 3:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return read(self, rows, *more)

    monkeypatch.setattr(StageData, "_collate", full)
    train.train(of_six, 1, toy_data, tmp_path / "run", max_steps=1)
    assert collated[:3] == [6, 3, 3]


def test_another_error_is_not_taken_for_want_of_memory(
    of_six: Profile, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(AnyToAny, "forward", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        train.train(of_six, 1, toy_data, tmp_path / "run", max_steps=1)
