"""The log of a training: metrics.jsonl always, and the same numbers to the trackers that are asked for.

TensorBoard writes to RUN/tensorboard (`tensorboard --logdir ckpt/runs` shows all runs); trackio and wandb get a run of
project "anytoany", named as its folder. Accelerate drives them all.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from anytoany_lib.config import portable
from anytoany_lib.system.files import room_for, write_file
from anytoany_lib.system.runs import CURVES, flat

TRACKERS = ("tensorboard", "trackio", "wandb")
EVENTS = "tensorboard"
_PROJECT = "anytoany"


def tracker_names(report_to: str) -> list[str]:
    """The trackers in "tensorboard, wandb". ValueError names one that is unknown, ImportError one to install, and how."""
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
    """Opens the accelerator's trackers with the settings of a run that goes on from `step`, and closes them at the end."""
    if not accelerator.log_with:
        yield
        return
    if accelerator.is_main_process and not step:
        shutil.rmtree(run / EVENTS, ignore_errors=True)  # curves of the training before
    # A run that was killed had gone on beyond its checkpoint: TensorBoard drops what comes again.
    options: dict[str, dict[str, Any]] = {"tensorboard": {"purge_step": step + 1}}
    options |= {name: {"name": portable(run)} for name in ("trackio", "wandb")}
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(settings).items()
    }
    accelerator.init_trackers(_PROJECT, plain, options)
    try:
        yield
    finally:
        accelerator.end_training()


Recent = list[tuple[dict[str, float], int]]


class Log:
    """metrics.jsonl: one line every few steps, from the first process; trackers get the same.

    A run that goes on from `step`, `seconds` after it began, keeps its lines up to there; `recent` holds the losses and
    tokens of the steps that no line tells of yet, and is changed in place.
    """

    every = 5

    def __init__(
        self,
        run: Path,
        accelerator: Accelerator,
        on_log: Callable[[dict[str, Any]], None] | None,
        step: int,
        seconds: float,
        recent: Recent,
    ):
        self._accelerator, self._on_log = accelerator, on_log
        self._silent = not accelerator.is_main_process
        self._file, self._recent, self._since = run / CURVES, recent, seconds
        if not self._silent:
            write_file(self._file, "".join(_lines_to(self._file, step)))

    def add(
        self,
        step: int,
        losses: dict[str, float],
        rate: float,
        tokens: int,
        seconds: float,
        skipped: int | None = None,
    ) -> None:
        """Notes that `step` steps are taken, with the losses of the last one; writes a line every few.

        `skipped` of them have changed nothing (see `checkpoint.TrainingState`); None where none ever is.
        """
        if self._silent:
            return
        self._recent.append((losses, tokens))
        if step % self.every:
            return
        names = dict.fromkeys(name for losses, _ in self._recent for name in losses)
        line = {"step": step, "seconds": round(seconds, 2), "learning_rate": rate}
        for name in names:
            line[name] = float(np.mean([one[name] for one, _ in self._recent if name in one]))
        read = sum(count for _, count in self._recent)
        line["tokens_per_second"] = round(read / max(seconds - self._since, 1e-9))
        if skipped is not None:
            line["skipped_steps"] = skipped
        self._recent.clear()
        self._since = seconds
        with room_for(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        told = {name: value for name, value in line.items() if name != "step"}
        self._accelerator.log(told, step=step)
        if self._on_log:
            self._on_log(line)


def _lines_to(file: Path, step: int) -> Iterator[str]:
    """The lines of a metrics.jsonl up to a step. A killed run was ahead of its checkpoint, and may have left half a line."""
    text = file.read_text(encoding="utf-8") if step and file.is_file() else ""
    for line in text.splitlines(True):
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            yield line
