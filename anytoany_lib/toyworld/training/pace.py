"""How far a training has come, by steps (the same seed then gives the same weights) or by the clock."""

from __future__ import annotations

import math
import time


class Pace:
    """Counts steps to a limit of steps or of minutes, whichever is given; exactly one has to be."""

    def __init__(self, steps: int | None = None, minutes: float | None = None):
        if (steps is None) == (minutes is None):
            raise ValueError(f"give steps or minutes, not both or none: {steps=}, {minutes=}")
        self.steps, self.minutes = steps, minutes
        self.taken = 0
        self._started: float | None = None

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1; the clock starts with the first look at it."""
        if self._started is None:
            self._started = time.monotonic()
        if self.minutes is None:
            return min(1.0, self.taken / max(1, self.steps or 0))
        return min(1.0, (time.monotonic() - self._started) / (60 * self.minutes))

    def facts(self) -> dict[str, float]:
        """Steps taken and minutes passed, for a model's card."""
        passed = 0.0 if self._started is None else (time.monotonic() - self._started) / 60
        return {"steps": self.taken, "minutes": round(passed, 1)}

    def cosine(self, peak: float, warmup: float = 0.02, last: float = 0.02) -> float:
        """Learning rate now: a linear rise to `peak`, then half a cosine down to `last` of it."""
        done = self.progress
        if done < warmup:
            return peak * max(done / warmup, 0.02)
        fall = 0.5 + 0.5 * math.cos(math.pi * (done - warmup) / (1 - warmup))
        return peak * (last + (1 - last) * fall)
