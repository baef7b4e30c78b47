"""Shared fixtures: the tiny profile with its real frozen models, and a small toy-world dataset with its features."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing here is compiled by torch, but bitsandbytes asks for it at import: a second of every process and kernel.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import pytest
import torch
from resuming import unquantised
from scripts import script

from anytoany_lib.checkpoints import fetching
from anytoany_lib.config import Profile
from anytoany_lib.features import precomputing
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld import dataset

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = REPOSITORY.parent / "shared" / "samples" / "nextgpt"


# The files that take longest, the longest first: two processes that take one after the other end at about the same time.
SLOWEST = (
    *("test_notebooks", "test_full_size", "test_whole_evaluations", "test_scale_out"),
    *("test_widget_browser", "test_access", "test_resume", "test_determinism", "test_hub"),
    *("test_features_and_training", "test_precomputing", "test_half_precision", "test_denoising"),
    *("test_foreign_runs", "test_foreign_files", "test_gradio_app", "test_bench", "test_following"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, beside everything else, so that nothing of it is left for the end alone."""
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session", autouse=True)
def products_in_32_bits() -> Iterator[None]:
    """`llm.dtype: auto` is float32 on every processor, also on one that multiplies in bfloat16: numbers are compared closely."""
    found = torch.cpu.get_capabilities() | {"amx_bf16": False, "avx512_bf16": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: found)
        yield


@pytest.fixture(scope="session")
def four_bits() -> Profile:
    """Profile `tiny` as it ships, with its language model fetched if this machine does not have it yet."""
    profile = Profile.load("tiny")
    fetching.fetch(profile)
    return profile


@pytest.fixture(scope="session")
def profile(four_bits: Profile) -> Profile:
    """The same with a language model that is not quantised: packing it takes four seconds of every loading."""
    return unquantised(four_bits)


@pytest.fixture(scope="session")
def model(profile: Profile) -> AnyToAny:
    """An untrained model; tests must leave its weights as they are."""
    return AnyToAny.from_profile(profile, seed=0).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def toy_data(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy-world dataset with plain talk answered by a fixed sentence, and with features."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    dataset.write(
        folder, lambda questions: ["That is a good question."] * len(questions), 24, 40, 3, seed=1
    )
    precomputing.precompute(profile, folder)
    return folder


@pytest.fixture
def scripted(model: AnyToAny, monkeypatch: pytest.MonkeyPatch):
    """Gives the model a script of replies; see `scripts.script`."""
    return script(monkeypatch, model)
