"""Retrieval: ranks by hand, and the shipped run on media that it has not seen."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from anytoany_lib.config import resolve
from anytoany_lib.evaluation import retrieval
from anytoany_lib.evaluation.retrieval import caption_ranks, captioned, likeness, target_ranks
from anytoany_lib.system.remote import local


def test_likeness_is_of_letters_in_order():
    assert likeness("A red bell.", "a red bell.") == 1
    assert likeness("a red bell", "a blue car") < likeness("a red bell", "a red bee")


def test_the_own_caption_is_first_if_none_is_as_like():
    captions = ["a red bell", "a blue car", "a red bell", "a green cat"]
    assert caption_ranks(["a red bell ringing", "a car", "red", "a blue car"], captions) == [
        1,
        1,
        1,
        2,
    ]
    assert caption_ranks(["", ""], ["a bell", "a car"]) == [2, 2]  # nothing said is nobody's


def test_the_own_target_is_first_if_none_is_as_near():
    targets = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 4.0]], [[10.0, 0.0]]])
    conditions = [torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 3.0]]), targets[3], targets[0]]
    assert target_ranks(conditions, targets) == [1, 1, 2, 4]
    assert target_ranks([None], targets[:1]) == [1] and target_ranks([None] * 4, targets)[0] == 4
    flat = targets[:, 0]
    assert target_ranks([flat[0], flat[3], None, flat[3]], flat) == [1, 2, 4, 1]


def test_the_shipped_run_read_at_a_url_knows_media_that_no_training_had(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    shutil.copytree(resolve("ckpt/tiny/run"), tmp_path / "run")
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path / "here"))
    url = f"file://{tmp_path}/run"
    command = ["retrieval", "--run", url, "--data", str(toy_data), "--split", "train"]
    monkeypatch.setattr(sys, "argv", command)
    retrieval.main()
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path / "elsewhere"))
    record = json.loads((local(url) / retrieval.RETRIEVAL).read_text())
    assert record["kinds"].keys() == {"image", "audio", "video"}
    rows = captioned(toy_data, "train")
    assert sum(found["n"] for found in record["kinds"].values()) == len(rows) == 24
    for kind, found in record["kinds"].items():
        assert min(found["caption"], found["modality"], found["target"]) >= 0.8, (kind, found)


def test_a_split_without_captions_is_refused(toy_data: Path):
    with pytest.raises(ValueError, match="its test split has no media with captions"):
        captioned(toy_data, "test")
