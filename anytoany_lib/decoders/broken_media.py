"""Media that a decoder made and that are not to be shown, and why."""

from __future__ import annotations

from typing import Any

import numpy as np

NOT_FINITE = "the output projection gave values that are not finite: the run folder is broken"
_CAME_OUT = (
    "the decoder gave values that are not finite: its weights are broken, or too large for 16 bits"
)
_REFUSED = (
    "the decoder's safety checker refused the picture: ask for another, or draw with another seed; safety_checker: false "
    "in the profile's decoder leaves it out"
)


class BrokenMedia(ValueError):
    """Some media of a batch came to nothing: `made` has the others and None in their places, `reasons` says why, or ""."""

    def __init__(self, made: list[dict[str, Any] | None], reasons: list[str]):
        super().__init__("; ".join(dict.fromkeys(filter(None, reasons))))
        self.made, self.reasons = made, reasons


def reason_of(told: bool, medium: np.ndarray, refused: bool) -> str:
    """Why a medium is broken, "" if it is not: by whether its embedding was finite, itself, and the safety checker's word."""
    if not told:
        return NOT_FINITE
    if not np.isfinite(medium).all():
        return _CAME_OUT
    return _REFUSED if refused else ""
