"""What tests of the chat share: replies drawn by a script, media to show, a page without a browser, a count of what is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anytoany_lib.generation import decoding
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.modalities import SAY
from anytoany_lib.model import AnyToAny

QUICK = Sampling(steps=2)
WORDS = Sampling(kinds=(), max_new_tokens=6)
INJECTION = "<img src=x onerror='window.hacked=1'>"
# Two cells of a notebook: an untrained model, which is not quantised so that it is there soon, and a script for it that goes by the words of the last message.
LOADING = """
from anytoany_lib import AnyToAny, Chat, Profile
from anytoany_lib.generation import decoding
from anytoany_lib.generation.sampling import Sampling

profile = Profile.load("tiny")
llm = profile.llm.model_copy(update={"quantization": "none"})
profile = profile.model_copy(update={"llm": llm})
model = AnyToAny.from_profile(profile).requires_grad_(False).eval()
print("loaded")
"""
SCRIPT = f"""
REPLIES = {{
    "all": ["Here is a **red bell** on the left,", "image", " this is how it rings,", "audio", " and a clip.", "video", "STOP"],
    "hack": ["The tag {INJECTION} and [a link](javascript:alert(1)) are only text.", "STOP"],
    "slow": ["Wait:", "image", "STOP"],
    "long": ["word " * 90],
    "short": ["This is an answer.", "STOP"],
}}
STEPS = {{"slow": 2000}}

def tokens(item):
    if item in model.vocabulary.signals:
        return [model.vocabulary.signals[item][0]]
    return model.messages.stop if item == "STOP" else model.messages.text_ids(item)

def chooser(*_):
    words = [p["text"] for p in chat.session.messages[-1]["content"] if p["type"] == "text"]
    name = next((name for name in REPLIES if words and name in words[-1]), "short")
    drawn = iter([token for item in REPLIES[name] for token in tokens(item)])
    return lambda logits, rows: [next(drawn)]

decoding._chooser = chooser
render = model.render
def scripted_render(kind, conditions, seeds, steps=None, *more, **others):
    words = chat.session.messages[-1]["content"][-1].get("text", "")
    return render(kind, conditions, seeds, 2000 if "slow" in words else 4, *more, **others)
model.render = scripted_render
"""


def script(monkeypatch: pytest.MonkeyPatch, model: AnyToAny) -> Callable[..., list[int]]:
    """Replaces the choice of tokens (and nothing else): each call gives the next reply. Returns the seeds asked for."""
    seeds = []

    def install(*replies: list[str]) -> list[int]:
        waiting = iter(replies)

        def chooser(model, sampling, of_rows):
            seeds.extend(of_rows)
            tokens = iter([t for item in next(waiting) for t in tokens_of(model, item)])
            return lambda logits, rows: [next(tokens)]

        monkeypatch.setattr(decoding, "_chooser", chooser)
        return seeds

    return install


def tokens_of(model: AnyToAny, item: str) -> list[int]:
    """What a script's item is drawn as: the first signal of a medium, that of speech, the end mark, or words."""
    if item in model.vocabulary.signals:
        return [model.vocabulary.signals[item][0]]
    if item == SAY:
        return [model.vocabulary.say]
    return model.messages.stop if item == "STOP" else model.messages.text_ids(item)


def count_reads(monkeypatch: pytest.MonkeyPatch, axis: int = 1) -> list[int]:
    """How many tokens the language model read in each of its passes; along axis 0, of how many conversations."""
    found, read = [], AnyToAny.hidden_states

    def noted(self, inputs, *arguments, **more):
        found.append(inputs.shape[axis])
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


class Screen:
    """Does with what the kernel tells what `static/chat.js` does: `view`, `status` and the rest are as the page has them."""

    def __init__(self, snapshot: dict[str, Any]):
        self.written, self.delivered, self.history = "", [], []
        self.__dict__.update(snapshot)

    def hear(self, told: dict[str, Any], buffers: list[bytes] | None) -> None:
        json.dumps(told)  # it goes through a socket
        self.history.append(told)
        if told["op"] == "add":
            self.bubbles.append({"role": told["role"], "pieces": []})
        elif told["op"] == "piece":
            pieces = self.bubbles[told["bubble"]]["pieces"]
            pieces[told["at"] : told["at"] + 1] = [
                told["piece"] | ({"data": bytes(buffers[0])} if buffers else {})
            ]
        elif told["op"] == "drop":
            del self.bubbles[told["from"] :]
        elif told["op"] == "set":
            self.__dict__.update(told["values"])
        elif told["op"] == "write":
            self.written = told["text"]
        elif told["op"] == "deliver":
            self.delivered.append((told["name"], told["mime"], bytes(buffers[0])))

    def do(self, what: str, *buffers: bytes, **told: Any) -> None:
        """Says to the kernel what the page says, and returns when it has been dealt with."""
        raise NotImplementedError

    def said(self, number: int) -> list[str]:
        """What a bubble shows: texts and notes as they are, media by their kinds."""
        return [piece.get("text", piece["kind"]) for piece in self.bubbles[number]["pieces"]]

    def upload(self, name: str, data: bytes, mime: str = "", chunk: int = 1000) -> None:
        at = 0
        while True:
            told = {"id": name, "name": name, "mime": mime, "at": at, "size": len(data)}
            self.do("chunk", data[at : at + chunk], **told)
            received = next(t for t in reversed(self.history) if t["op"] == "received")
            at = received["bytes"]
            if at >= len(data):
                return
