"""The training loop, and how far a training has come: by steps (the same seed then gives the same weights) or by the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

LOG_EVERY = 200  # steps


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


def shuffled_batches(
    count: int, size: int, generator: torch.Generator, drop_last: bool = False
) -> Iterator[Tensor]:
    """Row numbers (size,) of shuffled batches, for ever; `drop_last` leaves out a pass's last one where it is smaller."""
    end = count - count % size if drop_last else count
    while True:
        yield from torch.randperm(count, generator=generator)[:end].split(size)


class Optimiser(Protocol):
    """What the loop needs of an optimiser; each of its groups has its highest learning rate under "peak"."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self) -> None:
        """Forgets all gradients."""

    def step(self) -> Any:
        """Updates all weights."""


def minimise(
    next_loss: Callable[[], Tensor],
    optimiser: Optimiser,
    pace: Pace,
    title: str,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """The loop of every training with a pace: a loss, its gradients, a step of the optimiser.

    `next_loss` draws a batch and gives its loss. Each group's learning rate follows the pace below its "peak". The loss,
    averaged over about the last hundred steps, is shown in the progress bar and logged now and then.
    """
    average = 0.0
    with tqdm(
        total=100,
        desc=title,
        unit="%",
        mininterval=5,
        bar_format="{l_bar}{bar}| {elapsed} {postfix}",
    ) as bar:
        while pace.progress < 1:
            for group in optimiser.param_groups:
                group["lr"] = pace.cosine(group["peak"])
            loss = next_loss()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            average += max(0.01, 1 / (pace.taken + 1)) * (loss.item() - average)
            if pace.taken % LOG_EVERY == 0:
                tqdm.write(f"{title} step {pace.taken} loss {average:.4f}")
            pace.taken += 1
            after_step()
            bar.set_postfix(step=pace.taken, loss=f"{average:.3f}", refresh=False)
            bar.update(int(100 * pace.progress) - bar.n)
