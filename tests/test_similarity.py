"""Ranks among distractors by hand, and the shipped run measured as a profile without judges would be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anytoany_lib import evaluate, similarity
from anytoany_lib.config import resolve
from anytoany_lib.data import read_manifest
from anytoany_lib.similarity import distractors, ranks, wishes


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
    run = tmp_path / "run"
    run.mkdir()
    for item in resolve("ckpt/tiny/run").iterdir():
        if item.name not in ("run.json", "metrics.json"):
            (run / item.name).symlink_to(item.resolve())
    record = json.loads((resolve("ckpt/tiny/run") / "run.json").read_text())
    record["profile"] |= {"judges": None, "judges_folder": None}
    (run / "run.json").write_text(json.dumps(record))
    few = [w for w in wishes(toy_data, 2, 0) if w.cell in ("text->image", "audio->image")]
    monkeypatch.setattr(similarity, "wishes", lambda *how: few)

    metrics = evaluate.evaluate(run, toy_data, batch_size=4)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert metrics["matrix"].keys() == {"text->image", "audio->image"}
    for name, cell in metrics["matrix"].items():
        assert cell.keys() == {"n", "modality", "R@1", "R@5"} and cell["n"] == 2
        assert cell["R@1"] <= cell["R@5"] == 1.0  # of at most four captions
        assert metrics["intervals"][name].keys() == cell.keys() - {"n"}
        found = metrics["ranks"][name]
        assert 1 <= found["median rank"] <= 1 + found["distractors"] <= 4
    assert metrics["modality_accuracy"] == 1.0
    assert "text->image" in evaluate.table(metrics) and "R@1" in evaluate.table(metrics)
    assert (run / "evaluation/failures.jsonl").read_text() == ""


def test_wishes_are_for_one_medium_each(toy_data: Path):
    found = wishes(toy_data, None, 0)
    assert {wish.kind for wish in found} == {"image", "audio", "video"}
    assert {"text->image", "video->audio", "image+audio->image"} <= {w.cell for w in found}
    ids = [row.id for row in read_manifest(toy_data, "test")]
    assert {wish.id for wish in found} <= set(ids) and len({w.id for w in found}) == len(found)
