"""The toy world: seeds, held-out pairs, sounds without clicks, and test phrasings that no training row has."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anytoany_lib.data.building import inspect
from anytoany_lib.data.manifests import read_manifest, splits_in
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import media_in
from anytoany_lib.toyworld import (
    COLOURS,
    HELD_OUT_MOTIONS,
    HELD_OUT_PAIRS,
    MOTIONS,
    THINGS,
    Scene,
    caption,
    draw,
    film,
    random_scene,
    render,
    sound,
)
from anytoany_lib.toyworld.conversations import BEYOND, CELLS, Maker
from anytoany_lib.toyworld.dataset import plain_questions, plain_rows, spoken_rows, write


def test_the_world_is_as_large_as_promised():
    assert len(THINGS) >= 12 and len(COLOURS) >= 8 and len(MOTIONS) >= 8
    assert 10 <= len(HELD_OUT_PAIRS) <= 20 and len(HELD_OUT_MOTIONS) >= 10


@pytest.mark.parametrize("thing", THINGS)
def test_the_same_seed_draws_the_same_picture_sound_and_film(thing: str):
    def all_three(seed: int):
        rng = np.random.default_rng(seed)
        return (
            np.asarray(draw(thing, "red", rng)),
            sound(thing, rng)[0],
            film(thing, "blue", "up", rng),
        )

    for one, again, other in zip(all_three(1), all_three(1), all_three(2), strict=True):
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)
    picture, samples, frames = all_three(1)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert samples.shape == (32000,) and samples.dtype == np.float32
    assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8


@pytest.mark.parametrize("thing", THINGS)
def test_sounds_peak_at_minus_3_db_and_begin_and_end_in_silence(thing: str):
    for seed in range(5):
        samples, rate = sound(thing, np.random.default_rng(seed))
        assert rate == 16000
        assert np.abs(samples).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)
        assert np.abs(samples[[0, 1, -2, -1]]).max() < 0.01
        assert abs(samples.mean()) < 0.01


def test_no_two_things_sound_alike():
    def spectrum(thing: str, seed: int) -> np.ndarray:
        samples = render("audio", Scene(thing, count=2, pitch="low"), np.random.default_rng(seed))
        bins = np.abs(np.fft.rfft(samples)) ** 2
        octaves = np.geomspace(8, len(bins) - 1, 33).astype(int)
        levels = np.array([bins[a:b].sum() for a, b in itertools.pairwise(octaves)])
        return levels / np.linalg.norm(levels)

    for thing in THINGS:
        own = spectrum(thing, 0) @ spectrum(thing, 1)
        others = [spectrum(thing, 0) @ spectrum(other, 1) for other in THINGS if other != thing]
        assert own > max(others)


def test_counts_are_heard_as_that_many_onsets():
    for count in (1, 2, 3):
        samples = render("audio", Scene("drum", count=count, pitch="low"), np.random.default_rng(0))
        envelope = np.convolve(np.abs(samples), np.ones(800) / 800, "same")
        loud = envelope > 0.3 * envelope.max()
        assert int((np.diff(loud.astype(int)) == 1).sum()) + int(loud[0]) == count


def test_motion_goes_where_it_says():
    def centre(frame: np.ndarray) -> np.ndarray:
        ink = np.abs(frame.astype(int) - frame[0, 0]).sum(-1) > 60
        return np.argwhere(ink).mean(0)

    for motion, (dy, dx) in {
        "left": (0, -1),
        "right": (0, 1),
        "up": (-1, 0),
        "down": (1, 0),
    }.items():
        frames = film("heart", "green", motion, np.random.default_rng(0))
        moved = centre(frames[-1]) - centre(frames[0])
        assert moved @ np.array([dy, dx]) > 15
        assert abs(moved @ np.array([dx, dy])) < 3


def test_held_out_pairs_come_up_only_when_asked_for():
    rng = np.random.default_rng(0)
    for kind in ("image", "video"):
        for _ in range(500):
            for held_out in (False, True):
                scene = random_scene(kind, rng, held_out)
                pair = (scene.thing, scene.colour) in HELD_OUT_PAIRS
                assert (pair or (scene.thing, scene.motion) in HELD_OUT_MOTIONS) == held_out


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match="no thing called 'cow'.*bell"):
        draw("cow", "red", np.random.default_rng(0))
    with pytest.raises(ValueError, match="no colour called 'grey'.*red"):
        draw("bell", "grey", np.random.default_rng(0))
    with pytest.raises(ValueError, match="no motion called 'jumping'.*left"):
        film("bell", "red", "jumping", np.random.default_rng(0))


def test_plain_captions_say_everything_that_is_set():
    assert (
        caption("image", Scene("bell", "red", size="small", place="left"))
        == "a small red bell on the left"
    )
    assert caption("audio", Scene("bell", count=2, pitch="low")) == "a low bell ringing twice"
    assert caption("video", Scene("bell", "orange", motion="left")) == "an orange bell moving left"


def test_what_is_written_keeps_its_promises(toy_data: Path):
    def requests(split: str) -> list[str]:
        rows = [row for row in read_manifest(toy_data, split) if "caption" not in row.meta]
        return [
            " ".join(p.get("text", "") for p in row.messages[0]["content"]).strip() for row in rows
        ]

    worded = [r for r in requests("test") if not re.match(r"It |Name |I am thinking", r)]
    assert len(worded) > 20 and not set(worded) & set(requests("train"))
    pairs = {f"{colour} {thing}" for thing, colour in HELD_OUT_PAIRS}
    moves = {(thing, motion) for thing, motion in HELD_OUT_MOTIONS}
    for split in ("train", "validation"):
        for row in read_manifest(toy_data, split):
            for message in row.messages:
                for part in message["content"]:
                    told = part.get("caption", part.get("text", ""))
                    assert not any(pair in told for pair in pairs), told
                    if part["type"] == "video" and "caption" in part:
                        assert not any(t in told and told.endswith(m) for t, m in moves), told
    tasks = Counter(
        row.meta["task"]
        for row in read_manifest(toy_data, "test")
        if row.meta["task"] not in ("plain", "known answers")
    )
    assert tasks == dict.fromkeys(CELLS | BEYOND, 3)
    assert any(row.meta["unseen"] for row in read_manifest(toy_data, "test"))


def test_without_training_rows_there_is_a_test_split_alone(toy_data: Path, tmp_path: Path):
    """As `make chat-check` asks for it; the test rows are those of a whole dataset."""
    sizes = write(tmp_path / "toy", lambda asked: ["Yes, it is."] * len(asked), 0, 0, 3, seed=1)
    assert splits_in(tmp_path / "toy") == ["test"] and not sizes["train"]
    report = json.loads((tmp_path / "toy/report.json").read_text())
    assert report["kept"] == sizes["test"] == len(read_manifest(toy_data, "test"))

    def asked(folder: Path) -> list:
        return [row.messages[0] for row in read_manifest(folder, "test")]

    assert asked(tmp_path / "toy") == asked(toy_data)


def test_the_report_says_what_opening_every_file_would(toy_data: Path):
    report, seen = Report(), set()
    for split in splits_in(toy_data):
        for row in read_manifest(toy_data, split):
            new = [one for one in dict.fromkeys(media_in(row.messages)) if one not in seen]
            seen.update(new)
            report.kept(row, [inspect(kind, toy_data / name) for kind, name in new])
        report.splits[split] = len(read_manifest(toy_data, split))
    assert json.loads((toy_data / "report.json").read_text()) == report.as_dict()


def test_some_plain_talk_comes_again_with_its_answer_said():
    asked = plain_questions("train", 400, seed=0)
    rows = plain_rows("train", 400, asked, {question: "Yes." for _, question in asked})
    before = [str(row.messages) for row in rows]
    spoken = spoken_rows(rows, Maker(np.random.default_rng(0), "train"))
    assert [str(row.messages) for row in rows] == before
    assert len(spoken) == 50 and len({row.id for row in [*rows, *spoken]}) == 450
    aloud = [
        row.messages[1]["content"] == [{"type": "text", "text": "Yes.", "aloud": True}]
        for row in spoken
    ]
    assert 25 < sum(aloud) < 50
    questions = [question.lower() for _, question in asked]
    for row in spoken:
        text = row.messages[0]["content"][0]["text"].lower()
        assert text not in questions and any(question in text for question in questions)


def test_a_model_that_answers_nothing_whole_gives_no_plain_talk():
    asked = plain_questions("train", 40, seed=0)
    questions = [question for _, question in asked]
    assert plain_rows("train", 50, asked, dict.fromkeys(questions, "")) == []
    assert len(plain_rows("train", 50, asked, dict.fromkeys(questions, "Yes."))) == 50
    assert len(plain_rows("train", 5, asked, dict.fromkeys(questions, "Yes."))) == 40
