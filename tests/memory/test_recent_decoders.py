"""The settings of recent decoders in docs/decoders: they load, and what is planned for them is what their code has alive."""

from __future__ import annotations

from pathlib import Path

import pytest

from anytoany_lib.config import DecoderConfig, Profile
from anytoany_lib.memory import activations, frozen_rehearsal, planning

SETTINGS = Path(__file__).resolve().parents[2] / "docs" / "decoders"
KINDS = {
    "animatediff-lightning": "video",
    "sana-sprint": "image",
    "stable-audio": "audio",
    "stable-diffusion-lcm": "image",
    "wan": "video",
}
MEGABYTE = 2**20


def decoder(name: str) -> DecoderConfig:
    return Profile.load(SETTINGS / f"{name}.yaml").decoders[KINDS[name]]


def test_every_file_is_one_of_these_profiles():
    assert sorted(KINDS) == sorted(file.stem for file in SETTINGS.glob("*.yaml"))
    for name in KINDS:
        assert Profile.load(SETTINGS / f"{name}.yaml").name == name


@pytest.mark.parametrize("name", [name for name in KINDS if name != "stable-diffusion-lcm"])
def test_what_a_medium_takes_is_planned(name: str):
    config = decoder(name)
    parts = frozen_rehearsal._of_drawing(config)
    tensors = [t for part in parts.values() for t in (*part.parameters(), *part.buffers())]
    weights = sum(t.nbytes for t in tensors)
    numbers = sum(p.numel() for part in parts.values() for p in part.parameters())
    assert config.source.million_parameters == pytest.approx(numbers / 1e6, rel=0.01)
    found = frozen_rehearsal.drawing_peak(config.model_dump_json()) - weights
    assert activations.drawing(config) == pytest.approx(found, rel=0.1, abs=16 * MEGABYTE)


@pytest.mark.parametrize("name", ["wan", "stable-audio", "sana-sprint"])
def test_what_captions_take_is_planned(name: str):
    config = decoder(name)
    found = frozen_rehearsal.captions_peak(config.model_dump_json())
    assert activations.captions_read(config) == pytest.approx(found, rel=0.1)


def test_a_chat_has_no_room_for_text_encoders_that_only_read_captions():
    before = planning.plan_memory(Profile.load("qwen2.5-1.5b"))
    after = planning.plan_memory(Profile.load(SETTINGS / "wan.yaml"))
    assert after["features"]["video captions"] > 11 * 2**30 > 2 * planning.peak(before["features"])
    assert planning.peak(after["chat"]) < 9 * 2**30
    # Without guidance there is one pass in place of two.
    clips = decoder("animatediff-lightning")
    guided = clips.model_copy(update={"guidance": 5.0})
    assert activations.drawing(guided) == 2 * activations.drawing(clips)
