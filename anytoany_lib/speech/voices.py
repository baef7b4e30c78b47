"""Voices: a sentence becomes sound. An ONNX graph with a phonemiser of its own (hibari), or transformers' VITS.

Both run on the CPU. The same sentence and seed give the same sound.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import VitsModel, VitsTokenizer

from anytoany_lib.config import VoiceConfig, resolve
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.speech.spoken_parts import Sound

GRAPH = "hibari.onnx"


class Voice(Protocol):
    def say(self, sentence: str, seed: int) -> Sound:
        """A sentence, plain text -> its sound; no samples if there is nothing in it that can be said."""


class Hibari:
    """The small English voice of the wheel hibari-tts: 24 kHz, seconds of speech in a fraction of one on one core.

    The graph is the one that was fetched, by its checksum; the package turns words into phonemes and spectra into sound.
    """

    def __init__(self, folder: Path, speed: float):
        from hibari import Hibari as Package

        self._speed = speed
        self._voice = Package(model=str(folder / GRAPH), threads=1)

    def say(self, sentence: str, seed: int) -> Sound:
        """See `Voice`."""
        samples = self._voice(sentence, speed=self._speed, seed=seed)
        return samples.clip(-1, 1), self._voice.sample_rate


class Vits:
    """A VITS checkpoint of transformers: characters in, waveform out."""

    def __init__(self, folder: Path, speed: float):
        self._tokenizer = VitsTokenizer.from_pretrained(folder, **LOCAL)
        if self._tokenizer.phonemize or self._tokenizer.is_uroman:
            raise ValueError(
                f"{folder}: expected a voice that reads plain letters, found one that reads phonemes or romanised text, which "
                "takes programs beside it; choose another, such as facebook/mms-tts-eng"
            )
        self._model = VitsModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **LOCAL
        ).eval()
        self._model.speaking_rate = speed
        self._letters = self._tokenizer.get_vocab()

    @torch.inference_mode()
    def say(self, sentence: str, seed: int) -> Sound:
        """See `Voice`. Seeds torch's generator of this thread's process while it draws, and puts that back."""
        words, rate = _in_letters(sentence), self._model.config.sampling_rate
        if not any(letter.isalnum() and letter in self._letters for letter in words.lower()):
            return np.zeros(0, np.float32), rate
        inputs = self._tokenizer(words, return_tensors="pt")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            waveform = self._model(**inputs).waveform[0]
        return waveform.numpy().clip(-1, 1), rate


def _in_letters(text: str) -> str:
    """Whole numbers as English words: a voice of letters leaves digits out without a sound."""
    from hibari.g2p.numbers import cardinal

    worded = re.sub(r"\d{1,15}", lambda digits: f" {cardinal(int(digits[0]))} ", text)
    return " ".join(worded.split())


_READERS: dict[str, Callable[[Path, float], Voice]] = {"hibari": Hibari, "vits": Vits}


def load_voice(config: VoiceConfig) -> Voice:
    """The voice of a profile. ValueError if its folder would run code, OSError if it is not whole."""
    return _READERS[config.reader](without_code(resolve(config.folder)), config.speed)
