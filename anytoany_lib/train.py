"""Training: one entry, one collator and one loss for all three stages.

    anytoany train --profile P --stage 1 --data OUT --run DIR [--init RUN --max-steps N --resume]

A stage is a row of the profile's table: what it reads, which parts it trains and how fast. It reads cached features
only: no encoder is in memory, and of the diffusion models the UNets alone, in a stage with a denoising term. With
`--on-the-fly` the encoder and the decoders' text encoders are, and compute what the caches lack.

`accelerate launch --multi_gpu --num_processes N -m anytoany_lib.train ...` (or torchrun, see `distributed`) spreads it over cards
and machines that share a disk: the rows of every step are divided, so neither the steps nor what is learnt in them depend on
N. Only the first process writes. A run that was killed goes on with `--resume`, with any N.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from anytoany_lib.config import Profile, StageConfig
from anytoany_lib.decoders.denoising import Denoiser, is_term, kind_of
from anytoany_lib.features.rows_at_url import is_shard
from anytoany_lib.system import interrupts, terminal
from anytoany_lib.system.files import held
from anytoany_lib.system.remote import local, publish
from anytoany_lib.training import fsdp
from anytoany_lib.training.checkpoint import TrainingState, discard, newest
from anytoany_lib.training.distributed import Ranks
from anytoany_lib.training.finish import conclude
from anytoany_lib.training.fitting import fit_before
from anytoany_lib.training.setup import GO_ON, Job, new_training, saved_model
from anytoany_lib.training.stage_data import Step, StepReader
from anytoany_lib.training.trackers import TRACKERS, Log, reporting, tracker_names

Loss = TypeVar("Loss", float, torch.Tensor)
_LEAST_SCALE = 1.0  # of the loss: below, gradients would vanish rather than overflow
_EXPLODED = 20  # times what a loss was at first, or 1 if it was less


def train(
    profile: Profile,
    stage: int,
    data: str | Path,
    run: str | Path,
    init: str | Path | None = None,
    max_steps: int | None = None,
    save_every: int = 100,
    resume: bool = False,
    seed: int = 0,
    on_the_fly: bool = False,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    report_to: str = "",
    stream: bool = False,
) -> Path:
    """Trains one stage on a dataset with cached features and writes the run folder; returns it.

    `init` is the run of the stage before. `on_the_fly` computes what the caches lack; `stream` leaves features at their URL and
    reads them as needed. What was killed or interrupted goes on with `resume`, to the weights it would have had; an interrupt
    ends it between two steps, saved. `on_log` and the trackers in `report_to` (see `trackers`) get each line of metrics.jsonl.
    RuntimeError (step, rows, last checkpoint) if a loss is not finite or explodes, ValueError if `resume` finds other settings.
    """
    trackers = tracker_names(report_to)
    dataset = local(data, () if on_the_fly else ("media",), leave=is_shard if stream else None)
    start = local(init) if init else None
    job = Job(profile, stage, dataset, local(run, new=True), start, seed, max_steps, save_every)
    job.check(resume)
    ranks = Ranks(job.run, trackers, profile.llm.dtype)
    if ranks.first:
        job.check_writable()
    job.check_share(ranks.world)
    if ranks.sharded:
        fsdp.check(job.settings, ranks.accelerator)
    state = new_training(job, ranks, on_the_fly)
    alone = held(job.run, "trains in it") if ranks.first else nullcontext()
    with alone, ranks.together(f"{job.run}: {GO_ON}, with any number of processes"):
        if resume:
            state.load(job.run)
        elif ranks.first:
            _begin_anew(job, state)
        ranks.wait()
        with reporting(ranks.accelerator, job.run, state.record, state.step):
            _take_steps(job, ranks, state, on_log)
            if ranks.first:
                if ranks.sharded:
                    _rejoin(job, ranks, state)
                conclude(job, state)
                publish(job.run)
            ranks.wait()
    return job.run


def _begin_anew(job: Job, state: TrainingState) -> None:
    """What comes before the first step. Checkpoints of a training before are given up, when this one can have its own."""
    if left := newest(job.run):
        tqdm.write(f"{left} is given up when training begins; to keep it, stop now and {GO_ON}")
    fit_before(job, state)
    discard(job.run)


def _take_steps(
    job: Job, ranks: Ranks, state: TrainingState, on_log: Callable[[dict[str, Any]], None] | None
) -> None:
    """The steps that are left; saves a checkpoint every so often, at the end, and when it is interrupted."""
    settings, steps = job.settings, state.record["steps"]
    log = Log(job.run, ranks.accelerator, on_log, state.step, state.seconds, state.recent)
    model, optimiser = ranks.prepare(state.model, state.optimiser)
    model.train()
    latents = state.denoiser is not None
    reader = StepReader(state.data, settings.rows_a_step, ranks.rank, ranks.world, latents)
    title = {"desc": f"stage {job.stage}", "initial": state.step, "total": steps}
    with (
        state.phases.phase("training"),
        interrupts.deferred(alone=ranks.world == 1) as interrupted,
        tqdm(**title, disable=not ranks.first) as bar,
    ):
        while state.step < steps:
            step, losses = _compute(ranks, model, state, settings, reader)
            losses, stop = _summed(losses, interrupted())
            _check_losses(losses, job, state, step.names)
            # Only now: weights that the last step has ruined are not kept.
            if stop or state.step % job.save_every == 0:
                _save(job, ranks, state)
            if stop:
                ranks.wait()  # a launcher ends all when one has ended
                raise KeyboardInterrupt(f"step {state.step} of {steps} is saved: {GO_ON}")
            _update(ranks.accelerator, optimiser, job, state, step)
            state.step += 1
            shown = {"loss": f"{total_loss(losses, settings):.3f}"}
            if state.skipped:
                shown["skipped"] = str(state.skipped)
            bar.set_postfix(shown, refresh=False)
            bar.update()
            rate = float(state.schedule.get_last_lr()[0])
            skipped = state.skipped if state.scaler else None
            log.add(state.step, losses, rate, step.tokens, state.seconds, skipped)
    _save(job, ranks, state)


def _compute(
    ranks: Ranks, model: nn.Module, state: TrainingState, settings: StageConfig, reader: StepReader
) -> tuple[Step, dict[str, float]]:
    """Reads the next step and computes its gradients, in batches that fit the memory; returns it, and this process's share of
    its losses.
    """

    def attempt(rows_at_once: int) -> tuple[Step, dict[str, float]]:
        # Reading computes features too, where training does it on the fly.
        step = ranks.even(reader.read(state.step, rows_at_once))
        state.seed_step(ranks.rank)
        try:
            return step, _gradients(ranks.accelerator, model, step, settings, state.denoiser)
        except RuntimeError:
            model.zero_grad()  # of the batches that did fit
            raise

    return state.with_room(attempt, ranks.rank, ranks.world)


def _gradients(
    accelerator: Accelerator,
    model: nn.Module,
    step: Step,
    settings: StageConfig,
    denoiser: Denoiser | None,
) -> dict[str, float]:
    """Adds up the gradients of a step over its parts and the processes; returns this process's share of each loss."""
    sums: dict[str, torch.Tensor] = {}
    for number, (batch, shares) in enumerate(step.parts, 1):
        last = number == len(step.parts)  # in which the processes meet
        with nullcontext() if last else accelerator.no_sync(model):
            if denoiser:
                denoiser.begin(step.number, accelerator.process_index, number)
            terms = (settings.alignment, denoiser, settings.divergence_weight > 0)
            losses = model(batch.to(accelerator.device), *terms)
            losses = {name: loss * shares[kind_of(name)] for name, loss in losses.items()}
            # Between processes gradients are averaged, but these are shares of a sum.
            accelerator.backward(total_loss(losses, settings) * accelerator.num_processes)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach()
    return {name: loss.item() for name, loss in sums.items()}


def total_loss(losses: Mapping[str, Loss], stage: StageConfig) -> Loss:
    """Cross entropy plus the weighted divergence, and the alignment losses and denoising terms of all kinds."""
    weights = {"text": 1.0, "divergence": stage.divergence_weight}
    return sum(  # type: ignore[return-value]  # 0 only of no loss at all
        weights.get(name, stage.denoising_weight if is_term(name) else stage.alignment_weight)
        * loss
        for name, loss in losses.items()
    )


def _summed(losses: dict[str, float], stop: bool) -> tuple[dict[str, float], bool]:
    """The losses of a step over all processes, and whether one of these was interrupted."""
    gathered = gather_object([(losses, stop)])
    names = dict.fromkeys(name for own, _ in gathered for name in own)
    sums = {name: sum(own.get(name, 0.0) for own, _ in gathered) for name in names}
    return sums, any(stopped for _, stopped in gathered)


def _check_losses(
    losses: dict[str, float], job: Job, state: TrainingState, names: list[str]
) -> None:
    """RuntimeError if a loss is not finite, or far above what it was at first."""
    for name, loss in losses.items():
        first = state.first.setdefault(name, loss)
        if not loss <= _EXPLODED * max(1.0, first) or math.isinf(loss):
            reason = f"the loss is {loss:.4g} ({name}; {first:.4g} at first)"
            raise _diverged(reason, job, state, names)


def _diverged(reason: str, job: Job, state: TrainingState, names: list[str]) -> RuntimeError:
    good = newest(job.run) or "the initial weights"
    half = ", or set llm.dtype: bfloat16 or float32 there" if state.scaler else ""
    return RuntimeError(
        f"stage {job.stage}, step {state.step}: {reason} on rows {', '.join(names)}; the last good checkpoint is {good}. "
        f"Lower the stage's learning rates in the profile{half}"
    )


def _save(job: Job, ranks: Ranks, state: TrainingState) -> None:
    """Saves a checkpoint, also where the run folder's URL leads, if it has one."""
    if ranks.first or ranks.sharded:
        state.save(job.run)
    if ranks.first:
        publish(job.run)


def _update(
    accelerator: Accelerator,
    optimiser: AcceleratedOptimizer,
    job: Job,
    state: TrainingState,
    step: Step,
) -> None:
    """One step of the optimiser and of the schedule. One without anything to learn, or whose gradients have overflowed under
    a scaler, is counted, and changes nothing.
    """
    if not step.parts:
        state.empty += 1
        return
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    fsdp.forget_unused(state.model)
    scaler = state.scaler
    if scaler is not None:
        scaler.unscale_(optimiser.optimizer)
    norm = fsdp.whole(accelerator.clip_grad_norm_(trained, job.settings.clip))
    if scaler is None and not torch.isfinite(norm):
        raise _diverged(f"the gradient is {norm.item()}", job, state, step.names)
    before = scaler.get_scale() if scaler else 1.0
    optimiser.step()
    optimiser.zero_grad()
    # The optimiser itself does not tell: a fused one is called, and skips within.
    if scaler is None or scaler.get_scale() >= before:
        state.schedule.step()
        return
    state.skipped += 1
    if (scale := scaler.get_scale()) < _LEAST_SCALE:
        reason = f"gradients overflow float16 even if the loss is scaled by {scale:.2g}"
        raise _diverged(reason, job, state, step.names)


def _rejoin(job: Job, ranks: Ranks, state: TrainingState) -> None:
    """Gives this process the whole model of the last checkpoint for its part of one that FSDP divided."""
    del state.model
    ranks.accelerator.free_memory()
    state.model = saved_model(job, state.step)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train one stage."""
    parser = terminal.parser(
        "train",
        "Train one stage on a dataset with cached features.",
        "--stage 1 --data data/toy --run ckpt/runs/mine/stage1",
        "--stage 2 --data data/toy --run ckpt/runs/mine/stage2 --init ckpt/runs/mine/stage1",
    )
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--stage", type=int, required=True, choices=(1, 2, 3))
    parser.add_argument("--data", required=True, help="folder with manifests and features")
    parser.add_argument("--run", required=True, help="run folder to write")
    parser.add_argument("--init", help="run folder of the stage before")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--on-the-fly", action="store_true", help="compute the features that are not cached"
    )
    parser.add_argument("--stream", action="store_true", help="leave features at their URL")
    parser.add_argument(
        "--report-to", default="", help=f"one or more of {', '.join(TRACKERS)}, with commas"
    )
    given = vars(parser.parse_args(arguments))
    run = train(Profile.load(given.pop("profile")), **given)
    # Only now: made before the training's own, it would know of one process.
    PartialState().print(run)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
