"""lmms-eval itself runs tasks on disk, made of the toy world: its replies are those of the kit's own evaluation."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lmms_eval", reason="the extra lmms-eval is not installed")

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from PIL import Image
from small_runs import SHIPPED

from anytoany_lib.batches import collate
from anytoany_lib.generation import Sampling, reply_all
from anytoany_lib.generation.events import PartialReply
from anytoany_lib.harnesses.lmms_eval import (
    ChatAnyToAny,
    SimpleAnyToAny,
    _sampling,
    _until,
    as_part,
)
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld import render
from anytoany_lib.toyworld.conversations.cells import CELLS
from anytoany_lib.toyworld.conversations.talks import Maker
from anytoany_lib.toyworld.sounds import RATE

EACH, BATCH, LONGEST = 67, 20, 32
UTILS = """
def media(doc):
    return [doc["medium"]]

def in_place(doc):
    text = lambda words: {"type": "text", "text": words}
    shown = {"type": "image", "url": doc["medium"]}
    heard = {"type": "audio", "url": doc["sound"]}
    return [{"role": "user", "content": [text("First"), shown, text("then"), heard, text(doc["question"])]}]

def choices(doc):
    return doc["choices"]

def right(doc, results):
    return {"right": float(results[0] == doc["answer"])}

def least(doc, results):
    losses = [loss for loss, _ in results]
    return {"right": float(doc["choices"][losses.index(min(losses))] == doc["answer"])}
"""


def _documents(kind: str, folder: Path) -> list[dict[str, Any]]:
    """What the cell `kind` -> text asks of scenes whose media lie in the folder."""
    rng, documents = np.random.default_rng(MEDIA_KINDS.index(kind)), []
    for number in range(EACH):
        talk = CELLS[f"{kind}->text"](Maker(rng, "test"))
        parts = {part["type"]: part for part in talk.messages[0]["content"]}
        medium = render(kind, parts[kind][kind], rng)
        path = folder / f"{kind}{number}{media_files.SUFFIX[kind]}"
        media_files.save(kind, path, (medium, RATE) if kind == "audio" else medium, fps=4)
        answer = talk.messages[-1]["content"][0]["text"]
        question = parts["text"]["text"]
        documents.append({"medium": str(path), "question": question, "answer": answer})
    return documents


def _write_task(folder: Path, name: str, documents: list[dict[str, Any]], **settings: str) -> None:
    """A task in the harness's own form: YAML, and its documents as JSON lines."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in documents))
    lines = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": f"{{data_files: {{test: {file}}}}}",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_visual": "!function utils.media",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "process_results": "!function utils.right",
        "generation_kwargs": f"{{max_new_tokens: {LONGEST}, do_sample: false}}",
        "metric_list": "[{metric: right, aggregation: mean, higher_is_better: true}]",
    }
    task = "".join(f"{key}: {value}\n" for key, value in (lines | settings).items())
    (folder / f"{name}.yaml").write_text(task)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list]]:
    """A folder of tasks, and the documents of each: pictures, sounds, clips, some of these in place, a choice."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "utils.py").write_text(UTILS)
    found = {f"toy_{kind}": _documents(kind, folder) for kind in MEDIA_KINDS}
    for name, of_kind in found.items():
        _write_task(folder, name, of_kind)
    sounds = [document["medium"] for document in found["toy_audio"]]
    shown = found["toy_image"]
    found["toy_place"] = [
        one | {"sound": sound} for one, sound in zip(shown[:4], sounds, strict=False)
    ]
    _write_task(folder, "toy_place", found["toy_place"], doc_to_messages="!function utils.in_place")
    found["toy_choice"] = [
        one | {"choices": [other["answer"], one["answer"]]}
        for one, other in pairwise(shown[:7])
        if one["answer"] != other["answer"]
    ]
    chosen = {"output_type": "multiple_choice", "doc_to_choice": "!function utils.choices"}
    chosen["process_results"] = "!function utils.least"
    _write_task(folder, "toy_choice", found["toy_choice"], **chosen)
    return folder, found


def _loaded(simple: bool, model: AnyToAny | None = None) -> SimpleAnyToAny:
    """What the harness finds under the name of the model, with the run that ships."""
    kind = get_model("anytoany", force_simple=simple)
    assert kind is (SimpleAnyToAny if simple else ChatAnyToAny)
    if model is not None:  # the harness takes it away from what it has run
        found = kind.__new__(kind)
        lmms.__init__(found)
        found.model, found.batch_size, found.seed = model, BATCH, 0
        return found
    options = {"batch_size": 1, "max_batch_size": None, "device": None}
    return kind.create_from_arg_string(f"run={SHIPPED},batch_size={BATCH}", options)


@pytest.fixture(scope="module")
def shipped() -> AnyToAny:
    """The run that ships with the kit, loaded by the harness's own way."""
    return _loaded(simple=False).model


def _evaluated(
    folder: Path, tasks: list[str], model: AnyToAny, simple: bool = False
) -> dict[str, Any]:
    manager = TaskManager("ERROR", include_path=str(folder), include_defaults=False)
    lm = _loaded(simple, model)
    return simple_evaluate(
        lm, tasks=tasks, task_manager=manager, batch_size=1, bootstrap_iters=0, log_samples=True
    )


def _asked(document: dict[str, Any], kind: str) -> list[Message]:
    parts = [{"type": kind, kind: document["medium"]}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": document["question"]}]}]


def test_two_hundred_replies_are_those_of_the_kit(documents, shipped: AnyToAny):
    folder, tasks = documents
    names = [f"toy_{kind}" for kind in MEDIA_KINDS]
    found = _evaluated(folder, names, shipped)
    asked = [_asked(one, kind) for kind in MEDIA_KINDS for one in tasks[f"toy_{kind}"]]
    own = reply_all(shipped, asked, 0, Sampling(kinds=(), max_new_tokens=LONGEST), BATCH)
    texts = [PartialReply(reply["content"]).text() for reply in own]
    samples = [one for name in names for one in found["samples"][name]]
    assert len(samples) == 3 * EACH >= 200
    assert [one["filtered_resps"][0] for one in samples] == texts
    for name in names:
        share = np.mean([one["right"] for one in found["samples"][name]])
        assert found["results"][name]["right,none"] == pytest.approx(share)
        assert share > 0.2  # of whole sentences, letter by letter


def test_media_stand_where_the_task_has_them(documents, shipped: AnyToAny):
    folder, tasks = documents
    found = _evaluated(folder, ["toy_place"], shipped)
    asked = [
        [
            {"type": "text", "text": "First"},
            {"type": "image", "image": one["medium"]},
            {"type": "text", "text": "then"},
            {"type": "audio", "audio": one["sound"]},
            {"type": "text", "text": one["question"]},
        ]
        for one in tasks["toy_place"]
    ]
    sampling = Sampling(kinds=(), max_new_tokens=LONGEST)
    requests = [[{"role": "user", "content": parts}] for parts in asked]
    texts = [PartialReply(r["content"]).text() for r in reply_all(shipped, requests, 0, sampling)]
    assert [one["filtered_resps"][0] for one in found["samples"]["toy_place"]] == texts


def test_choices_are_ranked_by_the_loss_that_training_has(documents, shipped: AnyToAny):
    folder, tasks = documents
    found = _evaluated(folder, ["toy_choice"], shipped, simple=True)
    assert found["results"]["toy_choice"]["right,none"] > 0.5
    document = tasks["toy_choice"][0]
    losses = [loss for loss, _ in found["samples"]["toy_choice"][0]["filtered_resps"]]
    for choice, loss in zip(document["choices"], losses, strict=True):
        answer = {"role": "assistant", "content": choice}
        encoded = shipped.messages.encode([*_asked(document, "image"), answer])
        media = shipped.embed_media([("image", document["medium"])])
        batch = collate([encoded], lambda *_, media=media: media[0], None, 1)
        with torch.no_grad():
            assert loss == pytest.approx(shipped(batch)["text"].item(), rel=2e-2)


def test_an_unreadable_medium_is_an_empty_reply(documents, shipped: AnyToAny, caplog):
    folder, tasks = documents
    there = tasks["toy_image"][0]
    gone = there | {"medium": str(folder / "gone.png")}
    _write_task(folder, "toy_gone", [gone, there])
    samples = _evaluated(folder, ["toy_gone"], shipped)["samples"]["toy_gone"]
    texts = [one["filtered_resps"][0] for one in samples]
    assert texts[0] == "" and texts[1]
    assert "toy_gone, document 0 counts as empty" in caplog.text and "gone.png" in caplog.text


def test_media_come_in_many_forms():
    picture, samples = Image.new("RGB", (8, 8)), np.zeros(16_000, np.float32)
    heard = {"type": "audio", "audio": (samples, 16_000)}
    assert as_part(picture) == {"type": "image", "image": picture}
    assert as_part({"type": "image", "url": picture})["image"] is picture
    column = {"path": "a.wav", "array": samples, "sampling_rate": 16_000}
    assert as_part(column) == as_part({"type": "video", "url": column}) == heard
    assert as_part("a.MP4") == as_part({"type": "video", "path": "a.MP4"})
    assert as_part("a.webm", "audio")["type"] == "audio" != as_part("a.webm")["type"]
    span = {"type": "video", "path": "a.mp4", "video_start": 1, "video_end": 2}
    with pytest.raises(ValueError, match="a part of a medium is not read"):
        as_part({"type": "video", "url": span})
    for odd in (b"RIFF", "a.xyz", 3):
        with pytest.raises(ValueError, match="expected a picture, a sound or a medium's path"):
            as_part(odd)


def test_what_a_task_asks_of_replies_is_kept(shipped: AnyToAny):
    longest = shipped.profile.llm.max_new_tokens
    greedy = _sampling(shipped, {"do_sample": False, "temperature": 0.7, "top_p": 0})
    assert (greedy.temperature, greedy.max_new_tokens, greedy.kinds) == (0, longest, ())
    drawn = _sampling(shipped, {"temperature": 0.7, "top_p": None, "max_new_tokens": 8})
    assert (drawn.temperature, drawn.top_p, drawn.max_new_tokens) == (0.7, 1, 8)
    assert _sampling(shipped, {"max_new_tokens": 4096}).max_new_tokens == longest
    assert _until("A.\n\nB", ["", "C", "\n\n"]) == "A." == _until("A.B", "B")
