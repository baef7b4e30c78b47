"""Replies that are read_or_draw while an evaluation lasts: the same to the last bit, interrupted or not; none of another evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import small_run

from anytoany_lib.config import Profile, resolve
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.evaluation import stored_replies
from anytoany_lib.evaluation.stored_replies import draw, key_of, open_folder, read_or_draw, reply_to
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny

RUN = resolve("ckpt/tiny/run")
QUICK = Sampling(steps=2)
WISHES = ["Draw a red bell.", "Play a drum.", "Film a blue car flying left.", "What is a cat?"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> AnyToAny:
    return AnyToAny.from_pretrained(small_run(tmp_path_factory.mktemp("runs") / "run"))


def asked(*texts: str) -> list[list[dict]]:
    return [[{"role": "user", "content": text}] for text in texts]


def alike(one: dict, other: dict) -> bool:
    """Whether two messages are the same to the last bit of their media."""
    pairs = list(zip(one["content"], other["content"], strict=True))
    return all(
        a.keys() == b.keys()
        and all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a)
        for a, b in pairs
    )


def test_an_interrupted_evaluation_goes_on_and_comes_to_the_same(
    shipped: AnyToAny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prompts, how = asked(*WISHES, *WISHES[::-1][:2]), ("replies", 0, QUICK, 1)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = reply_to(shipped, prompts, tmp_path / "whole", *how)
    kinds = {part["type"] for reply in whole for part in reply["content"]}
    assert kinds == {"text", "image", "audio", "video"}

    drawn: list[int] = []

    def until_killed(model: AnyToAny, group: list, *more) -> list:
        if drawn:
            raise KeyboardInterrupt
        drawn.append(len(group))
        return draw(model, group, *more)

    monkeypatch.setattr(stored_replies, "draw", until_killed)
    with pytest.raises(KeyboardInterrupt):
        reply_to(shipped, prompts, tmp_path / "cut", *how)
    assert [file.name for file in (tmp_path / "cut").iterdir()] == ["replies-000000.safetensors"]

    drawn.clear()
    again = reply_to(shipped, prompts, tmp_path / "cut", *how)
    assert drawn == [2]  # the first file held the other four
    assert all(alike(one, other) for one, other in zip(whole, again, strict=True))
    assert not alike(whole[0], whole[1])


def test_what_is_read_is_what_was_made(tmp_path: Path):
    made = [
        [
            {"type": "text", "text": "Hört!"},
            {"type": "audio", "audio": np.float32([0.1, -1]), "sampling_rate": 16000},
        ],
        [{"type": "image", "condition": torch.randn(3, 2), "failed": "not finite"}],
        [],
    ]
    first, again = (read_or_draw(tmp_path / "a.safetensors", lambda: made) for _ in range(2))
    for found in (first, again):
        assert [[sorted(part) for part in parts] for parts in found] == [
            [sorted(part) for part in parts] for parts in made
        ]
        assert np.array_equal(found[0][1]["audio"], made[0][1]["audio"])
        assert torch.equal(found[1][0]["condition"], made[1][0]["condition"])
    reply = stored_replies.message_of(first[1])
    assert reply["content"] == [] and reply["failed"] == ["image: not finite"]


def test_replies_of_another_evaluation_are_not_taken(
    profile: Profile, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    requests = [row.messages for row in read_manifest(toy_data, "test")][:3]
    folder = tmp_path / ".evaluation"
    first = key_of(RUN, profile, toy_data, requests, seed=0)
    assert open_folder(folder, first) == folder and not capsys.readouterr().out
    (folder / "replies-000000.safetensors").touch()
    open_folder(folder, key_of(RUN, profile, toy_data, requests, seed=0))
    assert "going on" in capsys.readouterr().out and len(list(folder.iterdir())) == 2
    open_folder(folder, key_of(RUN, profile, toy_data, requests[:2], seed=1))
    assert "(requests, seed): anew" in capsys.readouterr().out
    assert [file.name for file in folder.iterdir()] == ["key.json"]
    other = profile.model_copy(update={"name": "other"})
    assert key_of(RUN, other, toy_data, requests, seed=0)["profile"] != first["profile"]


def test_kept_replies_do_not_change_the_key_of_their_run(
    profile: Profile, toy_data: Path, tmp_path: Path
):
    (tmp_path / "trainable.safetensors").write_bytes(b"weights")
    before = key_of(tmp_path, profile, toy_data, [])
    read_or_draw(
        open_folder(tmp_path / ".evaluation", before) / "replies-000000.safetensors", lambda: [[]]
    )
    assert key_of(tmp_path, profile, toy_data, []) == before
    (tmp_path / "trainable.safetensors").write_bytes(b"others!")
    assert key_of(tmp_path, profile, toy_data, [])["run"] != before["run"]


def test_a_request_with_a_medium_that_cannot_be_read_has_an_empty_reply(
    shipped: AnyToAny, tmp_path: Path
):
    (tmp_path / "no.png").write_bytes(b"no picture")
    broken = [{"type": "image", "image": str(tmp_path / "no.png")}, {"type": "text", "text": "?"}]
    prompts = [*asked("Say hello."), [{"role": "user", "content": broken}]]
    said, nothing = reply_to(shipped, prompts, tmp_path, "replies", 0, Sampling(kinds=()))
    assert said["content"][0]["text"] and "failed" not in said
    assert nothing["content"] == [] and "no.png" in nothing["failed"][0]
