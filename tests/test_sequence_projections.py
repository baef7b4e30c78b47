"""Input projections that read sequences: what they compute, and that a profile with one is fitted, trained, saved and loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from resuming import shallow, with_stage
from transformers.models.groupvit.configuration_groupvit import GroupViTVisionConfig
from transformers.models.groupvit.modeling_groupvit import GroupViTVisionEncoder

from anytoany_lib import train
from anytoany_lib.config import InputProjectionConfig, Profile
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import media_in
from anytoany_lib.features.costs import estimate_costs
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.precomputing import precompute
from anytoany_lib.memory import planning
from anytoany_lib.model import AnyToAny
from anytoany_lib.projections import InputProjection
from anytoany_lib.sequence_projections import Grouping, Resampler, input_projection_of
from anytoany_lib.training.fitting import caption_words, fit_reader

LENGTH = 9


def reading(profile: Profile, kind: str, soft_tokens: int = 2) -> Profile:
    """The profile with a small projection of this kind, which reads nine states a medium."""
    encoder = {"states": "patches", "length": LENGTH, "soft_tokens": soft_tokens}
    changed = {
        "encoder": profile.encoder.model_copy(update=encoder),
        "input_projection": InputProjectionConfig(kind=kind, width=32, heads=2, layers=1),
    }
    return profile.model_copy(update=changed)


@pytest.mark.parametrize(("kind", "cls"), [("resampler", Resampler), ("grouping", Grouping)])
def test_soft_tokens_depend_on_every_state_and_not_on_their_order(
    profile: Profile, kind: str, cls: type
):
    torch.manual_seed(0)
    projection = input_projection_of(reading(profile, kind), hidden=20)
    assert isinstance(projection, cls)
    projection.double().eval()
    states = torch.randn(2, LENGTH, 256, dtype=torch.float64, requires_grad=True)
    soft = projection(states)
    assert soft.shape == (2, 2, 20) and not torch.allclose(soft[:, 0], soft[:, 1])
    turned = projection(states[:, torch.randperm(LENGTH)])
    assert torch.allclose(turned, soft, atol=1e-9)
    soft[0].square().sum().backward()
    assert states.grad is not None and states.grad[0].abs().sum(-1).all()
    assert not states.grad[1].any()
    assert all(p.grad is not None for p in projection.parameters())


def test_grouping_is_the_encoder_of_groupvit(profile: Profile):
    torch.manual_seed(0)
    projection = input_projection_of(reading(profile, "grouping"), hidden=20).eval()
    config = GroupViTVisionConfig(
        hidden_size=32, intermediate_size=128, num_attention_heads=2, num_hidden_layers=4,
        depths=[2, 1, 1], num_group_tokens=[16, 2, 0], num_output_groups=[16, 2, 0],
    )  # fmt: skip
    published = GroupViTVisionEncoder(config).eval()
    published.stages.load_state_dict(projection.stages.state_dict())
    x = torch.randn(3, LENGTH, 32)
    wanted = published(x, output_hidden_states=False, output_attentions=False, return_dict=True)
    assert torch.allclose(projection.read(x), wanted.last_hidden_state, atol=1e-6)


def test_sizes_of_next_gpts_are_those_of_its_code(profile: Profile):
    """512 wide, 64 and 8 groups, layers 6 + 3 + 3 (nextgpt/model/multimodal_projector/projector.py)."""
    encoder = profile.encoder.model_copy(update={"states": "patches", "soft_tokens": 8})
    whole = profile.model_copy(
        update={"encoder": encoder, "input_projection": InputProjectionConfig(kind="grouping")}
    )
    with torch.device("meta"):
        stages = input_projection_of(whole, 4096).stages
    assert [len(stage.layers) for stage in stages] == [6, 3, 3]
    assert [stage.num_group_token for stage in stages] == [64, 8, 0]
    assert stages[0].group_token.shape == (1, 64, 512)


def test_without_a_setting_it_is_the_linear_map(profile: Profile):
    projection = input_projection_of(profile, 576)
    assert isinstance(projection, InputProjection)
    assert set(projection.state_dict()) == {"weight", "bias"}


@pytest.fixture
def resampling(model: AnyToAny, profile: Profile) -> Iterator[AnyToAny]:
    """The model with a new resampler in the place of its input projection."""
    linear = model.input_projection
    torch.manual_seed(0)
    model.input_projection = input_projection_of(reading(profile, "resampler"), 576)
    yield model
    # monkeypatch would take a submodule away, since it stands in no __dict__.
    model.input_projection = linear


def test_a_reader_is_fitted_to_words_that_are_in_one_of_the_states(
    resampling: AnyToAny, monkeypatch: pytest.MonkeyPatch
):
    model, small = resampling, resampling.input_projection
    torch.manual_seed(0)
    captions = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("bell", "boat")]
    states = 0.1 * torch.randn(32, LENGTH, 256)
    for row in range(32):
        states[row, row % LENGTH] += 3 * torch.nn.functional.one_hot(torch.tensor(row % 4), 256)
    told = [captions[row % 4] for row in range(32)]
    settings = {"fit_steps": 120, "fit_batch_size": 16, "fit_learning_rate": 3e-3}
    fitted = InputProjectionConfig(**settings)
    changed = model.profile.model_copy(update={"input_projection": fitted})
    monkeypatch.setattr(model, "profile", changed)
    assert fit_reader(model, states, told) > 0.8
    words = caption_words(model, told)
    with torch.no_grad():
        missed = (small(states) - words).square().sum()
    assert missed < 0.2 * (words - words.mean(0)).square().sum()


@pytest.fixture(scope="module")
def trained(
    profile: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Profile, Path, Path]:
    """Of a resampler on the tiny encoder's patches: the profile, its data with features, and a run of a few steps."""
    folder = tmp_path_factory.mktemp("reading")
    (folder / "llm").mkdir()
    small = reading(shallow(profile, folder / "llm"), "resampler")
    fit = {"fit_steps": 30, "fit_batch_size": 16}
    fitted = small.input_projection.model_copy(update=fit)
    small = small.model_copy(update={"input_projection": fitted})
    rates = {"input_projection": 2e-3, "token_rows": 1e-2}
    small = with_stage(small, 1, batch_size=6, learning_rates=rates)
    data = shutil.copytree(toy_data, folder / "data")
    precompute(small, data)
    return small, data, train.train(small, 1, data, folder / "run", max_steps=4)


def test_sequences_are_cached_beside_vectors_and_are_what_the_encoder_gives(
    trained: tuple[Profile, Path, Path], profile: Profile
):
    small, data, _ = trained
    store, pooled = DatasetFeatures(small, data), DatasetFeatures(profile, data)
    kind, path = media_in(read_manifest(data, "train")[0].messages)[0]
    states = store.media(path)
    assert states.shape == (LENGTH, 256) and pooled.media(path).shape == (256,)
    encoder = AnyToAny.from_profile(small).encoder
    prepared = encoder.embed(kind, [_medium(kind, data / path)])[0]
    assert np.allclose(states, prepared.numpy(), atol=2e-2)
    costs = estimate_costs(small, data, sampled=1)
    row = next(row for row in costs.caches if row["cache"] == f"{kind}s")
    assert row["shape"] == f"{LENGTH} x 256"
    assert row["MB on disk"] == f"{row['rows'] * LENGTH * 256 * 2 / 1e6:,.1f}"


def _medium(kind: str, path: Path):
    from anytoany_lib.media.media_files import as_media

    return as_media(kind, path)


def test_a_profile_with_a_resampler_is_fitted_trained_and_loaded(
    trained: tuple[Profile, Path, Path],
):
    _, data, run = trained
    record = json.loads((run / "run.json").read_text())
    assert record["profile"]["input_projection"]["kind"] == "resampler"
    assert "words explained by soft tokens" in json.dumps(record)
    model = AnyToAny.from_pretrained(run)
    assert isinstance(model.input_projection, Resampler)
    kind, path = media_in(read_manifest(data, "train")[0].messages)[0]
    asked = {"role": "user", "content": [{"type": kind, kind: str(data / path)}]}
    assert model.chat([asked])["role"] == "assistant"


def test_what_it_takes_is_planned(profile: Profile):
    planned = planning.plan_memory(reading(profile, "resampler"))["stage 1"]
    linear = planning.plan_memory(profile)["stage 1"]
    assert planned["projections, rows and LoRA"] != linear["projections, rows and LoRA"]
