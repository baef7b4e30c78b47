"""lm-evaluation-harness itself runs a task on disk: the likelihoods of a run's language model, with and without its adapter."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from lm_eval.api.registry import get_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from small_runs import SHIPPED

from anytoany_lib.harnesses.lm_eval import LanguageModel
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld.conversations.authors import known_answers

CHOICES = 3
TASK = """
task: toy_known
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: right
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with the task `toy_known`: questions, each with its own answer among those to others."""
    folder, known = tmp_path_factory.mktemp("tasks"), known_answers()[:24]
    answers = [answers[0] for _, answers in known]
    found = [
        {"question": question, "choices": [answers[(n + k) % len(known)] for k in range(CHOICES)]}
        | {"right": 0}
        for n, (question, _) in enumerate(known)
    ]
    file = folder / "known.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in found))
    (folder / "toy_known.yaml").write_text(TASK.replace("FILE", str(file)))
    return folder, found


def _likelihood(model: AnyToAny, text: str, answer: str, adapter: bool) -> float:
    """The sum of the log probabilities of an answer's tokens behind a text, by transformers alone."""
    before, whole = (model.tokenizer(t)["input_ids"] for t in (text, f"{text} {answer}"))
    off = nullcontext() if adapter else model.adapter.disable_adapter()
    with torch.no_grad(), off:
        chances = model.llm(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    return sum(float(chances[at - 1, whole[at]]) for at in range(len(before), len(whole)))


def test_likelihoods_are_those_of_transformers_with_and_without_the_adapter(documents):
    assert get_model("anytoany") is LanguageModel
    folder, asked = documents
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    model, scores = AnyToAny.from_pretrained(SHIPPED), {}
    for adapter in (True, False):
        found = simple_evaluate(
            "anytoany",
            {"run": str(SHIPPED), "adapter": adapter},
            ["toy_known"],
            task_manager=manager,
            batch_size=8,
            bootstrap_iters=0,
        )
        samples = found["samples"]["toy_known"]
        scores[adapter] = [[float(ll) for ll, _ in one["filtered_resps"]] for one in samples]
        assert found["results"]["toy_known"]["acc,none"] > 1 / CHOICES
        for one, of_one in zip(asked[:4], scores[adapter], strict=False):
            text = f"Question: {one['question']}\nAnswer:"
            own = [_likelihood(model, text, choice, adapter) for choice in one["choices"]]
            assert of_one == pytest.approx(own, rel=2e-2)
    assert scores[True] != scores[False]


def test_the_chat_template_is_the_profiles():
    lm = LanguageModel(str(SHIPPED), batch_size=1)
    asked = [{"role": "user", "content": "Capital of Spain?"}]
    shown = lm.tok_encode(lm.apply_chat_template(asked), add_special_tokens=False)
    assert shown == lm.messages.encode(asked, prompt=True).ids
