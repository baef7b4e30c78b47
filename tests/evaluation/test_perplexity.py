"""Perplexity on plain instructions, against transformers' own loss and against the evaluation's ratio."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from small_runs import small_run

from anytoany_lib.data.rows import Row
from anytoany_lib.evaluation import matrix, perplexity
from anytoany_lib.evaluation.perplexity import is_plain
from anytoany_lib.model import AnyToAny

TALKS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Hi.", "Hello! How can I help you today?"),
    ("Name three colours.", "Red, green and blue."),
]


def _row(asked: str, answer: str) -> Row:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return Row("talk", "talk", messages)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Three talks without media."""
    return [_row(*talk) for talk in TALKS]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> AnyToAny:
    """The run that ships with the kit, whose language model has an adapter, without quantisation."""
    return AnyToAny.from_pretrained(small_run(tmp_path_factory.mktemp("runs") / "run"))


def test_it_is_what_transformers_calls_the_loss(model: AnyToAny, rows: list[Row]):
    found = perplexity.perplexity(model, rows[:1])
    encoded = model.messages.encode(rows[0].messages)
    ids, labels = torch.tensor([encoded.ids]), torch.tensor([encoded.labels])
    with torch.no_grad():
        loss = model.causal_lm(input_ids=ids, labels=labels).loss.item()
    assert found["untouched"] == pytest.approx(math.exp(loss), rel=1e-3)
    assert found["tokens"] == int((labels[:, 1:] != -100).sum())


def test_batches_and_order_do_not_matter(shipped: AnyToAny, rows: list[Row]):
    alone = perplexity.perplexity(shipped, rows, batch_size=1)
    together = perplexity.perplexity(shipped, rows[::-1], batch_size=3)
    assert together == pytest.approx(alone, rel=1e-3)
    assert alone["perplexity"] != alone["untouched"]


def test_the_losses_are_those_of_the_evaluation(shipped: AnyToAny, rows: list[Row]):
    found = perplexity.perplexity(shipped, rows, batch_size=1)
    ratio = math.log(found["perplexity"]) / math.log(found["untouched"])
    assert ratio == pytest.approx(matrix.language_loss_ratio(shipped, rows), abs=2e-3)
    assert found["ratio"] == pytest.approx(found["perplexity"] / found["untouched"])


def test_conversations_with_media_are_left_out(shipped: AnyToAny, rows: list[Row]):
    shown = {"role": "user", "content": [{"type": "image", "image": "a.png"}]}
    asked = {"role": "user", "content": [{"type": "text", "text": "Draw a bell."}]}
    answer = {"role": "assistant", "content": [{"type": "image", "caption": "a bell"}]}
    media = [
        Row("1", "s", [shown, rows[0].messages[1]]),
        Row("2", "s", [asked, answer]),
        Row("3", "s", [asked]),
    ]
    assert [is_plain(row) for row in [*media, *rows]] == [False] * 3 + [True] * 3
    with pytest.raises(ValueError, match="no conversation of text alone"):
        perplexity.perplexity(shipped, media)


def test_the_command_writes_into_the_run(toy_data: Path, tmp_path: Path):
    run = small_run(tmp_path / "run")
    perplexity.main(["--run", str(run), "--data", str(toy_data), "--split", "train"])
    record = json.loads((run / perplexity.PERPLEXITY).read_text())
    assert record["rows"] > 0 and 1 < record["perplexity"] < 1000
