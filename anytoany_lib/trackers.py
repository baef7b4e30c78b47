"""What a training tells while it runs: metrics.jsonl always, and the same numbers to trackers that are asked for.

TensorBoard writes to RUN/tensorboard (`tensorboard --logdir ckpt/runs` shows all runs); trackio and wandb get a run of
project "anytoany", named as its folder. Accelerate drives them all.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from anytoany_lib.batches import Batch
from anytoany_lib.config import portable
from anytoany_lib.runs import CURVES, flat

TRACKERS = ("tensorboard", "trackio", "wandb")
EVENTS = "tensorboard"
_PROJECT = "anytoany"


def named(report_to: str) -> list[str]:
    """The trackers in "tensorboard, wandb"; none in "".

    ValueError names one that is unknown, ImportError one that is not installed and how to install it.
    """
    names = [name.strip() for name in report_to.split(",") if name.strip()]
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"no tracker {name!r}: report_to takes {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"report_to: {name} is not installed; pip install {name}")
    return names


@contextmanager
def reporting(
    accelerator: Accelerator, run: Path, settings: dict[str, Any], step: int
) -> Iterator[None]:
    """The accelerator's trackers, told the settings of a run that goes on from `step`, and closed at the end."""
    if not accelerator.log_with:
        yield
        return
    if accelerator.is_main_process and not step:
        shutil.rmtree(run / EVENTS, ignore_errors=True)  # curves of the training before
    # A run that was killed had gone on beyond its checkpoint: TensorBoard drops what comes again.
    how = {"tensorboard": {"purge_step": step + 1}}
    how |= {name: {"name": portable(run)} for name in ("trackio", "wandb")}
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(settings).items()
    }
    accelerator.init_trackers(_PROJECT, plain, how)
    try:
        yield
    finally:
        accelerator.end_training()


class Log:
    """metrics.jsonl: one line every few steps, from the first process; trackers get the same."""

    every = 5

    def __init__(
        self,
        run: Path,
        accelerator: Accelerator,
        append: bool,
        on_log: Callable[[dict[str, Any]], None] | None,
    ):
        self._accelerator, self._on_log = accelerator, on_log
        self._silent = not accelerator.is_main_process
        self._file = None if self._silent else (run / CURVES).open("a" if append else "w")
        self._recent: list[tuple[dict[str, float], int]] = []
        self._since = 0.0

    def add(
        self,
        step: int,
        losses: dict[str, torch.Tensor],
        rate: float,
        batch: Batch,
        seconds: float,
    ) -> None:
        """Notes one step, and writes a line every few."""
        if self._silent:
            return
        tokens = int(batch.mask.sum())
        self._recent.append(({name: loss.item() for name, loss in losses.items()}, tokens))
        if (step + 1) % self.every:
            return
        names = dict.fromkeys(name for losses, _ in self._recent for name in losses)
        line = {"step": step + 1, "seconds": round(seconds, 2), "learning_rate": rate}
        line |= {
            n: float(np.mean([losses[n] for losses, _ in self._recent if n in losses]))
            for n in names
        }
        line["tokens_per_second"] = round(
            sum(t for _, t in self._recent) / max(seconds - self._since, 1e-9)
        )
        self._recent, self._since = [], seconds
        self._tell(line)

    def _tell(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._accelerator.log(
            {name: value for name, value in line.items() if name != "step"}, step=line["step"]
        )
        if self._on_log:
            self._on_log(line)
