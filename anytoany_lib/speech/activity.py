"""Where in a sound somebody speaks: the stretches that a recogniser reads, by Silero's detector of voice activity.

The detector comes with faster-whisper. It tells voices from silence, noise and bells, in a hundredth of the sound's time.
"""

from __future__ import annotations

import numpy as np

RATE = 16_000  # Hz, of all that is recognised
WINDOW = 28.0  # seconds that are recognised at once: Whisper sees 30
_SILENCE = 1000  # milliseconds that end a stretch
_PAD = 300  # milliseconds that are kept around one


def stretches(samples: np.ndarray) -> list[np.ndarray]:
    """Samples at RATE, float32 mono (N,) -> the stretches (M,) in which somebody speaks, each of WINDOW seconds at most."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        min_silence_duration_ms=_SILENCE, speech_pad_ms=_PAD, max_speech_duration_s=WINDOW
    )
    return [samples[one["start"] : one["end"]] for one in get_speech_timestamps(samples, options)]
