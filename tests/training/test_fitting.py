"""Bridges fitted to the frozen models alone: against closed forms, against what they were before, and repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anytoany_lib.config import FitConfig
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.model import AnyToAny
from anytoany_lib.projections import InputProjection
from anytoany_lib.training.fitting import (
    caption_words,
    collect_states,
    fit_input_projection,
    fit_output_projections,
)
from anytoany_lib.training.stage_data import StageData

FIT = FitConfig(rows=24, steps=30, batch_size=8, learning_rate=2e-3)


def test_the_input_projection_finds_a_linear_map_that_is_there():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(30, 8, generator=generator), torch.randn(30, generator=generator)
    embeddings = torch.randn(400, 8, generator=generator)
    projection = InputProjection(8, hidden=10, soft_tokens=3)
    projection.fit(embeddings, embeddings @ weight.T + bias)
    assert torch.allclose(projection.weight, weight, atol=0.02)
    assert torch.allclose(projection.bias, bias, atol=0.02)


def test_caption_words_are_the_means_of_even_runs(model: AnyToAny):
    table = model.causal_lm.get_input_embeddings().weight.float()
    long, short = "a small red bell on the left, and a big blue cat at the top", "bell"
    words = caption_words(model, [long, short])
    count = model.input_projection.soft_tokens
    ids = model.messages.text_ids(" " + long)
    size, longer = divmod(len(ids), count)
    at = 0
    for run in range(count):
        end = at + size + (run < longer)
        expected = torch.stack([table[token] for token in ids[at:end]]).mean(0)
        assert torch.allclose(words[0, run], expected, atol=1e-6)
        at = end
    (only,) = model.messages.text_ids(" " + short)
    assert torch.allclose(words[1], table[only].expand(count, -1))


@pytest.fixture
def fresh(profile) -> AnyToAny:
    return AnyToAny.from_profile(profile, seed=0).requires_grad_(False).eval()


def test_soft_tokens_start_near_the_words_of_the_captions(profile, toy_data, fresh: AnyToAny):
    features = DatasetFeatures(profile, toy_data)
    data = StageData(toy_data, "train", "comprehension", fresh.messages, features, seed=0)
    embeddings, captions = data.captioned_media(100)
    assert len(embeddings) == len(captions) == len(data)
    words = caption_words(fresh, captions)
    before = (fresh.input_projection(embeddings) - words).norm()
    explained = fit_input_projection(fresh, embeddings, captions)
    assert explained > 0.9
    assert (fresh.input_projection(embeddings) - words).norm() < 0.3 * before


def test_output_projections_come_closer_and_the_seed_decides(profile, toy_data, fresh: AnyToAny):
    features = DatasetFeatures(profile, toy_data)
    data = StageData(toy_data, "train", "generation", fresh.messages, features, seed=0)
    start = {name: t.clone() for name, t in fresh.output_projections.state_dict().items()}

    def fitted(settings: FitConfig) -> dict[str, float]:
        fresh.output_projections.load_state_dict(start)
        fresh.output_projections.requires_grad_(True)
        torch.manual_seed(3)
        states = collect_states(fresh, (batch for _, batch in data.batches(8)), settings.rows)
        return fit_output_projections(fresh, states, settings)

    measured = fitted(FIT.model_copy(update={"steps": 0}))
    assert fresh.calibrated
    first = fitted(FIT)
    weights = [parameter.clone() for parameter in fresh.output_projections.parameters()]
    second = fitted(FIT)
    assert all(first[kind] < 0.9 * measured[kind] for kind in measured)
    assert first == second
    again = fresh.output_projections.parameters()
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
    assert all(np.isfinite(loss) for loss in first.values())
