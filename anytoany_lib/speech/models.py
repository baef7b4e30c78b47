"""The voice and the recogniser of a profile: loaded when something is first said or heard, and what to do where they are not there."""

from __future__ import annotations

import threading
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from anytoany_lib.cli import install_line
from anytoany_lib.config import SpeechConfig, resolve
from anytoany_lib.gates.sources import how_to_get
from anytoany_lib.media import media_files
from anytoany_lib.speech.activity import RATE
from anytoany_lib.speech.hearing import Heard, hear
from anytoany_lib.speech.spoken_parts import Sound

if TYPE_CHECKING:  # what reads them takes a second to import
    from anytoany_lib.speech.recognisers import Recogniser
    from anytoany_lib.speech.voices import Voice

EXTRA = "speech"
_PACKAGES = ("faster_whisper", "hibari")


class SpeechMissing(RuntimeError):
    """Speech was asked for, and its packages or models are not there; the message says how to get them."""


class Speech:
    """A voice and a recogniser, which all conversations of a process share: one thing at a time is said or heard."""

    def __init__(self, config: SpeechConfig):
        self._config = config
        self._lock = threading.Lock()

    @cached_property
    def _voice(self) -> Voice:
        from anytoany_lib.speech.voices import load_voice

        return load_voice(self._config.voice)

    @cached_property
    def _recogniser(self) -> Recogniser:
        from anytoany_lib.speech.recognisers import load_recogniser

        return load_recogniser(self._config.recogniser)

    def lacks(self, what: str) -> str:
        """Why the "voice" or the "recogniser" cannot be had, and what to do; "" if it can."""
        if absent := [name for name in _PACKAGES if find_spec(name) is None]:
            return (
                f"speech needs the extra {EXTRA!r}, of which {absent[0]} is not installed: {install_line(EXTRA)} "
                f'(pip install "anytoany[{EXTRA}]")'
            )
        folder = getattr(self._config, what).folder
        if not resolve(folder).is_dir():
            return f"the {what} is not in {folder}: {how_to_get(what, folder)}"
        return ""

    def check(self, what: str) -> None:
        """SpeechMissing unless the "voice" or the "recogniser" is there."""
        if reason := self.lacks(what):
            raise SpeechMissing(reason)

    def say(self, sentence: str, seed: int = 0) -> Sound:
        """A sentence, plain text -> its sound; no samples if nothing in it can be said. SpeechMissing, ValueError, OSError."""
        with self._lock:
            self.check("voice")
            return self._voice.say(sentence, seed)

    def hear(self, sound: Any) -> Heard:
        """A sound, a path or (samples, rate) -> what is said in it, if anything is. MediaError, SpeechMissing, ValueError, OSError."""
        samples, _ = media_files.as_audio(sound, RATE)
        with self._lock:
            self.check("recogniser")
            return hear(samples, lambda stretch: self._recogniser.transcribe(stretch))


@lru_cache(maxsize=4)
def speech_of(config: SpeechConfig) -> Speech:
    """The voice and recogniser that a profile's settings name, the same ones for all who ask."""
    return Speech(config)
