"""Conversations as tensors: what the model computes with them is what training and the chat compute."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from small_runs import SHIPPED

from anytoany_lib.batches import collate
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny


@pytest.fixture(scope="module")
def shipped() -> AnyToAny:
    return AnyToAny.from_pretrained(SHIPPED, dtype="float32")


def _asked(colour: str, text: str) -> list[dict]:
    shown = {"type": "image", "image": Image.new("RGB", (64, 64), colour)}
    return [{"role": "user", "content": [shown, {"type": "text", "text": text}]}]


def test_a_batch_goes_into_forward(shipped: AnyToAny):
    answer = {"role": "assistant", "content": "A red thing."}
    talks = [[*_asked("red", "What is this?"), answer], [{"role": "user", "content": "Hi"}, answer]]
    batch = shipped.processor(talks)
    rows = [shipped.messages.encode(talk) for talk in talks]
    seen = shipped.embed_media([("image", talks[0][0]["content"][0]["image"])])
    expected = collate(rows, lambda *_: seen[0], None, seen.shape[1])
    for name in ("ids", "labels", "mask", "media", "media_at"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert batch.media.shape == (1, 256) and batch.media_at.tolist() == [[0, rows[0].media[0][2]]]
    with torch.no_grad():
        losses = shipped(batch)
        alone = [shipped(shipped.processor(talk))["text"].item() for talk in talks]
    counts = [(row != -100).sum().item() for row in batch.labels]
    mean = sum(a * n for a, n in zip(alone, counts, strict=True)) / sum(counts)
    assert set(losses) == {"text"} and losses["text"].item() == pytest.approx(mean, rel=1e-4)


@torch.no_grad()
def test_a_prompt_goes_into_transformers_own_generate(shipped: AnyToAny):
    """Words alone: `generate` knows no signals."""
    talks = [_asked("red", "What colour is this?"), _asked("blue", "Which colour has the picture?")]
    batch = shipped.processor(talks, add_generation_prompt=True)
    assert batch.mask[:, -1].all() and not batch.mask[0, 0]  # padded on the left
    inputs = shipped.embed_inputs(batch.ids, batch.media, batch.media_at)
    settings = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": shipped.messages.stop}
    drawn = shipped.causal_lm.generate(inputs_embeds=inputs, attention_mask=batch.mask, **settings)
    for ids, talk in zip(drawn, talks, strict=True):
        text = shipped.tokenizer.decode(ids).partition(shipped.messages.stop_text)[0]
        reply = shipped.chat(talk, sampling=Sampling(kinds=(), max_new_tokens=16))
        assert text == reply["content"][0]["text"]


def test_what_is_no_conversation_is_said(shipped: AnyToAny):
    with pytest.raises(ValueError, match="found an empty list"):
        shipped.processor([])
    with pytest.raises(ValueError, match="needs its medium under 'image'"):
        shipped.processor([{"role": "user", "content": [{"type": "image"}]}])
