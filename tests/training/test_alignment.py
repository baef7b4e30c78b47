"""The alignment losses: closed forms, where a stage's choice arrives, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from anytoany_lib.config import FitConfig, Profile
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.model import AnyToAny
from anytoany_lib.projections import alignment_loss
from anytoany_lib.system import runs
from anytoany_lib.training.fitting import collect_states, fit_output_projections
from anytoany_lib.training.stage_data import StageData

NAMES = ("l2", "mse", "cosine")


def test_closed_forms():
    """Two rows of two positions: a difference of (3, 4) once, none elsewhere; then right angles and opposites."""
    targets = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[5.0, 5.0], [1.0, 1.0]]])
    projected = targets.clone()
    projected[0, 0] += torch.tensor([3.0, 4.0])
    assert alignment_loss(projected, targets).item() == pytest.approx(5 / 4)
    assert alignment_loss(projected, targets, "l2").item() == pytest.approx(5 / 4)
    assert alignment_loss(projected, targets, "mse").item() == pytest.approx(25 / 8)
    between = 4 / math.hypot(4, 4)  # (4, 4) and (1, 0)
    assert alignment_loss(projected, targets, "cosine").item() == pytest.approx((1 - between) / 4)
    turned = torch.tensor([[0.0, 3.0], [-2.0, 0.0]])
    assert alignment_loss(
        turned, torch.tensor([[2.0, 0.0], [1.0, 0.0]]), "cosine"
    ).item() == pytest.approx((1 + 2) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_zero_at_the_target_and_leads_there(name: str):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(4, 16, 8, generator=generator)
    assert alignment_loss(targets, targets, name).item() == pytest.approx(0, abs=1e-6)
    guess = torch.randn(4, 16, 8, generator=generator).requires_grad_()
    before = alignment_loss(guess, targets, name)
    (slope,) = torch.autograd.grad(before, guess)
    assert alignment_loss(guess - 0.1 * slope, targets, name) < before
    with pytest.raises(ValueError, match=r"gives \(16, 8\).*are \(15, 8\)"):
        alignment_loss(targets, targets[:, 1:], name)


def test_a_profile_chooses_among_them_by_stage():
    settings = Profile.load("tiny").model_dump()
    for name in NAMES:
        settings["stages"][2]["alignment"] = name
        assert Profile.parse(settings, "test").stages[2].alignment == name
    settings["stages"][2]["alignment"] = "l1"
    with pytest.raises(ValueError, match=r"stages\.2\.alignment.*'l2', 'mse' or 'cosine'"):
        Profile.parse(settings, "test")


def test_published_settings_and_older_runs_mean_the_norm():
    stages = Profile.load("nextgpt-7b").stages.values()
    assert {stage.alignment for stage in stages} == {"l2"}
    shipped = Path("ckpt/tiny/run")
    record = runs.read_record(shipped)
    for stage in record["profile"]["stages"].values():
        stage.pop("alignment", None)
    parsed = runs.profile_of(record, shipped)
    assert {stage.alignment for stage in parsed.stages.values()} == {"l2"}


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_training_and_fitting_measure_the_same_loss(
    name: str, profile: Profile, toy_data: Path, model: AnyToAny
):
    features = DatasetFeatures(profile, toy_data)
    data = StageData(toy_data, "train", "generation", model.messages, features, seed=0)
    _, batch = next(data.batches(8))
    start = model.output_projections.state_dict()
    start = {key: tensor.clone() for key, tensor in start.items()}
    try:
        # No steps: the fit calibrates the projections and measures them.
        states = collect_states(model, [batch], 8)
        fitted = fit_output_projections(model, states, FitConfig(rows=8, steps=0), name)
        trained = model(batch, name)
        for kind, (read, targets) in states.items():
            expected = alignment_loss(model.project(kind, read), targets, name).item()
            assert trained[kind].item() == pytest.approx(expected, rel=1e-4)
            assert fitted[kind] == pytest.approx(expected, rel=1e-4)
    finally:
        model.output_projections.load_state_dict(start)
