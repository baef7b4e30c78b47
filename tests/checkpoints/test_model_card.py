"""The model card: what stands in it, and that nobody's text gets out of its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from small_runs import SHIPPED

from anytoany_lib.checkpoints.model_card import matrix, model_card
from anytoany_lib.config import Profile
from anytoany_lib.system import runs

HOSTILE = [
    "a: b\n---\nlicense: mit\n",
    "x | y | z\n\n# heading",
    "<script>alert(1)</script>",
    "![i](http://e.invalid/i.png) [l](javascript:1) http://e.invalid www.e.invalid",
    "`code` ```\n**bold** _it_ ~~no~~ &lt; \u202e\x00",
    "'\"{{ x }} !!python/object:os.system",
]


def _run(folder: Path, record: dict, metrics: object = None) -> Path:
    folder.mkdir()
    (folder / runs.RECORD).write_text(json.dumps(record))
    if metrics is not None:
        (folder / runs.METRICS).write_text(json.dumps(metrics))
    return folder


def _record(**changes: object) -> dict:
    return json.loads((SHIPPED / runs.RECORD).read_text()) | changes


def test_the_card_says_what_was_measured():
    card = ModelCard(model_card(SHIPPED, "me/bells"))
    measured = json.loads((SHIPPED / runs.METRICS).read_text())["matrix"]
    cell = measured["image->video"]
    others = [value for name, value in cell.items() if name not in ("n", "modality")]
    mean = sum(others) / len(others)
    assert f"{100 * cell['modality']:.0f} / {100 * mean:.0f}" in card.text
    results = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert len(results) == 32
    assert results["image to video, replies of the right kinds"] == cell["modality"]
    assert results["image to video, what they should show, mean of rates"] == round(mean, 4)
    assert card.data.pipeline_tag == "any-to-any" and card.data.model_name == "bells"
    assert 'AnyToAny.from_pretrained("me/bells")' in card.text
    record = _record()
    assert record["commit"] in card.text
    assert record["data"] and all(found in card.text for found in record["data"].values())


def test_the_card_names_parts_that_forbid_commercial_use(tmp_path: Path):
    published = Profile.load("nextgpt-7b").model_dump(mode="json")
    text = model_card(_run(tmp_path / "run", _record(profile=published)), "me/x")
    assert "forbidden by the licences of: llm, encoder, audio, video." in text
    assert "CreativeML OpenRAIL-M | see the licence" in text
    shipped = model_card(SHIPPED, "me/x")
    assert "forbidden by no licence that is stated" in shipped and "not stated" not in shipped
    for kind in ("image", "video"):
        assert (
            f"| {kind} upscaler | ckpt/tiny/upscaler | BSD-3-Clause | see the licence |" in shipped
        )


@pytest.mark.parametrize("metrics", [None, {}, [], {"matrix": []}, {"matrix": {"text->text": 3}}])
def test_a_run_that_was_not_measured_says_so(metrics: object, tmp_path: Path):
    card = ModelCard(model_card(_run(tmp_path / "run", _record(), metrics), "me/x"))
    assert "Not measured" in card.text and card.data.eval_results is None


def test_only_rates_are_numbers():
    odd = {"n": 12, "modality": 1, "a": True, "b": "0.5", "c": 7, "d": float("nan"), "e": 0.5}
    assert matrix({"matrix": {"text->image": odd, "x->y": odd, "image->text": {}}}) == {
        ("text", "image"): (1.0, 0.5)
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_nobodys_text_gets_out_of_its_place(text: str, tmp_path: Path):
    record, metrics = _record(), json.loads((SHIPPED / runs.METRICS).read_text())
    record["profile"]["name"] = "plain"  # a shipped name has an upscaler of its own
    shape = _shape(model_card(_run(tmp_path / "plain", record, metrics), "me/x"))
    record = _record(data={text: text}, commit=text, versions={text: text}, steps=text)
    record["profile"]["llm"]["source"] |= {"licence": text}
    record["profile"]["encoder"]["folder"] = text
    record["profile"]["name"] = text.replace("/", "").replace("\n", "").replace("\x00", "")
    written = model_card(_run(tmp_path / "run", record, metrics), "me/x")
    card = ModelCard(written)
    assert set(card.data.to_dict()) == set(ModelCard(model_card(SHIPPED, "me/x")).data.to_dict())
    assert _shape(written) == shape
    body = written.split("\n---\n", 1)[1]
    assert not any(odd in body for odd in ("\u202e", "\x00", "http://e", "www.e"))


def _shape(card: str) -> list[str]:
    """What a card's markdown consists of, words aside."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = reader.parse(card.split("\n---\n", 1)[1])
    inside = [one.type for token in tokens for one in token.children or ()]
    return [token.type for token in tokens] + [one for one in inside if one != "text"]
