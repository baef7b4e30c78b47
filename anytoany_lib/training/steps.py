"""The steps of a training as they are read from where it stands on, in batches that the device has room for.

How many rows share a batch changes the time and the memory of a step, not what is learnt in it: the batches of a step add up.
So a step that does not fit is read again in batches half as large, and so are all that follow. So is what comes before and
after the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from tqdm.auto import tqdm

from anytoany_lib.config import StageConfig
from anytoany_lib.system.out_of_memory import is_out_of_memory
from anytoany_lib.training.checkpoint import Standing
from anytoany_lib.training.stage_data import Step

Result = TypeVar("Result")


class Reading:
    """Endless steps, as process `rank` of `world` reads them."""

    def __init__(self, standing: Standing, settings: StageConfig, rank: int = 0, world: int = 1):
        self._standing, self._settings, self._process = standing, settings, (rank, world)
        standing.together = standing.together or settings.batch_size
        self._begin()

    def _begin(self) -> None:
        standing, rows = self._standing, self._settings.rows_a_step
        where = (standing.step, *self._process)
        latents = standing.denoiser is not None
        self._steps = standing.data.steps(rows, standing.together, *where, latents=latents)

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        return next(self._steps)

    def smaller(self, found: str) -> None:
        """Begins the step that did not fit anew, with half as many rows in a batch.

        OutOfMemoryError, which says what to do, if a row alone does not fit, or if other processes are in the same step.
        """
        _fewer(self._standing, found, *self._process)
        self._begin()


def with_room(standing: Standing, settings: StageConfig, work: Callable[[int], Result]) -> Result:
    """`work(rows at once)` of one process alone, begun anew with half as many rows whenever the device has no room for them.

    OutOfMemoryError, which says what to do, if a row alone does not fit.
    """
    standing.together = standing.together or settings.batch_size
    while True:
        try:
            return work(standing.together)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found = str(error)
        _fewer(standing, found, 0, 1)


def _fewer(standing: Standing, found: str, rank: int, world: int) -> None:
    """Halves how many rows are computed at once."""
    if standing.together == 1 or world > 1:
        much = "a single row" if standing.together == 1 else f"{standing.together} rows at once"
        raise torch.OutOfMemoryError(
            f"{standing.model.device} of process {rank} of {world} has no room for {much} in step {standing.step}: in the "
            "profile's stage set checkpointing: true, lower batch_size and raise accumulation as much, or lower "
            f"llm.context ({found})"
        )
    standing.together = -(-standing.together // 2)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    tqdm.write(
        f"step {standing.step} did not fit the memory: from here on {standing.together} rows at once, and as many batches "
        "a step as that takes"
    )
