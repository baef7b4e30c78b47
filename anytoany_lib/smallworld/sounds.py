"""Sounds of the small world: notes of sampled instruments, low or high, once to three times.

The extra `small` has the synthesiser (`tinysoundfont`), which plays a SoundFont 2 file without a sound card.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anytoany_lib.smallworld.things import DRUMS, THINGS, Voice

RATE, SECONDS = 16_000, 3.0
OCTAVE = 12  # keys
_PEAK = 0.7
_SOUNDING = 0.55  # of the time from one note to the next
_BEFORE, _FADE = 0.05, 0.03  # seconds of silence before the first note, and of the end's fading
_QUIET = 1e-4


class Instruments:
    """A bank of instruments, from which notes are played. ImportError says how to get the synthesiser."""

    def __init__(self, file: Path):
        try:
            import tinysoundfont
        except ImportError as error:
            raise ImportError(
                'the small world\'s sounds are played by tinysoundfont: pip install "anytoany[small]"'
            ) from error
        self._file = file
        self._synth = tinysoundfont.Synth(samplerate=RATE)
        self._bank = self._synth.sfload(str(file))

    def notes(self, voice: Voice, key: int, count: int) -> np.ndarray:
        """So many notes of a key, SECONDS long: float32 samples at RATE, mono, peak _PEAK, faded at the end.

        ValueError if the bank has no such instrument, or it is silent.
        """
        synth, drums = self._synth, voice.bank == DRUMS
        synth.sounds_off()
        try:
            synth.program_select(0, self._bank, 0 if drums else voice.bank, voice.program, drums)
        except RuntimeError as error:
            raise ValueError(
                f"{self._file}: no instrument {voice.program} in bank {voice.bank}"
            ) from error
        each = round((SECONDS - _BEFORE) * RATE / count)
        sounding = round(_SOUNDING * each)
        parts = [np.zeros(round(SECONDS * RATE) - count * each, np.float32)]
        for _ in range(count):
            synth.noteon(0, key, 110)
            parts.append(self._played(sounding))
            synth.noteoff(0, key)
            parts.append(self._played(each - sounding))
        samples = np.concatenate(parts)
        peak = float(np.abs(samples).max())
        if peak < _QUIET:
            raise ValueError(f"{self._file}: instrument {voice.program} is silent at key {key}")
        ramp = np.linspace(0, 1, round(_FADE * RATE), dtype=np.float32)
        samples = samples * (_PEAK / peak)
        samples[-len(ramp) :] *= ramp[::-1]
        return samples

    def _played(self, count: int) -> np.ndarray:
        """The next samples, both channels mixed."""
        stereo = np.frombuffer(self._synth.generate(count), np.float32).reshape(-1, 2)
        return stereo.mean(1)


def key_of(voice: Voice, pitch: str | None) -> int:
    """The key of a voice's note: an octave below or above its middle one, or that one."""
    return voice.key + {"low": -OCTAVE, "high": OCTAVE}.get(pitch or "", 0)


def sound(instruments: Instruments, thing: str, pitch: str | None, count: int) -> np.ndarray:
    """What is heard of a thing: float32 samples (SECONDS * RATE,). ValueError if nothing is."""
    voice = THINGS[thing].voice
    if voice is None:
        raise ValueError(f"nothing is heard of the {thing}")
    return instruments.notes(voice, key_of(voice, pitch), count)
