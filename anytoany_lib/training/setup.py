"""What a training is told to do, and whether it can be done: looked at before it begins rather than after an hour."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytoany_lib.config import Profile, StageConfig
from anytoany_lib.data.manifests import dataset_fingerprint
from anytoany_lib.system import runs
from anytoany_lib.system.remote import known_as
from anytoany_lib.training.checkpoint import CHECKPOINT, newest

GO_ON = "go on with resume=True (RESUME in the notebooks, --resume on the command line)"


@dataclass(frozen=True)
class Job:
    """What a training is to do."""

    profile: Profile
    stage: int
    data: Path
    run: Path
    init: Path | None
    seed: int
    max_steps: int | None
    save_every: int

    @property
    def settings(self) -> StageConfig:
        return self.profile.stages[self.stage]

    def record(self, steps: int) -> dict[str, Any]:
        """The part of run.json that is known before the first step, which trackers are told too."""
        return {
            "profile": self.profile.model_dump(mode="json"),
            "stage": self.stage,
            "steps": steps,
            "seed": self.seed,
            "init": known_as(self.init) if self.init else None,
            "data": {known_as(self.data): dataset_fingerprint(self.data)},
            **runs.provenance(),
        }

    def check(self, resume: bool) -> None:
        """Raises what would keep the training from beginning or from ending; nothing is written.

        ValueError if the run folder holds another stage or profile, or a number makes no sense; FileNotFoundError if there is
        nothing to resume.
        """
        if self.save_every < 1 or (self.max_steps is not None and self.max_steps < 1):
            raise ValueError(
                f"save_every and max_steps are at least 1; found {self.save_every} and {self.max_steps}"
            )
        there = (self.run / runs.RECORD).is_file()
        if there:
            record = runs.read_record(self.run)
            found = (record["profile"]["name"], record["stage"])
            if found != (self.profile.name, self.stage):
                raise ValueError(
                    f"{self.run} holds stage {found[1]} of profile {found[0]}, not stage {self.stage} of "
                    f"{self.profile.name}: choose another run folder, or delete that one"
                )
        if resume and newest(self.run) is None:
            why = "is finished" if there else f"has no {CHECKPOINT} folder"
            raise FileNotFoundError(f"nothing to resume: {self.run} {why}; start without --resume")

    def check_writable(self) -> None:
        """Makes the run folder. PermissionError if it, or what it would lie in, cannot be written."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.run):
                pass
        except OSError as error:
            raise PermissionError(
                error.errno,
                f"{self.run} cannot be written ({error.strerror}): choose another folder",
            ) from error

    def check_share(self, world: int) -> None:
        """ValueError if some of the processes would never have anything to do."""
        if world > self.settings.rows_a_step:
            raise ValueError(
                f"{world} processes, but a step of stage {self.stage} reads {self.settings.rows_a_step} rows: start fewer, "
                "or raise its batch_size or accumulation in the profile"
            )
