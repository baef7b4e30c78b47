"""Verdicts on replies that are known to be right or wrong, and a whole evaluation of a small run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from resuming import shallow, with_stage

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import Row
from anytoany_lib.evaluation import failures, matrix
from anytoany_lib.evaluation.judging import (
    Verdict,
    by_author,
    cell_of,
    chance_by_part,
    load_judges,
    rates,
    verdicts,
)
from anytoany_lib.toyworld import Scene, render
from anytoany_lib.toyworld.conversations import BEYOND, CELLS, Maker

# Tasks that show several media in one message: counted in a combination's cell, and by themselves.
SEVERAL_SHOWN = {
    "which of several",
    "which more often",
    "same or different",
    "picture and sound",
    "second one",
    "compare",
    "mixed pictures",
    "mixed request",
    "whole comparison",
}


@pytest.fixture(scope="module")
def judges(profile: Profile):
    return load_judges(profile)


def rows_and_right_replies(seed: int = 0, each: int = 2) -> tuple[list[Row], list[dict]]:
    """Rows of every task, with replies that show exactly what was expected."""
    rng, rows, replies = np.random.default_rng(seed), [], []
    for name, task in (CELLS | BEYOND).items():
        for number in range(each):
            talk = task(Maker(rng, "test"))
            wanted = iter([part for part in talk.expect if part["kind"] != "text"])
            content = []
            for part in talk.messages[-1]["content"]:
                if part["type"] != "text":
                    scene = Scene(**next(wanted)["scene"])
                    part = {"type": part["type"], part["type"]: render(part["type"], scene, rng)}
                    part |= {"sampling_rate": 16000} if part["type"] == "audio" else {}
                content.append(part)
            rows.append(
                Row(
                    f"{name}-{number}",
                    "test",
                    talk.messages[:-1],
                    {"task": name, "expect": talk.expect, "unseen": number == 0},
                )
            )
            replies.append({"role": "assistant", "content": content})
    return rows, replies


def test_right_replies_are_judged_right(judges):
    rows, replies = rows_and_right_replies(each=3)
    results = verdicts(judges, rows, replies)
    assert all(verdict.modality for verdict in results)
    attributes = [value for verdict in results for value in verdict.attributes.values()]
    assert len(attributes) > 80
    assert np.mean(attributes) > 0.97  # the judges are networks and err now and then


def test_replies_to_other_requests_are_judged_wrong(judges):
    rows, replies = rows_and_right_replies(each=2)
    shuffled = replies[5:] + replies[:5]
    results = verdicts(judges, rows, shuffled)
    assert np.mean([verdict.right for verdict in results]) < 0.2


def test_a_missing_a_surplus_and_a_wrong_kind_of_medium_are_wrong_modalities(judges):
    scene = Scene("bell", "red")
    picture = {"type": "image", "image": render("image", scene, np.random.default_rng(0))}
    text = {"type": "text", "text": "Here is a red bell."}
    expect = [{"kind": "image", "scene": scene.asked()}]
    row = Row("r", "test", [], {"task": "text->image", "expect": expect, "unseen": False})
    replies = [
        [text, picture],
        [text],
        [picture, picture],
        [{"type": "video", "video": np.zeros((8, 64, 64, 3), np.uint8)}],
    ]
    results = verdicts(judges, [row] * 4, [{"role": "assistant", "content": r} for r in replies])
    assert [verdict.modality for verdict in results] == [True, False, False, False]
    assert [verdict.attributes["thing"] for verdict in results] == [True, False, True, False]
    assert rates(results[:2]) == {"n": 2, "modality": 0.5, "thing": 0.5, "colour": 0.5}


def test_media_that_cannot_be_judged_count_as_wrong(judges):
    expect = [{"kind": "audio", "scene": {"thing": "bell"}}]
    row = Row("r", "test", [], {"task": "text->audio", "expect": expect, "unseen": False})
    broken = np.full(32000, np.nan, np.float32)
    reply = {
        "role": "assistant",
        "content": [{"type": "audio", "audio": broken, "sampling_rate": 16000}],
    }
    (verdict,) = verdicts(judges, [row], [reply])
    assert verdict.attributes == {"thing": False} and not verdict.right


def test_an_empty_reply_is_wrong_in_all_that_was_asked(judges):
    scenes = [{"thing": "bell", "colour": "red"}, {"says": "yes"}, {}]
    rows = [
        Row(
            str(n),
            "test",
            [],
            {"task": "plain", "expect": [{"kind": "text", "scene": scene}], "unseen": False},
        )
        for n, scene in enumerate(scenes)
    ]
    results = verdicts(judges, rows, [{"role": "assistant", "content": []}] * 3)
    assert [verdict.wrong for verdict in results] == [
        ["thing", "colour", "modality"],
        ["says", "modality"],
        ["modality"],
    ]
    assert rates(results) == {
        "n": 3,
        "modality": 0.0,
        "thing": 0.0,
        "colour": 0.0,
        "says": 0.0,
    }


@pytest.mark.parametrize(
    ("text", "word", "right"),
    [
        ("It is blue: yes.", "yes", True),
        ("Yes, it is blue.", "yes", True),
        ("It is blue: no.", "yes", False),
        ("Yes and no.", "yes", False),
        ("A nose is shown.", "no", False),
        ("Red and blue: the second one.", "second", True),
        ("The first and the second one.", "second", False),
    ],
)
def test_an_answer_says_its_word_and_no_other_of_the_same_question(
    judges, text: str, word: str, right: bool
):
    expect = [{"kind": "text", "scene": {"says": word}}]
    row = Row("r", "test", [], {"task": "yes or no", "expect": expect, "unseen": False})
    reply = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    assert verdicts(judges, [row], [reply])[0].attributes == {"says": right}


@pytest.mark.parametrize("wanted", [True, False])
def test_a_reply_is_said_aloud_where_that_was_wanted_and_silent_where_not(judges, wanted: bool):
    expect = [{"kind": "text", "scene": {"answers": ["good morning"]}, "aloud": wanted}]
    row = Row("r", "test", [], {"task": "aloud", "expect": expect, "unseen": False})
    part = {"type": "text", "text": "Good morning."}
    replies = [
        [part | {"aloud": True}],
        [part],
        [{"type": "text", "text": "No.", "aloud": wanted}],
        [],
    ]
    results = verdicts(judges, [row] * 4, [{"role": "assistant", "content": r} for r in replies])
    name = "aloud" if wanted else "silent"
    assert [v.attributes[name] for v in results] == [wanted, not wanted, True, False]
    assert [v.attributes["answers"] for v in results] == [True, True, False, False]
    assert [v.right for v in results] == [wanted, not wanted, False, False]


def test_an_edit_is_counted_by_what_was_asked_and_by_what_was_kept(judges):
    rng, scene = np.random.default_rng(0), Scene("bell", "red")
    expect = [{"kind": "image", "scene": scene.asked(), "kept": ["thing"]}]
    row = Row("r", "test", [], {"task": "edit", "expect": expect, "unseen": False})

    def shown(*drawn: Scene) -> dict:
        parts = [{"type": "image", "image": render("image", one, rng)} for one in drawn]
        return {"role": "assistant", "content": parts}

    replies = [
        shown(scene),
        shown(scene.but(colour="blue")),
        shown(scene.but(thing="cat")),
        shown(),
    ]
    results = verdicts(judges, [row] * 4, replies)
    assert [verdict.marks["asked"] for verdict in results] == [True, False, True, False]
    assert [verdict.marks["kept"] for verdict in results] == [True, True, False, False]
    assert rates(results)["asked"] == 0.5 and rates(results)["kept"] == 0.5


def test_the_shares_of_each_author_are_of_that_authors_rows():
    asked = [{"role": "user", "content": "Again."}]
    rows = [
        Row(str(n), "test", asked, {"task": task, "expect": [], "unseen": False, "author": author})
        for n, (task, author) in enumerate((("edit", "a"), ("edit", "b"), ("plain", "a")))
    ]
    right = (True, False, False)
    results = [
        Verdict(row, {"role": "assistant", "content": []}, True, {"thing": one})
        for row, one in zip(rows, right, strict=True)
    ]
    found = by_author(results)
    assert found["a"] == {
        "n": 2,
        "modality": 1.0,
        "right": 0.5,
        "cells": {
            "edit": {"n": 1, "modality": 1.0, "right": 1.0},
            "plain": {"n": 1, "modality": 1.0, "right": 0.0},
        },
    }
    assert found["b"]["right"] == 0.0


def test_several_media_in_one_message_are_a_cell_of_their_own():
    rows, _ = rows_and_right_replies(each=1)
    cells = {row.meta["task"]: cell_of(row) for row in rows}
    assert cells["mixed pictures"] == "image+image->image"
    assert cells["picture and sound"] == "image+audio->text"
    assert cells["mixed request"] == "image+audio->image"
    assert all(cells[task] == task for task in cells.keys() - SEVERAL_SHOWN)


def test_failures_are_all_listed_and_a_medium_that_cannot_be_written_ends_nothing(tmp_path: Path):
    expect = [{"kind": "audio", "scene": {"thing": "bell"}}]
    meta = {"task": "text->audio", "expect": expect, "unseen": False}
    request = [{"role": "user", "content": [{"type": "text", "text": "Play a bell."}]}]
    broken = np.full(32000, np.nan, np.float32)
    parts = [
        {"type": "text", "text": "Here."},
        {"type": "audio", "audio": broken, "sampling_rate": 16000},
    ]
    reply = {"role": "assistant", "content": parts}
    results = [
        Verdict(Row(str(n), "test", request, meta), reply, True, {"thing": False}) for n in range(3)
    ]
    failures.save(tmp_path / "evaluation", results, per_task=1)
    lines = (tmp_path / "evaluation/failures.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["row"] for line in found] == ["0", "1", "2"]
    assert [line["example"] for line in found] == [0, None, None]
    assert found[0]["asked"] == "Play a bell." and found[0]["said"] == "Here. [audio]"
    assert found[0]["wrong"] == ["thing"] and found[0]["expected"] == [
        {"kind": "audio", "thing": "bell"}
    ]
    (example,) = json.loads((tmp_path / "evaluation/examples.json").read_text())
    assert "cannot be written" in example["messages"][-1]["content"][1]["text"]


def test_chance_is_near_one_in_twelve_things(judges):
    rows, replies = rows_and_right_replies(seed=5, each=6)
    found = chance_by_part(judges, rows, replies)
    assert 0.0 <= found["image"]["thing"] < 0.3
    assert 0.0 <= found["audio"]["thing"] < 0.3


def quick(profile: Profile, folder: Path) -> Profile:
    """The profile with the first layers of its language model, short replies, and decoders of two steps."""
    fit = {"rows": 8, "steps": 2, "batch_size": 4}
    small = with_stage(shallow(profile, folder), 3, batch_size=2, fit_after=fit)
    llm = small.llm.model_copy(update={"max_new_tokens": 12})
    decoders = {
        kind: decoder.model_copy(update={"steps": 2}) for kind, decoder in small.decoders.items()
    }
    return small.model_copy(update={"llm": llm, "decoders": decoders})


def test_a_whole_evaluation_writes_the_contracts_metrics(
    profile: Profile, toy_data: Path, tmp_path: Path
):
    (tmp_path / "llm").mkdir()
    small = quick(profile, tmp_path / "llm")
    run = train.train(small, 3, toy_data, tmp_path / "run", max_steps=1)
    metrics = matrix.evaluate(run, per_task=1, bound=1, examples=1)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert set(metrics["matrix"]) == set(CELLS)
    assert all(
        0 <= rate <= 1
        for cell in metrics["matrix"].values()
        for name, rate in cell.items()
        if name != "n"
    )
    combined = {"image+image->image", "image+audio->text", "image+audio->image"}
    assert set(metrics["combinations"]) > combined
    assert set(metrics["more"]) == set(BEYOND) | {"plain", "known answers"}
    assert metrics["baselines"]["known answers"]["untouched"].keys() >= {"n", "answers"}
    assert set(metrics["authors"]) >= {"kit", "author_12"}
    assert sum(one["n"] for one in metrics["authors"].values()) == sum(
        cell["n"]
        for part in ("matrix", "combinations", "more")
        for name, cell in metrics[part].items()
        if part != "more" or name not in SEVERAL_SHOWN | {"known answers"}
    )
    cells = metrics["matrix"] | metrics["combinations"]
    for name, cell in cells.items():
        around = metrics["intervals"][name]
        assert around.keys() == cell.keys() - {"n"}
        assert all(around[r]["low"] <= cell[r] <= around[r]["high"] for r in around)
        given, wanted = name.split("->")
        others = {"chance"} | ({"text_only"} if given != "text" else set())
        others |= {"upper_bound"} if wanted != "text" else set()
        assert metrics["baselines"][name].keys() == others
    assert not (run / ".evaluation").exists()
    assert set(metrics["upper_bound"]) == {"image", "audio", "video"}
    assert 0.5 < metrics["language_loss_ratio"] < 2
    assert metrics["peak_memory_bytes"]["host"] < 6e9
    examples = json.loads((run / "evaluation/examples.json").read_text())
    assert {example["task"] for example in examples} == set(CELLS) | set(BEYOND) | {
        "plain",
        "known answers",
    }
    assert "text->image" in matrix.matrix_text(metrics)


def test_a_dataset_without_expectations_is_refused(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        matrix, "read_manifest", lambda folder, split: read_manifest(folder, "train")[:0]
    )
    with pytest.raises(ValueError, match="no test row says"):
        matrix.test_set(toy_data, None)


def test_a_profile_without_judges_says_so(profile: Profile):
    with pytest.raises(ValueError, match="names no judges"):
        load_judges(profile.model_copy(update={"judges": None}))


def test_differences_are_told_beyond_what_rounding_may_tip_over():
    recorded = {"matrix": {"text->image": {"n": 24, "modality": 1.0, "thing": 0.96}}}

    def found(**cell: float) -> dict:
        return {"matrix": {"text->image": {"n": 24, "modality": 1.0, "thing": 0.96} | cell}}

    assert matrix.differences(recorded, found()) == []
    assert matrix.differences(recorded, found(modality=0.9583)) == []
    assert "thing: 0.96 was recorded, 0.5" in matrix.differences(recorded, found(thing=0.5))[0]
    assert "modality" in matrix.differences(recorded, found(modality=0.8))[0]
    assert "24 rows were recorded, 10" in matrix.differences(recorded, found(n=10))[0]
    assert "0 measured" in matrix.differences(recorded, {"matrix": {}})[0]


def test_a_rate_stands_beside_its_interval_its_bound_and_what_guessing_gets():
    cell = "audio->image"
    metrics = {
        "matrix": {cell: {"thing": 0.5, "colour": 1.0}},
        "intervals": {cell: {"thing": {"low": 0.25, "high": 0.75}}},
        "baselines": {cell: {"upper_bound": {"thing": 1.0}, "chance": {"thing": 0.09}}},
    }
    assert matrix.beside(metrics, cell, "thing") == "50 (25-75) of 100 / – / 9"
    assert matrix.beside(metrics, cell, "colour") == "100 of – / – / –"
