"""What tests of the chat share: replies drawn by a script, media to show, and a count of what the model reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from anytoany_lib import generation
from anytoany_lib.model import AnyToAny
from anytoany_lib.sampling import Sampling

QUICK = Sampling(steps=2)
WORDS = Sampling(kinds=(), max_new_tokens=6)


def script(monkeypatch: pytest.MonkeyPatch, model: AnyToAny) -> Callable[..., list[int]]:
    """Replaces the choice of tokens (and nothing else): each call gives the next reply. Returns the seeds asked for."""
    seeds = []

    def install(*replies: list[str]) -> list[int]:
        waiting = iter(replies)

        def chooser(model, sampling, of_rows):
            seeds.extend(of_rows)
            tokens = iter([t for item in next(waiting) for t in _tokens(model, item)])
            return lambda logits: [next(tokens)]

        monkeypatch.setattr(generation, "_chooser", chooser)
        return seeds

    return install


def _tokens(model: AnyToAny, item: str) -> list[int]:
    if item in model.vocabulary.signals:
        return [model.vocabulary.signals[item][0]]
    return model.messages.stop if item == "STOP" else model.messages.text_ids(item)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens the language model read in each of its passes."""
    found, read = [], AnyToAny.hidden_states

    def noted(self, inputs, *arguments, **more):
        found.append(inputs.shape[1])
        return read(self, inputs, *arguments, **more)

    monkeypatch.setattr(AnyToAny, "hidden_states", noted)
    return found


def picture(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (48, 32), colour)


def sound() -> tuple[np.ndarray, int]:
    return np.sin(np.arange(16_000) / 8).astype(np.float32) / 2, 16_000


def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)


def words(message: dict) -> str:
    return "".join(part.get("text", "") for part in message["content"])


def kinds(message: dict) -> list[str]:
    return [part["type"] for part in message["content"]]
