"""Recognisers: what is said in a stretch of sound. Whisper, as CTranslate2 has it or as transformers does.

Both read a stretch of 30 seconds at most and say, beside its words, how sure they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from anytoany_lib.config import RecogniserConfig, resolve
from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.speech.activity import RATE
from anytoany_lib.speech.hearing import Transcript

_BEAMS = 5
_WORDS = "tokenizer.json"
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # the name by the version of the tokenizer


class Recogniser(Protocol):
    def transcribe(self, samples: np.ndarray) -> Transcript:
        """Samples at 16 kHz, float32 mono (N,), 30 seconds at most -> what is said."""


class FasterWhisper:
    """Whisper in CTranslate2's format, in 8 bits on one core."""

    def __init__(self, folder: Path, language: str):
        from faster_whisper import WhisperModel

        if not (folder / _WORDS).is_file():  # the package would look for one on the hub
            raise FileNotFoundError(
                f"no recogniser in {folder} (expected model.bin, config.json, {_WORDS}): fetch it anew, or take another folder"
            )
        self._language = language
        self._model = WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
        )

    def transcribe(self, samples: np.ndarray) -> Transcript:
        """See `Recogniser`. The same samples give the same words: nothing is drawn."""
        found, _ = self._model.transcribe(
            samples,
            language=self._language,
            beam_size=_BEAMS,
            temperature=0.0,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
            condition_on_previous_text=False,
        )
        segments = list(found)
        if not segments:
            return Transcript("", 1.0, -np.inf)
        return Transcript(
            " ".join(segment.text.strip() for segment in segments),
            max(segment.no_speech_prob for segment in segments),
            min(segment.avg_logprob for segment in segments),
        )


class Whisper:
    """Whisper in transformers' format, in float32."""

    def __init__(self, folder: Path, language: str):
        self._processor = WhisperProcessor.from_pretrained(folder, **LOCAL)
        self._model = WhisperForConditionalGeneration.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **LOCAL
        ).eval()
        multilingual = getattr(self._model.generation_config, "is_multilingual", False)
        self._task = {"language": language, "task": "transcribe"} if multilingual else {}
        known = self._processor.tokenizer.get_vocab()
        self._no_speech = next((known[name] for name in _NO_SPEECH if name in known), None)

    @torch.inference_mode()
    def transcribe(self, samples: np.ndarray) -> Transcript:
        """See `Recogniser`."""
        inputs = self._processor(samples, sampling_rate=RATE, return_tensors="pt")
        drawn = self._model.generate(
            inputs.input_features,
            num_beams=_BEAMS,
            return_dict_in_generate=True,
            output_scores=True,
            **self._task,
        )
        text = self._processor.batch_decode(drawn.sequences, skip_special_tokens=True)[0].strip()
        return Transcript(
            text, self._silence(inputs.input_features), float(drawn.sequences_scores[0])
        )

    def _silence(self, features: torch.Tensor) -> float:
        """The probability that the first token is the mark for no speech; 0 for a tokenizer without that mark."""
        if self._no_speech is None:
            return 0.0
        first = torch.tensor([[self._model.config.decoder_start_token_id]])
        logits = self._model(features, decoder_input_ids=first).logits[0, -1]
        return float(logits.softmax(-1)[self._no_speech])


_READERS: dict[str, Callable[[Path, str], Recogniser]] = {
    "faster-whisper": FasterWhisper,
    "whisper": Whisper,
}


def load_recogniser(config: RecogniserConfig) -> Recogniser:
    """The recogniser of a profile. ValueError if its folder would run code, OSError if it is not whole."""
    return _READERS[config.reader](without_code(resolve(config.folder)), config.language)
