"""How a reply is drawn: which tokens may be chosen, and how long and how careful its media are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf
from numbers import Integral, Real
from typing import Any

from anytoany_lib.modalities import MEDIA_KINDS

_RULES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "temperature": (Real, lambda value: 0 <= value < inf, "a number from 0 up"),
    "top_p": (Real, lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "max_new_tokens": (Integral, lambda value: value >= 1, "a whole number from 1 up"),
    "guidance": (Real, lambda value: 1 <= value < inf, "a number from 1 (no guidance) up"),
    "steps": (Integral, lambda value: value >= 1, "a whole number from 1 up"),
    "frames": (Integral, lambda value: value >= 2, "a whole number from 2 up"),
    "seconds": (Real, lambda value: 0 < value < inf, "a number above 0"),
    "strength": (Real, lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "preview_every": (Integral, lambda value: value >= 0, "a whole number from 0 up"),
}
_DIFFUSION = ("steps", "guidance", "frames", "seconds", "preview_every", "enlarge")


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. Temperature 0 takes the likeliest token; `kinds` are the media it may contain.

    `frames` is the length of clips, `seconds` that of sounds; where a value is None the profile's holds. With `strength` a
    picture begins with the newest one of the conversation, of which that much may change (see `edits`). A picture shows a
    preview after every `preview_every` diffusion steps (0: never). With `enlarge`, pictures and clips have a larger copy beside
    them, "enlarged" in their parts, where the profile says `upscale`. ValueError names the value that cannot be used.
    """

    temperature: float = 0.0
    top_p: float = 0.95
    max_new_tokens: int | None = None
    kinds: tuple[str, ...] = MEDIA_KINDS
    guidance: float | None = None
    steps: int | None = None
    frames: int | None = None
    seconds: float | None = None
    strength: float | None = None
    preview_every: int = 0
    enlarge: bool = False

    def __post_init__(self):
        object.__setattr__(self, "kinds", tuple(self.kinds))  # JSON has lists
        unknown = [kind for kind in self.kinds if kind not in MEDIA_KINDS]
        if unknown:
            raise ValueError(
                f"kinds have to be among {', '.join(MEDIA_KINDS)}, found {unknown[0]!r}"
            )
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in _RULES and not (value is None and one.default is None):
                number, fits, expected = _RULES[one.name]
                if not isinstance(value, number) or not fits(value):
                    raise ValueError(f"{one.name} has to be {expected}, found {value!r}")

    def diffusion(self) -> dict[str, Any]:
        """How its media are made: settings of `Decoder.generate`, by their names."""
        return {name: getattr(self, name) for name in _DIFFUSION}
