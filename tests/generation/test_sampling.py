"""Settings of replies: transformers' own names for them, kept as `generate` keeps them or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_runs import SHIPPED
from transformers import GenerationConfig

from anytoany_lib.generation import Sampling, as_sampling, reply_all
from anytoany_lib.generation.choosing import warpers
from anytoany_lib.generation.events import Done, TextDelta
from anytoany_lib.model import AnyToAny

# Of Qwen2.5, Llama 2 and Vicuna, as they are published.
QWEN = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
}
LLAMA = {"do_sample": True, "max_length": 4096, "temperature": 0.6, "top_p": 0.9, "pad_token_id": 0}
VICUNA = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "temperature": 0.9}


@pytest.fixture(scope="module")
def shipped() -> AnyToAny:
    return AnyToAny.from_pretrained(SHIPPED, dtype="float32")


def _asked(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


@torch.no_grad()
def _generated(model: AnyToAny, text: str, **settings) -> str:
    """What transformers itself draws, of words alone."""
    ids = torch.tensor([model.messages.encode(_asked(text), True).ids])
    config = GenerationConfig(
        max_new_tokens=24, do_sample=False, eos_token_id=model.messages.stop, **settings
    )
    drawn = model.causal_lm.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=config
    )
    return model.tokenizer.decode(drawn[0, ids.shape[1] :]).partition(model.messages.stop_text)[0]


def _text(reply: dict) -> str:
    return "".join(part["text"] for part in reply["content"])


def test_a_repetition_penalty_is_that_of_generate(shipped: AnyToAny):
    asked = ["Say red red red red red red.", "What is a bell?"]
    how = {"kinds": (), "max_new_tokens": 24}
    plain, penalised = Sampling(**how), Sampling(repetition_penalty=1.8, **how)
    together = reply_all(shipped, list(map(_asked, asked)), 0, penalised)
    for text, reply in zip(asked, together, strict=True):
        alone = _text(shipped.chat(_asked(text), sampling=penalised))
        assert alone == _generated(shipped, text, repetition_penalty=1.8)
        assert alone != _text(shipped.chat(_asked(text), sampling=plain))
        assert _text(reply) == alone  # each row of a batch by what it said itself


def test_temperature_top_k_and_top_p_are_those_of_generate():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 3
    found = warpers(Sampling(temperature=0.7, top_k=5, top_p=0.8))(None, logits.clone())
    scaled = logits / 0.7
    for row, kept in zip(scaled, found, strict=True):
        best = row.topk(5)
        chances = best.values.softmax(0)
        count = int((chances.cumsum(0) < 0.8).sum()) + 1
        assert sorted(kept.isfinite().nonzero()[:, 0].tolist()) == sorted(
            best.indices[:count].tolist()
        )
        assert torch.allclose(kept[best.indices[:count]], best.values[:count])
    assert not warpers(Sampling(top_k=5))


def test_a_stop_string_ends_a_reply_before_it(shipped: AnyToAny):
    how = {"kinds": (), "max_new_tokens": 24}
    whole = _text(shipped.chat(_asked("What is a bell?"), sampling=Sampling(**how)))
    stop = whole[6:10]  # in the middle of words
    assert len(whole) > 12 and len(stop) == 4
    events = list(
        shipped.stream(_asked("What is a bell?"), 0, Sampling(stop_strings=(stop, "@@"), **how))
    )
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    done = events[-1]
    assert isinstance(done, Done) and done.finish_reason == "stop"
    assert shown == _text(done.message) == whole[: whole.index(stop)]
    # What only may be its beginning is held back, and comes when it is not.
    never = Sampling(stop_strings=f"{whole[3:6]}§", **how)
    assert _text(shipped.chat(_asked("What is a bell?"), sampling=never)) == whole


def test_settings_of_generate_have_their_meaning():
    assert as_sampling({}) == Sampling()
    assert as_sampling({"max_new_tokens": 8, "do_sample": False, "temperature": 0.7}) == Sampling(
        max_new_tokens=8
    )
    drawn = as_sampling({"do_sample": True}, kinds=("image",), steps=3)
    assert drawn == Sampling(1.0, 1.0, kinds=("image",), steps=3, top_k=50)
    assert as_sampling(
        QWEN | {"use_cache": True, "num_beams": 1, "eos_token_id": [1, 2]}
    ) == Sampling(0.7, 0.8, top_k=20, repetition_penalty=1.05)
    assert as_sampling({"stop_strings": "\n\n"}).stop_strings == ("\n\n",)
    assert as_sampling({"stop_strings": ["a", "b"], "top_k": None}).stop_strings == ("a", "b")


def test_what_a_language_models_authors_recommend_is_read(tmp_path: Path, shipped: AnyToAny):
    for file, expected in (
        (QWEN, Sampling(0.7, 0.8, top_k=20, repetition_penalty=1.05)),
        (LLAMA, Sampling(0.6, 0.9, top_k=50)),
        (VICUNA, Sampling()),  # as generate has it: without do_sample its temperature is none
    ):
        (tmp_path / "generation_config.json").write_text(json.dumps(file))
        assert as_sampling(tmp_path) == expected
        assert as_sampling(GenerationConfig.from_pretrained(tmp_path)) == expected
    assert as_sampling(shipped.causal_lm.generation_config).temperature == 0
    with pytest.raises(FileNotFoundError, match="no generation_config.json in"):
        as_sampling(tmp_path / "none")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_beams": 4}, "num_beams=4 cannot be kept.*token by token"),
        ({"min_p": 0.1}, "min_p=0.1 cannot be kept"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size=3 cannot"),
        ({"num_return_sequences": 2}, "num_return_sequences=2"),
        ({"bad_words_ids": [[1]]}, "bad_words_ids"),
        ({"max_length": 50}, "counts the prompt too: write max_new_tokens"),
        ({"max_tokens": 50}, "no such setting: expected do_sample, max_new_tokens"),
        ({"seed": 3}, r"chat\(messages, seed=...\)"),
        ({"temperature": 0.7}, "temperature without do_sample: write do_sample=True"),
        ({"do_sample": True, "temperature": -1}, "temperature has to be a number from 0 up"),
        ({"do_sample": True, "top_k": 1.5}, "top_k has to be a whole number"),
        ({"repetition_penalty": 0}, "repetition_penalty has to be a number above 0"),
        ({"stop_strings": ["a", ""]}, "stop_strings have to be texts"),
        ({"max_new_tokens": 0}, "max_new_tokens has to be a whole number from 1 up"),
    ],
)
def test_what_cannot_be_kept_is_refused(settings: dict, expected: str):
    with pytest.raises(ValueError, match=expected):
        as_sampling(settings)


def test_a_saved_sampling_is_read_back():
    kept = Sampling(0.5, top_k=3, repetition_penalty=1.2, stop_strings=("a", "b"))
    assert Sampling(**json.loads(json.dumps(vars(kept)))) == kept
