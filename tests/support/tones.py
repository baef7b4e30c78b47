"""A voice and a recogniser that are always there, for what stands around them: sentences are tones, sounds hold a given text."""

from __future__ import annotations

import numpy as np

from anytoany_lib.speech.hearing import Heard
from anytoany_lib.speech.spoken_parts import Sound

RATE = 8000


def say(sentence: str) -> Sound:
    """A tenth of a second a letter."""
    return np.full(len(sentence) * RATE // 10, 0.5, np.float32), RATE


class Tones:
    """Stands where a session has its `Speech`; `text` is what it hears in every sound, "" for nobody."""

    def __init__(self, text: str = ""):
        self.text = text

    def lacks(self, what: str) -> str:
        return ""

    def check(self, what: str) -> None:
        return None

    def say(self, sentence: str, seed: int = 0) -> Sound:
        return say(sentence)

    def hear(self, sound: object) -> Heard:
        return Heard(self.text, 1.0, 0.0, 0.0)
