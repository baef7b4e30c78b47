"""How conversations about the toy world are put together: turns of texts and scenes, worded by the split's phrasings.

A `Talk` grows turn by turn and knows what its last reply should show; a `Maker` draws the scenes and the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.pictures import COLOURS, MOTIONS
from anytoany_lib.toyworld.scenes import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, Scene, pick, random_scene

# First words of requests that are no orders, so that "Can you ...?" and the like do not go around them.
_QUESTIONS = {"what", "how"}
_STATEMENTS = {"I", "a", "again", "an", "and", "now", "once", "the"}
_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")


@cache
def phrases() -> dict[str, Any]:
    """The wordings of `phrases.yaml`."""
    return yaml.safe_load((Path(__file__).parent / "phrases.yaml").read_text(encoding="utf-8"))


@dataclass
class Talk:
    """A conversation in the making, and what its last reply should show."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    expect: list[dict[str, Any]] = field(default_factory=list)

    def user(self, *content: str | tuple[str, Scene]) -> Talk:
        """A user turn of texts and (kind, scene) media, in order."""
        parts = [
            {"type": "text", "text": item}
            if isinstance(item, str)
            else {"type": item[0], item[0]: item[1]}
            for item in content
        ]
        self.messages.append({"role": "user", "content": parts})
        return self

    def answer(self, text: str, **asked: Any) -> Talk:
        """A reply in words; `asked` are the attributes it has to name."""
        self.expect = [{"kind": "text", "scene": asked}]
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        return self

    def produce(self, *media: tuple[str, Scene]) -> Talk:
        """A reply that names and gives one medium after the other."""
        parts: list[dict[str, Any]] = []
        self.expect = []
        for number, (kind, scene) in enumerate(media):
            told = caption(kind, scene)
            parts.append({"type": "text", "text": f"{'And here' if number else 'Here'} is {told}."})
            parts.append({"type": kind, "caption": told})
            self.expect.append({"kind": kind, "scene": scene.asked(), "caption": told})
        self.messages.append({"role": "assistant", "content": parts})
        return self


class Maker:
    """Draws scenes and wordings for one split ("train", "validation" or "test"), unseen pairs if asked."""

    def __init__(self, rng: np.random.Generator, split: str, unseen: bool = False):
        self.rng, self.split, self.unseen = rng, split, unseen

    def pick(self, options: Iterable[Any]) -> Any:
        """One of the options, all of them alike."""
        return pick(self.rng, options)

    def scene(self, kind: str) -> Scene:
        """A scene fit to be shown as `kind`."""
        return random_scene(kind, self.rng, held_out=self.unseen and kind != "audio")

    def said(self, name: str, *sentence: str, **words: str | None) -> str:
        """One of the split's phrasings as it stands, with its blanks filled.

        The more alternatives a wording has, the more often it is drawn.
        """
        wordings = phrases()[name]["test" if self.split == "test" else "train"]
        wording = self.pick(w for w in wordings for _ in range(1 + w.count("[")))
        chosen = _ALTERNATIVES.sub(lambda found: self.pick(found[1].split("|")), wording)
        return chosen.format(*sentence, **words)

    def asked(self, name: str, **words: str | None) -> str:
        """One of the split's phrasings as a whole sentence; orders are plain or polite."""
        request = self.said(name, **words)
        first = request.split()[0]
        if first in _QUESTIONS:
            sentence = f"{request}?"
        elif first in _STATEMENTS:
            sentence = f"{request}."
        else:
            sentence = self.said("polite", request)
        return sentence[0].upper() + sentence[1:]

    def colour_for(self, thing: str, other_than: str | None = None) -> str:
        """A colour for a thing, held out or not as this maker's scenes are."""
        fit = [
            c for c in COLOURS if ((thing, c) in HELD_OUT_PAIRS) == self.unseen and c != other_than
        ]
        return self.pick(fit or [c for c in COLOURS if c != other_than])

    def motion_for(self, thing: str, other_than: str | None = None) -> str:
        """A motion that was not held out for this thing."""
        return self.pick(
            m for m in MOTIONS if (thing, m) not in HELD_OUT_MOTIONS and m != other_than
        )
