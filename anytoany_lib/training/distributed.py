"""The processes of one training, as `accelerate launch` or torchrun start them: how they find, wait for and lose each other.

On a machine without a card they talk by gloo. `accelerate launch --cpu` starts one process only, however many it is asked
for, unless it is given an MPI; `accelerate launch --multi_gpu` and torchrun start them all, with or without cards.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import distributed, nn

from anytoany_lib.config import Dtype
from anytoany_lib.llm import compute_dtype, launched_for, pick_device
from anytoany_lib.model import AnyToAny
from anytoany_lib.training.fsdp import divided, evened
from anytoany_lib.training.stage_data import Step
from anytoany_lib.training.trackers import EVENTS

_ANSWER_WITHIN = timedelta(minutes=10)  # a step, or a checkpoint that the first process writes
_PATIENCE = timedelta(days=2)


class Ranks:
    """This process among those of one training: `rank` of `world`, and the `accelerator` that joins them.

    Where the language model computes in float16 (`dtype` is the profile's llm.dtype) the accelerator has a scaler.
    """

    def __init__(self, run: Path, trackers: list[str], dtype: Dtype = "auto"):
        _check_launch()
        device = pick_device()
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",  # the model itself keeps its projections and LoRA in float32
            log_with=trackers or None,  # an empty list is warned about
            project_config=ProjectConfiguration(logging_dir=str(run / EVENTS)),
            kwargs_handlers=[
                # Which projections a step trains depends on what its rows generate.
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=_ANSWER_WITHIN),
            ],
        )
        if compute_dtype(dtype, device) == torch.float16:
            # Accelerate's own would come with autocast, and on cards only.
            self.accelerator.scaler = torch.amp.GradScaler(device.type)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        several = self.world > 1
        if several and device.type == "cpu" and launched_for("FSDP"):
            # Accelerate gives it to cards only, and would train as if nobody had asked.
            for state in (PartialState(), self.accelerator.state):
                state.distributed_type = DistributedType.FSDP
            self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        # NCCL would spin, and notice a dead process only when its time is up.
        self._patient = (
            distributed.new_group(backend="gloo", timeout=_PATIENCE) if several else None
        )
        asked = {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys()
        if not several and asked and "LOCAL_RANK" not in os.environ:
            warnings.warn(
                "accelerate launch was asked for several processes but started one, as it does on a CPU: start them by "
                "torchrun --nproc_per_node N -m -- anytoany_lib.train ...",
                stacklevel=2,
            )

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether FSDP divides the model among the processes."""
        return self.accelerator.is_fsdp2

    def prepare(
        self, model: AnyToAny, optimiser: torch.optim.Optimizer
    ) -> tuple[nn.Module, AcceleratedOptimizer]:
        """Both as the processes train them together; all have the weights of the first one then."""
        if self.sharded:
            return divided(self.accelerator, model, optimiser)
        return self.accelerator.prepare(model, optimiser)

    def even(self, step: Step) -> Step:
        """The step as this process computes it: under FSDP in as many parts as the others."""
        return evened(step) if self.sharded else step

    def wait(self) -> None:
        """Until all processes are here, be it hours; one that died is an error at once."""
        if self._patient is not None:
            distributed.barrier(self._patient)

    @contextmanager
    def together(self, advice: str) -> Iterator[None]:
        """What all processes do together. RuntimeError, with the advice, if another one is lost in it."""
        try:
            yield
        except RuntimeError as error:
            text = str(error).lower()
            lost = isinstance(error, distributed.DistError) or "gloo" in text or "nccl" in text
            if self.world == 1 or not lost:
                raise
            raise RuntimeError(
                f"process {self.rank} of {self.world}: another one has died or does not answer. {advice}"
            ) from error


def _check_launch() -> None:
    """ValueError if the processes were launched to share their work in a way that training does not know."""
    if launched_for("DEEPSPEED"):
        raise ValueError(
            "training does not run under DeepSpeed: launch it with anytoany_lib/accelerate/zero2.yaml, which divides the same "
            "by FSDP"
        )
    if launched_for("FSDP") and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ValueError(
            f"training needs version 2 of FSDP, not {version}: set fsdp_version: 2 in the configuration, or launch it with "
            "anytoany_lib/accelerate/fsdp-qlora.yaml"
        )
