"""Model cards: the prompts are all there are, true renders are judged right, and a card says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anytoany_lib.toyworld.judges import load_judges
from anytoany_lib.toyworld.measuring import cards
from anytoany_lib.toyworld.scenes import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, THINGS, render
from anytoany_lib.toyworld.training.diffusion import NOTES, note_training, replace_folder

ROOT = Path(__file__).resolve().parents[2] / "ckpt" / "tiny"
PROMPTS = {
    "image": cards.picture_prompts(),
    "audio": cards.sound_prompts(),
    "video": cards.film_prompts(),
}


def test_prompts_are_all_there_are_once_each():
    assert len(set(PROMPTS["image"])) == len(PROMPTS["image"]) == 96
    assert {(scene.thing, scene.motion) for scene in PROMPTS["video"]} >= set(HELD_OUT_MOTIONS)
    assert not {(scene.thing, scene.colour) for scene in PROMPTS["video"]} & HELD_OUT_PAIRS
    assert {scene.thing for scene in PROMPTS["audio"]} == set(THINGS)
    assert len(set(PROMPTS["audio"])) == len(PROMPTS["audio"])


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_true_renders_are_judged_right_and_shuffled_ones_are_not(kind: str):
    judges, rng = load_judges(ROOT / "judges"), np.random.default_rng(5)
    scenes = PROMPTS[kind]
    made = [render(kind, scene, rng) for scene in scenes]
    table = cards.rates(judges, kind, made, scenes)
    assert all(group["all"] > 0.95 for group in table.values())
    assert sum(group["n"] for group in table.values()) == len(scenes)
    assert ("unseen pairs" in table) == (kind != "audio")
    wrong = cards.rates(judges, kind, made[1:] + made[:1], scenes)
    assert all(group["all"] < 0.2 for group in wrong.values())


def test_a_card_says_what_was_measured_and_trained(tmp_path: Path):
    folder = tmp_path / "image"
    replace_folder(folder, lambda new: (new / "weights").write_text("1"))
    note_training(folder, part="U-Net", steps=10)
    replace_folder(folder, lambda new: (new / "weights").write_text("2"))
    note_training(folder, part="U-Net", steps=20)
    trainings = json.loads((folder / NOTES).read_text())
    assert [training["steps"] for training in trainings] == [10, 20]
    measured = {"seen pairs": {"n": 82, "thing": 0.875}, "autoencoder": {"psnr": 30.25}}
    text = cards.card("image", measured, trainings, size=9_500_000)
    assert "9.5 MB" in text and "seen pairs (82 prompts): thing 87.5" in text
    assert "psnr 30.2" in text and "part U-Net, steps 20" in text and "sheet.png" in text
