"""Where a training stands, and checkpoints of it: all that it needs to go on as if nothing had happened.

RUN/checkpoint/000300/ stands before step 300: the weights as in a run folder, and state.pt with the optimiser, the schedule,
the loss scaler and the settings that it belongs to. A new one appears whole beside the older ones, and is on the disk itself
before one of them goes: whenever a run is killed, the newest is good, and the one before it is there too. Random numbers need
no place: every step draws from a seed of its own. Nor does a step that is half accumulated: a checkpoint stands between two
steps.
"""

import os
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from anytoany_lib.config import Profile
from anytoany_lib.decoders.denoising import Denoiser
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_whole, settle
from anytoany_lib.system.out_of_memory import is_out_of_memory
from anytoany_lib.system.peak_memory import Phases
from anytoany_lib.training.fsdp import is_first, whole_state, whole_weights
from anytoany_lib.training.stage_data import StageData
from anytoany_lib.training.trackers import Recent

CHECKPOINT = "checkpoint"
_STATE = "state.pt"
_BELONGS_TO = ("stage", "steps", "seed", "init")
_BYTES_A_PARAMETER = 3 * 4  # its value and the two averages of Adam
_KEPT = 2  # the newest, and the one before it
_SPARE_BYTES = 200 * 2**20
Result = TypeVar("Result")


def newest(run: Path) -> Path | None:
    """The newest checkpoint of a run, None if it has none."""
    whole = [file.parent for file in (run / CHECKPOINT).glob(f"*/{_STATE}")]
    return max((folder for folder in whole if folder.name.isdigit()), default=None)


def place(run: Path, step: int) -> Path:
    """Where the checkpoint of a run before a step lies."""
    return run / CHECKPOINT / f"{step:06d}"


def discard(run: Path) -> None:
    """Takes the checkpoints of a run away, all at once as seen from outside."""
    gone = run / f".{CHECKPOINT}.old"
    shutil.rmtree(gone, ignore_errors=True)
    if (run / CHECKPOINT).exists():
        (run / CHECKPOINT).replace(gone)
        shutil.rmtree(gone, ignore_errors=True)


def check_room(run: Path, parameters: int) -> None:
    """OSError unless the disk has room for three checkpoints of so many trained parameters, and the weights at the end."""
    needed = _SPARE_BYTES + ((_KEPT + 1) * _BYTES_A_PARAMETER + 4) * parameters
    free = shutil.disk_usage(run).free
    if free < needed:
        raise OSError(
            f"{run}: {free >> 20} MiB of disk are free, a run needs {-(-needed >> 20)}: make room, or name a run folder "
            "on another disk"
        )


@dataclass
class TrainingState:
    """Where a training stands: all that a checkpoint holds, and when it (as good as) began.

    `denoiser` computes the stage's denoising terms, None if it has none; `record` is what run.json says of the training.
    `rows_at_once` share a batch at most, `step` steps are taken. Of these `empty` had nothing to learn, and `skipped` had
    gradients that overflowed under the scaler. `recent` is what the log has not told yet, `first` the first loss of each name,
    `fitted` what came of the fits.
    """

    model: AnyToAny
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    data: StageData
    denoiser: Denoiser | None
    record: dict[str, Any]
    rows_at_once: int
    phases: Phases = field(default_factory=Phases)
    step: int = 0
    empty: int = 0
    skipped: int = 0
    recent: Recent = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)
    fitted: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the training began, without the time that it lay still."""
        return time.perf_counter() - self.started

    def seed_step(self, rank: int) -> None:
        """Seeds what is drawn in the next step, which depends on nothing that came before."""
        entropy = [self.record["seed"], self.record["stage"], self.step, rank]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def with_room(self, work: Callable[[int], Result], rank: int = 0, world: int = 1) -> Result:
        """`work(rows at once)`, begun anew with half as many rows whenever the device has no room for them; so is all that
        follows, here and after a resume.

        OutOfMemoryError, which says what to do, if a row alone does not fit, or if other processes are in the same step.
        """
        while True:
            try:
                return work(self.rows_at_once)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            # Outside the handler, where nothing refers any more to the tensors of the pass that failed.
            self._halve_rows(reason, rank, world)

    def _halve_rows(self, reason: str, rank: int, world: int) -> None:
        rows = self.rows_at_once
        if rows == 1 or world > 1:
            raise torch.OutOfMemoryError(
                f"{self.model.device} of process {rank} of {world} has no room for "
                f"{'a single row' if rows == 1 else f'{rows} rows at once'} in step {self.step}: in the profile's stage set "
                "checkpointing: true, lower batch_size and raise accumulation as much, or lower "
                f"llm.context ({reason})"
            )
        self.rows_at_once = -(-rows // 2)
        torch.cuda.empty_cache()  # of no effect where there is no card
        tqdm.write(
            f"step {self.step} did not fit the memory: from here on {self.rows_at_once} rows at once, and as many batches "
            "a step as that takes"
        )

    def save(self, run: Path) -> None:
        """Writes the checkpoint of a run, and then removes those before the last two.

        Under FSDP all processes call it, each with its parts, and the first one writes. OSError (no room) says where the last
        good one is, which stays.
        """
        folder = place(run, self.step)
        if newest(run) == folder:
            return
        with whole_weights(self.model):
            state = self._state()
            if is_first():
                self._write(folder, state)

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        try:
            with appearing_whole(folder) as work:
                runs.write_tensors(work, self.model.bridges(), self.model.adapter)
                torch.save(state, work / _STATE)
                settle(work)  # before it has its name: what has one is whole, whatever happens
            settle(folder)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise OSError(
                error.errno,
                f"step {self.step}: the checkpoint cannot be written: {why}; the last good one is "
                f"{newest(folder.parents[1])}. Make room and go on with --resume",
            ) from error
        # The one before stays: should this one turn out to be damaged, there is one to go on from.
        for other in sorted(folder.parent.glob("[0-9]*"))[:-_KEPT]:
            shutil.rmtree(other, ignore_errors=True)

    def _state(self) -> dict[str, Any]:
        return {
            "optimiser": whole_state(self.optimiser),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "record": self.record,
            "peaks": self.phases.peaks,
            "step": self.step,
            "empty": self.empty,
            "skipped": self.skipped,
            "together": self.rows_at_once,
            "recent": self.recent,
            "first": self.first,
            "fitted": self.fitted,
            "cut": sorted(self.data.cut),
            "left out": sorted(self.data.left_out),
            "seconds": self.seconds,
        }

    def load(self, run: Path) -> None:
        """Takes over the newest checkpoint of a run. ValueError if it belongs to other settings or another dataset."""
        folder = newest(run)
        if folder is None:
            raise FileNotFoundError(f"{run}: no checkpoint to go on from")
        state = _read_state(folder)
        _check_same(state["record"], self.record, folder)
        self.model.load(folder)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.phases.peaks = state["peaks"] | self.phases.peaks
        self.step, self.empty = state["step"], state["empty"]
        # Not in checkpoints of before 2026-11-26 and 2026-11-28; 0 where no step had been read.
        self.rows_at_once = state.get("together", 0) or self.rows_at_once
        self.skipped = state.get("skipped", 0)
        self.recent, self.first, self.fitted = state["recent"], state["first"], state["fitted"]
        self.data.cut |= set(state["cut"])
        self.data.left_out |= set(state["left out"])
        self.started = time.perf_counter() - state["seconds"]


def _read_state(folder: Path) -> dict[str, Any]:
    """What state.pt of a checkpoint says. ValueError names it, and the checkpoint before, if it is cut or damaged."""
    file = folder / _STATE
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        others = sorted(one for one in folder.parent.glob("[0-9]*") if one < folder)
        left = f"delete {folder} and go on from {others[-1]}" if others else "start anew"
        raise ValueError(f"{file} is cut or damaged ({str(error)[:120]}): {left}") from error


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """ValueError that names what differs, unless a checkpoint was made with the settings and the dataset of this training."""
    marks = [", ".join(record["data"].values()) for record in (before, now)]
    if marks[0] != marks[1]:
        raise ValueError(
            f"{folder}: the dataset has changed since this checkpoint (fingerprint {marks[0]}, now {marks[1]}): bring "
            "back the one it was trained on, or start anew without --resume"
        )
    old, new = ({name: record[name] for name in _BELONGS_TO} for record in (before, now))
    old |= runs.flat(runs.profile_of(before, folder).model_dump(mode="json"), "profile.")
    new |= runs.flat(Profile.parse(now["profile"], "profile").model_dump(mode="json"), "profile.")
    if differing := [name for name in old | new if old.get(name) != new.get(name)]:
        shown = "; ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in differing)
        raise ValueError(
            f"{folder} belongs to other settings: {shown}. Resume with those it was made with, or start anew without "
            "--resume"
        )
