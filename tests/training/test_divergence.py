"""Plain rows are held to the untouched LLM: which rows those are, and what the distance to it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.model import AnyToAny
from anytoany_lib.training.setup import trained_parts
from anytoany_lib.training.stage_data import StageData


@pytest.fixture(scope="module")
def data(profile: Profile, model: AnyToAny, toy_data: Path) -> StageData:
    features = DatasetFeatures(profile, toy_data)
    return StageData(toy_data, "train", "instructions", model.messages, features, seed=0)


def test_plain_are_the_rows_of_text_alone_that_say_so(data: StageData, toy_data: Path):
    said = {r.id for r in read_manifest(toy_data, "train") if r.meta.get("plain")}
    assert len(said) > 3
    found = set()
    batches = data.batches(4)
    for _ in range(-(-len(data) // 4)):
        names, batch = next(batches)
        assert batch.plain.shape == (len(names),)
        found |= {name for name, plain in zip(names, batch.plain.tolist(), strict=True) if plain}
    assert found == said


def test_the_parts_of_a_step_share_its_divergence(data: StageData):
    """However a step is divided, the shares of its parts add up."""
    for rows_at_once in (2, 12):
        steps = data.steps(12, rows_at_once)
        for _ in range(3):
            step = next(steps)
            total = sum(shares.get("divergence", 0.0) for _, shares in step.parts)
            plain = any(batch.plain.any() for batch, _ in step.parts)
            assert total == pytest.approx(float(plain))


@pytest.fixture(scope="module")
def trained(profile: Profile) -> AnyToAny:
    model = AnyToAny.from_profile(profile, seed=0)
    trained_parts(model, profile.stages[3])
    return model


def plain_batch(data: StageData):
    return next(batch for _, batch in data.batches(4) if batch.plain.any())


def test_an_untrained_adapter_is_near_the_untouched_llm_and_a_trained_one_is_drawn_back(
    data: StageData, trained: AnyToAny
):
    batch = plain_batch(data)
    assert "divergence" not in trained(batch)
    before = trained(batch, divergence=True)["divergence"].item()
    assert 0 <= before < 0.05  # what the new tokens take
    matrices = {n: p for n, p in trained.llm.named_parameters() if "lora_B" in n}
    torch.manual_seed(0)
    with torch.no_grad():
        for matrix in matrices.values():
            matrix.normal_(std=0.02)
    loss = trained(batch, divergence=True)["divergence"]
    assert loss.item() > 10 * before
    loss.backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in matrices.values())
    with torch.no_grad():
        for matrix in matrices.values():
            matrix -= 0.002 * matrix.grad / matrix.grad.norm()
    assert trained(batch, divergence=True)["divergence"] < loss
    trained.zero_grad()


def test_the_divergence_is_that_of_the_two_models_words(data: StageData, trained: AnyToAny):
    """As written out by hand for one plain row, token by token."""
    batch = plain_batch(data)
    row = int(batch.plain.nonzero()[0])
    ids, mask = batch.ids[row : row + 1], batch.mask[row : row + 1]
    learnt = batch.labels[row, 1:] != -100
    with torch.no_grad():
        own = trained.logits(
            trained.hidden_states(
                trained.embed_inputs(ids, batch.media[:0], batch.media_at[:0]), mask
            )
        )
        with trained.adapter.disable_adapter():
            untouched = trained.causal_lm(input_ids=ids, attention_mask=mask).logits.float()
        q = own[0, :-1][learnt].softmax(-1)[:, : untouched.shape[-1]]
        p = untouched[0, :-1][learnt].softmax(-1)
        expected = (p * (p.log() - q.log())).sum(-1).mean()
        one = type(batch)(
            ids,
            batch.labels[row : row + 1],
            mask,
            batch.media[:0],
            batch.media_at[:0],
            {},
            {},
            plain=torch.tensor([True]),
        )
        assert trained(one, divergence=True)["divergence"].item() == pytest.approx(
            expected.item(), rel=1e-3
        )
