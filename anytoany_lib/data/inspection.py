"""Looks whether a dataset can use a medium, and measures it: what is wrong with it is the reason of its MediaError.

Headers are asked first, so that a picture of a billion pixels or a film of three hours costs nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anytoany_lib.data.reports import Measured
from anytoany_lib.media import media_files, senses
from anytoany_lib.media.clips import video_header
from anytoany_lib.media.containers import MediaError, decoding, existing_file
from anytoany_lib.media.sounds import sound_header

MAX_SECONDS = 3600.0  # of a sound or clip: no caption tells of more
SILENCE = 1e-4  # of full scale, -80 dB: less is the noise of an empty recording


def inspect(kind: str, path: str | Path) -> Measured:
    """Opens a medium as training will, and says what it measures.

    Raises MediaError for whatever cannot be decoded, is longer than MAX_SECONDS ("too large") or makes no sound ("silent").
    """
    path = existing_file(path)
    look = {"image": _inspect_image, "audio": _inspect_sound, "video": _inspect_clip}
    if kind in senses.FORMS:
        values = senses.FORMS[kind](path)
        return Measured(kind, path.stat().st_size, min(values.shape) if kind != "imu" else 0)
    with decoding(path):
        return look[media_files.check_kind(kind)](path, path.stat().st_size)


def _inspect_image(path: Path, size: int) -> Measured:
    return Measured("image", size, short_side=min(media_files.load_image(path).size))


def _inspect_sound(path: Path, size: int) -> Measured:
    stated = _bounded(sound_header(path), path)
    samples, rate = media_files.load_audio(path)
    if np.abs(samples).max() < SILENCE:
        raise MediaError("silent", f"no sample reaches {SILENCE:g} of full scale", path)
    read = len(samples) / rate
    return Measured("audio", size, seconds=read if read < media_files.MAX_AUDIO_SECONDS else stated)


def _inspect_clip(path: Path, size: int) -> Measured:
    seconds, width, height = video_header(path)
    _bounded(seconds, path)
    # Three frames show that a clip opens and reaches its end, at a fraction of the cost.
    media_files.load_video(path, num_frames=3, short_side=64)
    return Measured("video", size, min(width, height), seconds)


def _bounded(seconds: float, path: Path) -> float:
    if seconds > MAX_SECONDS:
        raise MediaError("too large", f"{seconds:,.0f} s, over {MAX_SECONDS:,.0f} s", path)
    return seconds
