"""Whether somebody speaks in a sound, and what is said: a detector of voices first, then the recogniser's own doubts.

The thresholds were measured on the toy world's sounds, which no word may be heard in, and on speech (docs/speech.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytoany_lib.messages import Part
from anytoany_lib.modalities import SPEECH
from anytoany_lib.speech.activity import RATE, stretches

NO_SPEECH = 0.6  # above this Whisper says that nobody speaks
LOG_PROBABILITY = -1.0  # below this it does not believe its own words


@dataclass(frozen=True)
class Transcript:
    """A stretch of speech in words, and how sure the recogniser is.

    `no_speech` is the probability of Whisper's own mark for "nobody speaks" as the first token, `log_probability` the mean
    of its tokens' logarithms.
    """

    text: str
    no_speech: float
    log_probability: float


@dataclass(frozen=True)
class Heard:
    """What is said in a sound: `text` is "" if nobody speaks in it. `seconds` are those in which a voice was found."""

    text: str
    seconds: float
    no_speech: float
    log_probability: float

    @property
    def is_speech(self) -> bool:
        """Whether the sound is to be read as words rather than listened to."""
        return bool(self.text)


def hear(samples: np.ndarray, transcribe: Callable[[np.ndarray], Transcript]) -> Heard:
    """Samples at 16 kHz, float32 mono (N,) -> what is said in them; nothing is recognised where no voice is found."""
    found = stretches(samples)
    seconds = sum(map(len, found)) / RATE
    transcripts = [transcribe(stretch) for stretch in found]
    if not transcripts:
        return Heard("", 0.0, 1.0, -np.inf)
    words = [one.text for one in transcripts if _believed(one)]
    return Heard(
        " ".join(words),
        seconds,
        min(one.no_speech for one in transcripts),
        max(one.log_probability for one in transcripts),
    )


def _believed(one: Transcript) -> bool:
    """Whether a transcript has a word, and the recogniser stands by it."""
    said = any(character.isalnum() for character in one.text)
    return said and one.no_speech <= NO_SPEECH and one.log_probability >= LOG_PROBABILITY


def heard_parts(parts: list[Part], hear: Callable[[Any], Heard]) -> list[Part]:
    """A user's parts, with words in the place of sounds in which somebody speaks; the sound stays beside its words."""
    return [_heard_part(part, hear) if part["type"] == "audio" else part for part in parts]


def _heard_part(part: Part, hear: Callable[[Any], Heard]) -> Part:
    heard = hear(part["audio"])
    if not heard.is_speech:
        return part
    return {"type": "text", "text": heard.text, SPEECH: part["audio"]}
