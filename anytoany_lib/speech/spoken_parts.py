"""Text parts with the sound of their words beside them: what was said, or is read aloud.

{"type": "text", "text": "It is a bell.", "speech": path or (samples, rate)}
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anytoany_lib.messages import Message, Part
from anytoany_lib.modalities import SPEECH

Sound = tuple[np.ndarray, int]  # float32 mono (N,) in [-1, 1], and its rate in Hz
_PAUSE = 0.25  # seconds between sentences


def sound_part(part: Part) -> Part | None:
    """The sound beside a part's words as an audio part, captioned with them; None if there is none."""
    sound = part.get(SPEECH) if part["type"] == "text" else None
    return None if sound is None else {"type": "audio", "audio": sound, "caption": part["text"]}


def joined(sounds: Sequence[Sound]) -> Sound:
    """Sounds of one rate, one after the other with a short pause between."""
    rate = sounds[0][1]
    pause = np.zeros(int(_PAUSE * rate), np.float32)
    pieces = [piece for samples, _ in sounds for piece in (pause, samples)]
    return np.concatenate(pieces[1:]), rate


def with_sounds(message: Message, sounds: Sequence[Sound | None]) -> Message:
    """A message whose text parts have these sounds beside them, one for each of them in order."""
    waiting = iter(sounds)
    parts = []
    for part in message["content"]:
        sound = next(waiting) if part["type"] == "text" else None
        parts.append(part if sound is None else {**part, SPEECH: sound})
    return {**message, "content": parts}
