"""Synthesises the sounds of the toy world: 2 s of mono float32 at 16 kHz, peak -3 dBFS, faded at both ends.

Six things call out (bell, bird, drum, car, phone, cat): once, twice or three times, high or low. The other six make
a sound that goes on (rain, heartbeat, ticking, buzzing, chugging, a fog horn). Each has a spectrum of its own.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

RATE = 16_000
SECONDS = 2.0
COUNTED = ("bell", "bird", "drum", "car", "phone", "cat")
PITCHES = {"low": 0.72, "high": 1.4}
_PEAK = 10 ** (-3 / 20)
_CALL_SECONDS = 0.6


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE)) / RATE


def _sweep(frequency: np.ndarray) -> np.ndarray:
    """A sine whose frequency (Hz) is given at every sample."""
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE)


def _band(noise: np.ndarray, low: float, high: float) -> np.ndarray:
    return sosfilt(butter(2, (low, high), "bandpass", fs=RATE, output="sos"), noise)


def _envelope(t: np.ndarray, attack: float, length: float, release: float) -> np.ndarray:
    """Rises over `attack`, stays until `length`, falls over `release` seconds (raised cosines)."""
    rise = np.clip(t / attack, 0, 1)
    fall = np.clip((length + release - t) / release, 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 - 0.5 * np.cos(np.pi * fall))


def _bell(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    partials = (
        (0.5, 0.5, 3),
        (1, 1, 5),
        (1.19, 0.6, 6),
        (1.5, 0.4, 7),
        (2, 0.7, 8),
        (2.74, 0.4, 11),
    )
    tone = sum(a * np.exp(-d * t) * np.sin(2 * np.pi * 760 * pitch * f * t) for f, a, d in partials)
    return tone * _envelope(t, 0.003, 0.5, 0.1)


def _bird(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    call = np.zeros_like(t)
    for start in (0.0, 0.16):
        at = np.clip((t - start) / 0.13, 0, 1)
        chirp = _sweep(pitch * (2300 + 1500 * np.sin(np.pi * at)))
        call += chirp * np.sin(np.pi * at) ** 2
    return call


def _drum(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    thump = _sweep(pitch * (95 + 130 * np.exp(-28 * t))) * np.exp(-9 * t)
    slap = _band(rng.standard_normal(t.size), 250, 1200) * np.exp(-45 * t)
    return (thump + 0.5 * slap) * _envelope(t, 0.004, 0.45, 0.12)


def _car(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    horn = sum(
        np.sin(2 * np.pi * f * pitch * k * t) / k**0.7 for f in (370, 466) for k in range(1, 8)
    )
    return horn * _envelope(t, 0.015, 0.36, 0.05)


def _phone(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    clapper = 0.5 + 0.5 * np.sin(2 * np.pi * 22 * t)
    bells = np.sin(2 * np.pi * 1250 * pitch * t) + 0.8 * np.sin(2 * np.pi * 1610 * pitch * t)
    return bells * clapper**2 * _envelope(t, 0.01, 0.42, 0.08)


def _cat(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    at = np.clip(t / 0.55, 0, 1)
    f0 = 430 * pitch * (0.85 + 0.45 * np.sin(np.pi * at**0.8))
    formant = 900 + 900 * np.sin(np.pi * at)
    voice = np.zeros_like(t)
    for k in range(1, 12):
        gain = np.exp(-(((k * f0 - formant) / 520) ** 2)) + 0.15 / k
        gain *= k * f0 < 7000  # nothing near half the sampling rate, where it would fold back
        voice += gain * _sweep(k * f0)
    return voice * _envelope(t, 0.08, 0.35, 0.17)


def _rain(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hiss = _band(rng.standard_normal(t.size), 1500, 6500)
    drops = np.zeros_like(t)
    for _ in range(45):
        start = rng.integers(0, t.size - 400)
        tail = t[:400]
        drop = np.sin(2 * np.pi * rng.uniform(1800, 4200) * tail) * np.exp(-220 * tail)
        drops[start : start + 400] += rng.uniform(0.5, 2.0) * drop
    return 0.55 * hiss + drops


def _heartbeat(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    beat = np.zeros_like(t)
    period = rng.uniform(0.72, 0.85)
    for start in np.arange(0.05, SECONDS - 0.1, period):
        for delay, pitch, gain in ((0.0, 62, 1.0), (0.24, 82, 0.7)):
            at = t - start - delay
            body = np.sin(2 * np.pi * pitch * at) + 0.5 * np.sin(2 * np.pi * 2 * pitch * at)
            beat += gain * body * np.where(at > 0, _envelope(at, 0.02, 0.04, 0.11), 0)
    return beat


def _ticking(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ticks = np.zeros_like(t)
    case = rng.uniform(0.97, 1.03)
    for n, start in enumerate(np.arange(rng.uniform(0.02, 0.1), SECONDS - 0.08, 0.25)):
        at = np.clip(t - start, 0, None)
        tone = np.sin(2 * np.pi * case * (2600, 1900)[n % 2] * at)
        tone += 0.6 * np.sin(2 * np.pi * case * 5200 * at)
        ticks += tone * np.exp(-130 * at) * np.clip(at / 0.001, 0, 1) * (at > 0)
    return ticks


def _buzz(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    f0 = 205 * (1 + 0.04 * np.sin(2 * np.pi * rng.uniform(4, 7) * t))
    wings = sum(_sweep(k * f0) / k**0.6 for k in range(1, 13))
    return wings * (0.8 + 0.2 * np.sin(2 * np.pi * 2.2 * t))


def _chugging(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    steam = _band(rng.standard_normal(t.size), 350, 1700)
    stroke = (t * rng.uniform(4.6, 5.4)) % 1.0
    chug = steam * np.exp(-5 * stroke) * np.clip(stroke / 0.06, 0, 1)
    whistle = sum(np.sin(2 * np.pi * f * t) for f in (587, 740, 880))
    return 1.6 * chug + 0.3 * whistle * _envelope(t - 0.1, 0.08, 0.5, 0.2) * (t > 0.1)


def _fog_horn(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pipe = 98 * rng.uniform(0.97, 1.03)
    horn = sum(np.sin(2 * np.pi * pipe * k * t + k) / k for k in range(1, 9))
    return horn * _envelope(t - 0.08, 0.15, 1.45, 0.3) * (t > 0.08)


_CALLS = {"bell": _bell, "bird": _bird, "drum": _drum, "car": _car, "phone": _phone, "cat": _cat}
_LASTING = {
    "cloud": _rain,
    "heart": _heartbeat,
    "clock": _ticking,
    "bee": _buzz,
    "train": _chugging,
    "boat": _fog_horn,
}


def _calls(thing: str, count: int, pitch: str, rng: np.random.Generator) -> np.ndarray:
    """`count` calls one after the other, each at the same height but for a little unsteadiness."""
    samples = np.zeros(round(SECONDS * RATE))
    call_time = _time(_CALL_SECONDS)
    height = PITCHES[pitch] * rng.uniform(0.95, 1.05)
    start = rng.uniform(0.04, 0.1)
    for _ in range(count):
        call = _CALLS[thing](call_time, height * rng.uniform(0.99, 1.01), rng)
        first = round(start * RATE)
        samples[first : first + call.size] += call[: samples.size - first]
        start += _CALL_SECONDS + rng.uniform(0.0, 0.04)
    return samples


def samples_of(thing: str, count: int, pitch: str, rng: np.random.Generator) -> np.ndarray:
    """The sound of a thing as float32 (32000,), peak -3 dBFS; count and pitch matter where the thing calls out."""
    if thing in _CALLS:
        samples = _calls(thing, count, pitch, rng)
    elif thing in _LASTING:
        samples = _LASTING[thing](_time(SECONDS), rng)
    else:
        known = ", ".join((*_CALLS, *_LASTING))
        raise ValueError(f"no thing called {thing!r}; the toy world has {known}")
    # No constant offset, which would click at the ends.
    samples = lfilter([1, -1], [1, -0.995], samples)
    fade = np.minimum(1, np.minimum(_time(SECONDS), SECONDS - _time(SECONDS)) / 0.02)
    samples = samples * fade
    return (samples * (_PEAK / np.abs(samples).max())).astype(np.float32)
