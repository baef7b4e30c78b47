"""docs/SCALE.md says what its script computes, and the script what can be checked by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from anytoany_lib.config import Profile
from anytoany_lib.recipe import rates

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", REPOSITORY / "bench/scale.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "scale", module)
        spec.loader.exec_module(module)
        yield module


def test_the_document_is_what_the_script_computes(scale):
    written = (REPOSITORY / "docs/SCALE.md").read_text(encoding="utf-8")
    assert scale.section() in written, "stale: run python bench/scale.py"


def test_sizes_are_the_published_ones(scale):
    """LLaMA-7B's matrices; LoRA of rank 32 on q, k, v and o; ImageBind-huge's trunk of 257 positions, 2 FLOP a weight."""
    sizes = scale.sizes("nextgpt-7b")
    assert sizes.matrices == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert sizes.lora == 32 * 4 * 32 * 2 * 4096
    assert scale.imagebind_operations("image") == pytest.approx(2 * 629e6 * 257, rel=0.05)
    assert scale.imagebind_operations("video") == 15 * scale.imagebind_operations("image")


def test_a_checkpointed_row_takes_six_operations_a_weight_and_token(scale):
    profile = Profile.load("nextgpt-7b")
    every, learnt = scale.tokens(profile, 1)
    expected = 6 * every * scale.sizes(profile.name).matrices
    assert scale.row_operations(profile, 1) == pytest.approx(expected, rel=0.01)
    assert every > learnt > 0


def test_more_cards_are_never_slower_and_never_cheaper(scale):
    profile = Profile.load("qwen3-8b")
    for stage in profile.stages:
        for card in scale.CARDS:
            spent = [scale.hours(profile, stage, card, count) for count in scale.COUNTS]
            assert spent == sorted(spent, reverse=True)
            cards = [hours * count for hours, count in zip(spent, scale.COUNTS, strict=True)]
            assert cards == sorted(cards)


def test_the_recipe_plans_with_what_was_measured(scale):
    for stage, seconds in rates.LAUNCHING.items():
        assert scale.launching(stage) == pytest.approx(seconds, abs=1e-3)
    writing = scale.record()["talking"]["with LoRA: 16 at once, writing 32"]
    assert 16 / writing["tokens_per_second"] == pytest.approx(rates.TOKEN_OF_16, abs=1e-3)
