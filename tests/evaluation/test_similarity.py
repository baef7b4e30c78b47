"""Ranks among distractors by hand, and the shipped run measured as a profile without judges would be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import few_rows, small_run
from tiny_encoders import write_clap, write_clip

from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.evaluation import matrix, similarity
from anytoany_lib.evaluation.similarity import MediaRequest, distractors, media_requests, ranks

DECODERS = json.loads(Profile.load("tiny").model_dump_json())["decoders"]  # careful ones


def test_the_own_caption_is_first_if_none_is_as_near():
    texts = np.eye(4)
    others = [[n for n in range(4) if n != own] for own in range(4)]
    media = np.array([[9, 1, 0, 0], [3, 2, 1, 0], [0, 0, 0, 0], [np.nan, 0, 0, 1]], float)
    assert ranks(media, texts, others).tolist() == [1, 2, np.inf, np.inf]
    assert ranks(media[1:3], texts[:2], [[], []]).tolist() == [1, np.inf]


def test_distractors_are_other_texts_and_the_seed_draws_them():
    captions = ["a bell", "a car", "a bell", *(f"a cat {n}" for n in range(200))]
    found = distractors(captions, seed=1)
    assert {len(set(places)) for places in found} == {similarity.DISTRACTORS}
    assert all(captions[p] != captions[n] for n, places in enumerate(found) for p in places)
    assert found == distractors(captions, seed=1) != distractors(captions, seed=2)
    assert distractors(["a", "b", "a"], 0) == [[1], [2], [1]]


def test_a_run_whose_profile_names_no_judges_is_measured_by_its_encoder(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = small_run(tmp_path / "run", judges=None, judges_folder=None, decoders=DECODERS)
    few = [w for w in media_requests(toy_data, 2, 0) if w.cell in ("text->image", "audio->image")]
    for wish in few:  # in words that every run understands, whoever worded the row
        plainly = "Draw what you hear." if wish.cell[:5] == "audio" else f"Draw {wish.caption}."
        wish.messages[-1]["content"][-1]["text"] = plainly
    monkeypatch.setattr(similarity, "media_requests", lambda *how: few)

    metrics = matrix.evaluate(run, toy_data, batch_size=4)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert metrics["matrix"].keys() == {"text->image", "audio->image"}
    for name, cell in metrics["matrix"].items():
        assert cell.keys() == {"n", "modality", "R@1", "R@5"} and cell["n"] == 2
        assert cell["R@1"] <= cell["R@5"] == 1.0  # of at most four captions
        assert metrics["intervals"][name].keys() == cell.keys() - {"n"}
        found = metrics["ranks"][name]
        assert 1 <= found["median rank"] <= 1 + found["distractors"] <= 4
    assert metrics["modality_accuracy"] == 1.0
    assert "text->image" in matrix.matrix_text(metrics) and "R@1" in matrix.matrix_text(metrics)
    assert (run / "evaluation/failures.jsonl").read_text() == ""


def test_clip_and_clap_measure_beside_the_encoder_if_the_profile_names_them(
    toy_data: Path, tmp_path: Path
):
    folders = {
        "clip": str(write_clip(tmp_path / "clip")),
        "clap": str(write_clap(tmp_path / "clap")),
    }
    run = small_run(tmp_path / "run", judges=None, judges_folder=None, similarity=folders)
    tasks = ("text->audio", "video->image", "image->video", "picture and sound", "plain")
    data = few_rows(toy_data, tmp_path / "data", tasks, captioned=2)
    metrics = matrix.evaluate(run, data)
    spaces = {"image": ("", "clip "), "video": ("", "clip "), "audio": ("", "clap ")}
    cells = {"text->image": 2, "text->audio": 3, "text->video": 2, "video->image": 1}
    cells["image->video"] = 1
    assert {name: cell["n"] for name, cell in metrics["matrix"].items()} == cells
    for name, cell in metrics["matrix"].items():
        prefixes = spaces[name.split("->")[1]]
        wanted = {f"{prefix}R@{best}" for prefix in prefixes for best in (1, 5)}
        assert cell.keys() == wanted | {"n", "modality"}
        assert metrics["intervals"][name].keys() == cell.keys() - {"n"}
        chance = metrics["baselines"][name]["chance"]
        assert chance.keys() == wanted and all(0 < value <= 1 for value in chance.values())
        for prefix in prefixes:
            assert cell[f"{prefix}R@1"] <= cell[f"{prefix}R@5"]
            assert metrics["ranks"][name][f"{prefix}distractors"] == 2  # of three captions
    assert metrics["retrieval"].keys() == {"image", "audio", "video"}
    assert {found["n"] for found in metrics["retrieval"].values()} == {2}
    assert 0.5 < metrics["language_loss_ratio"] < 5  # one row, whose answer is no model's
    outcomes = json.loads((run / "evaluation/outcomes.json").read_text())["cells"]
    for name, cell in metrics["matrix"].items():
        assert len(set(outcomes[name]["rows"])) == cell["n"]
        assert np.mean(outcomes[name]["R@1"]) == pytest.approx(cell["R@1"], abs=1e-4)


def test_media_that_are_missing_or_broken_are_last_in_every_space(profile: Profile, tmp_path: Path):
    spaces = {"clip": str(write_clip(tmp_path / "c")), "clap": str(write_clap(tmp_path / "a"))}
    asked = [
        MediaRequest(str(n), "follow-up", [], kind, f"a bell {n}")
        for n, kind in enumerate(("audio", "audio", "audio", "image", "image"))
    ]
    sound = {"type": "audio", "audio": np.zeros(8000, np.float32), "sampling_rate": 8000}
    noise = np.sin(np.arange(8000, dtype=np.float32))
    given = [
        [sound | {"audio": np.full(8000, np.nan, np.float32)}],
        [],
        [sound | {"audio": noise}],
        [{"type": "image", "image": Image.new("RGB", (8, 8), "red")}] * 2,
        [{"type": "text", "text": "No."}],
    ]
    replies = [{"role": "assistant", "content": content} for content in given]
    varied = profile.model_copy(update={"similarity": spaces})
    found, results = similarity.rank_replies(varied, asked, replies, 0, "cpu")
    assert [v.modality for v in results] == [True, False, True, False, False]
    right = [{*v.marks.values(), *v.attributes.values()} for v in results]
    assert right[0] == right[1] == right[4] == {False}
    assert results[2].attributes == {"R@5": True, "clap R@5": True}
    assert results[3].attributes == {"R@5": True, "clip R@5": True} and not results[3].right
    # A cell of two kinds: three requests among two others each, two among one; most came to nothing.
    ranks_of = found["ranks"]["follow-up"]
    assert ranks_of["median rank"] is None and ranks_of["distractors"] == 1
    chance = found["baselines"]["follow-up"]["chance"]
    assert chance["R@1"] == pytest.approx((3 / 3 + 2 / 2) / 5, abs=1e-4)
    assert chance["clap R@1"] == pytest.approx(1 / 3, abs=1e-4) and chance["clip R@1"] == 0.5


def test_a_space_that_is_not_there_is_named(profile: Profile, tmp_path: Path):
    varied = profile.model_copy(update={"similarity": {"clip": str(tmp_path)}})
    with pytest.raises(FileNotFoundError, match="no config.json there: .* CLIP"):
        similarity.scorers(varied, "cpu")


def test_requests_are_for_one_medium_each(toy_data: Path):
    found = media_requests(toy_data, None, 0)
    assert {request.kind for request in found} == {"image", "audio", "video"}
    assert {"text->image", "video->audio", "image+audio->image"} <= {w.cell for w in found}
    ids = [row.id for row in read_manifest(toy_data, "test")]
    assert {request.id for request in found} <= set(ids) and len({w.id for w in found}) == len(
        found
    )
