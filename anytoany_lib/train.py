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
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from bitsandbytes.optim import PagedAdamW8bit
from torch import nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from anytoany_lib.config import Profile, StageConfig
from anytoany_lib.decoders.denoising import denoiser_of, is_term
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.on_the_fly import LiveFeatures
from anytoany_lib.llm import unpack
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import interrupts, runs, terminal
from anytoany_lib.system.files import held
from anytoany_lib.system.out_of_memory import is_out_of_memory
from anytoany_lib.system.peak_memory import Phases
from anytoany_lib.system.remote import local, publish
from anytoany_lib.training import fsdp
from anytoany_lib.training.checkpoint import Standing, check_room, discard, newest, place
from anytoany_lib.training.distributed import Ranks
from anytoany_lib.training.finish import conclude, fit_before
from anytoany_lib.training.setup import GO_ON, Job
from anytoany_lib.training.stage_data import StageData, Step
from anytoany_lib.training.steps import Reading
from anytoany_lib.training.trackers import TRACKERS, Log, named, reporting

Loss = TypeVar("Loss", float, torch.Tensor)
_LEAST_SCALE = 1.0  # of the loss: below, gradients would vanish rather than overflow
_EXPLODED = 20  # times what a loss was at first, or 1 if it was less


def trained_parts(model: AnyToAny, stage: StageConfig) -> dict[str, list[nn.Parameter]]:
    """Freezes the model but for the parts a stage trains; returns their parameters."""
    model.requires_grad_(False)
    parts = {}
    for part in stage.learning_rates:
        if part == "lora":
            model.add_lora()
            parameters = [p for name, p in model.llm.named_parameters() if "lora_" in name]
        else:
            parameters = list(model.bridges()[part].parameters())
        parts[part] = [parameter.requires_grad_() for parameter in parameters]
    if stage.checkpointing:
        # The reentrant kind would want an input that requires a gradient, which no stage promises.
        model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    return parts


def optimiser_and_schedule(
    parts: dict[str, list[nn.Parameter]], stage: StageConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a learning rate for each part, and the stage's schedule."""
    kind: Callable[..., torch.optim.Optimizer] = partial(torch.optim.AdamW, fused=True)
    if stage.optimiser == "paged-adamw-8bit":
        if not torch.cuda.is_available():
            raise ValueError(
                "paged-adamw-8bit needs a CUDA card, and there is none: set optimiser: adamw in the profile's stage"
            )
        kind = PagedAdamW8bit
    groups = [
        {"params": parameters, "lr": stage.learning_rates[part]}
        for part, parameters in parts.items()
    ]
    optimiser = kind(groups, betas=(0.9, 0.95), weight_decay=stage.weight_decay)
    schedule = get_scheduler(stage.schedule, optimiser, round(stage.warmup * steps), steps)
    return optimiser, schedule


def total_loss(losses: Mapping[str, Loss], stage: StageConfig) -> Loss:
    """Cross entropy plus the weighted alignment losses and denoising terms of all kinds."""
    return sum(  # type: ignore[return-value]  # 0 only of no loss at all
        loss
        if name == "text"
        else (stage.denoising_weight if is_term(name) else stage.alignment_weight) * loss
        for name, loss in losses.items()
    )


def _initial_model(profile: Profile, init: Path | None, seed: int) -> AnyToAny:
    model = AnyToAny.from_profile(profile, seed)
    if init is not None:
        found = runs.read_record(init)["profile"]["name"]
        if found != profile.name:
            raise ValueError(
                f"{init} was trained with profile {found}, not {profile.name}: name a run of that profile"
            )
        if (init / runs.ADAPTER).is_dir():
            model.add_lora()
        model.load(init)
    return model


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
) -> Path:
    """Trains one stage on a dataset with cached features and writes the run folder; returns it.

    `init` is the run to start from (the stage before). `on_the_fly` computes what the caches lack. A killed or interrupted
    run goes on with `resume`, to the weights it would have had; an interrupt ends it between two steps, saved. `on_log` gets
    each line of metrics.jsonl, and so do the trackers in `report_to` ("tensorboard, wandb"; see `trackers`). Raises
    RuntimeError (step, rows, last checkpoint) if a loss is not finite or explodes, ValueError if `resume` finds a checkpoint
    of other settings or of another dataset.
    """
    names = named(report_to)
    read = local(data, skip=() if on_the_fly else ("media",))
    start = local(init) if init else None
    job = Job(profile, stage, read, local(run, new=True), start, seed, max_steps, save_every)
    job.check(resume)
    ranks = Ranks(job.run, names, profile.llm.dtype)
    if ranks.first:
        job.check_writable()
    job.check_share(ranks.world)
    if ranks.sharded:
        fsdp.check(job.settings, ranks.accelerator)
    standing = _begun(job, ranks, on_the_fly)
    alone = held(job.run, "trains in it") if ranks.first else nullcontext()
    with alone, ranks.together(f"{job.run}: {GO_ON}, with any number of processes"):
        if resume:
            standing.load(job.run)
        elif ranks.first:
            _begin_anew(job, standing)
        ranks.wait()
        with reporting(ranks.accelerator, job.run, standing.record, standing.step):
            _loop(ranks, job, standing, on_log)
            if ranks.first:
                if ranks.sharded:
                    _rejoin(job, ranks, standing)
                conclude(job, standing)
                publish(job.run)
            ranks.wait()
    return job.run


def _begun(job: Job, ranks: Ranks, on_the_fly: bool) -> Standing:
    """A training that has not taken a step."""
    phases, settings = Phases(), job.settings
    with phases.phase("loading"):
        features = (LiveFeatures if on_the_fly else DatasetFeatures)(job.profile, job.data)
        model = _initial_model(job.profile, job.init, job.seed)
        read = (settings.reads, model.messages, features, job.seed, settings.mixture)
        data = StageData(job.data, "train", *read)
        steps = job.max_steps or settings.steps_of(len(data))
        parts = trained_parts(model, settings)
        if not ranks.sharded:  # where each process is to hold a part of them
            unpack(model.llm)
        if ranks.first:
            check_room(job.run, sum(p.numel() for part in parts.values() for p in part))
        optimiser, schedule = optimiser_and_schedule(parts, settings, steps)
    scaler = ranks.accelerator.scaler
    denoiser = denoiser_of(job.profile, settings, job.seed)
    # What "auto" has come to: it may differ where the training goes on.
    record = job.record(steps) | {"computes_in": str(model.causal_lm.dtype).removeprefix("torch.")}
    return Standing(model, optimiser, schedule, scaler, data, features, denoiser, record, phases)


def _rejoin(job: Job, ranks: Ranks, standing: Standing) -> None:
    """Gives this process the whole model of the last checkpoint for its part of one that FSDP divided."""
    del standing.model
    ranks.accelerator.free_memory()
    standing.model = _initial_model(job.profile, job.init, job.seed)
    trained_parts(standing.model, job.settings)
    standing.model.load(place(job.run, standing.step))


def _begin_anew(job: Job, standing: Standing) -> None:
    """What comes before the first step. Checkpoints of a training before are given up, when this one can have its own."""
    if left := newest(job.run):
        tqdm.write(f"{left} is given up when training begins; to keep it, stop now and {GO_ON}")
    fit_before(job, standing)
    discard(job.run)


def _loop(
    ranks: Ranks, job: Job, standing: Standing, on_log: Callable[[dict[str, Any]], None] | None
) -> None:
    """The steps that are left; saves a checkpoint every so often, at the end, and when it is interrupted."""
    settings, steps = job.settings, standing.record["steps"]
    log = Log(job.run, ranks.accelerator, on_log, standing.step, standing.seconds, standing.recent)
    wrapped, optimiser = ranks.prepare(standing.model, standing.optimiser)
    wrapped.train()
    reading = Reading(standing, settings, ranks.rank, ranks.world)
    shown = {"desc": f"stage {job.stage}", "initial": standing.step, "total": steps}
    with (
        standing.phases.phase("training"),
        interrupts.deferred(alone=ranks.world == 1) as interrupted,
        tqdm(**shown, disable=not ranks.first) as bar,
    ):
        while standing.step < steps:
            read, losses = _read_and_computed(ranks, wrapped, standing, settings, reading)
            losses, stop = _of_all(losses, interrupted())
            _check_losses(losses, job, standing, read.names)
            # Only now: weights that the last step has ruined are not kept.
            if stop or standing.step % job.save_every == 0:
                _keep(job, standing, ranks)
            if stop:
                ranks.wait()  # a launcher ends all when one has ended
                raise KeyboardInterrupt(f"step {standing.step} of {steps} is saved: {GO_ON}")
            _update(ranks.accelerator, optimiser, job, standing, read)
            standing.step += 1
            shown = {"loss": f"{total_loss(losses, settings):.3f}"}
            if standing.skipped:
                shown["skipped"] = str(standing.skipped)
            bar.set_postfix(shown, refresh=False)
            bar.update()
            rate = float(standing.schedule.get_last_lr()[0])
            skipped = standing.skipped if standing.scaler else None
            log.add(standing.step, losses, rate, read.tokens, standing.seconds, skipped)
    _keep(job, standing, ranks)


def _keep(job: Job, standing: Standing, ranks: Ranks) -> None:
    """Saves a checkpoint, also where the run folder's URL leads, if it has one."""
    if ranks.first or ranks.sharded:
        standing.save(job.run)
    if ranks.first:
        publish(job.run)


def _read_and_computed(
    ranks: Ranks, wrapped: nn.Module, standing: Standing, settings: StageConfig, reading: Reading
) -> tuple[Step, dict[str, float]]:
    """The next step and this process's share of its losses; its gradients are there, in batches that fit the memory."""
    while True:
        read = None
        try:
            read = ranks.even(next(reading))  # which computes features too, if it is told to
            standing.seed_step(ranks.rank)
            return read, _gradients(ranks.accelerator, wrapped, standing, settings, read)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found = str(error)
        # Outside the handler, where nothing refers any more to the tensors of the pass that failed.
        wrapped.zero_grad()
        del read
        reading.smaller(found)


def _gradients(
    accelerator: Accelerator,
    wrapped: nn.Module,
    standing: Standing,
    settings: StageConfig,
    read: Step,
) -> dict[str, float]:
    """Adds up the gradients of a step over its parts and the processes; returns this process's share of each loss."""
    told: dict[str, torch.Tensor] = {}
    for number, (batch, shares) in enumerate(read.parts, 1):
        meets = number == len(read.parts)
        with nullcontext() if meets else accelerator.no_sync(wrapped):
            if standing.denoiser:
                standing.denoiser.begin(standing.step, accelerator.process_index, number)
            losses = wrapped(batch.to(standing.model.device), settings.alignment, standing.denoiser)
            # A loss may tell after its kind what it is of it; its share is that of the kind.
            losses = {name: loss * shares[name.split()[0]] for name, loss in losses.items()}
            # Between processes gradients are averaged, but these are shares of a sum.
            accelerator.backward(total_loss(losses, settings) * accelerator.num_processes)
        for name, loss in losses.items():
            told[name] = told.get(name, 0) + loss.detach()
    return {name: loss.item() for name, loss in told.items()}


def _of_all(losses: dict[str, float], stop: bool) -> tuple[dict[str, float], bool]:
    """The losses of a step over all processes, and whether one of these was interrupted."""
    told = gather_object([(losses, stop)])
    names = dict.fromkeys(name for own, _ in told for name in own)
    whole = {name: sum(own.get(name, 0.0) for own, _ in told) for name in names}
    return whole, any(stopped for _, stopped in told)


def _check_losses(losses: dict[str, float], job: Job, standing: Standing, names: list[str]) -> None:
    """RuntimeError if a loss is not finite, or far above what it was at first."""
    for name, loss in losses.items():
        first = standing.first.setdefault(name, loss)
        if not loss <= _EXPLODED * max(1.0, first) or math.isinf(loss):
            said = f"the loss is {loss:.4g} ({name}; {first:.4g} at first)"
            raise _diverged(said, job, standing, names)


def _diverged(said: str, job: Job, standing: Standing, names: list[str]) -> RuntimeError:
    good = newest(job.run) or "the initial weights"
    half = ", or set llm.dtype: bfloat16 or float32 there" if standing.scaler else ""
    return RuntimeError(
        f"stage {job.stage}, step {standing.step}: {said} on rows {', '.join(names)}; the last good checkpoint is {good}. "
        f"Lower the stage's learning rates in the profile{half}"
    )


def _update(
    accelerator: Accelerator,
    optimiser: AcceleratedOptimizer,
    job: Job,
    standing: Standing,
    read: Step,
) -> None:
    """One step of the optimiser and of the schedule. One without anything to learn, or whose gradients have overflowed under
    a scaler, is counted, and changes nothing.
    """
    if not read.parts:
        standing.empty += 1
        return
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    fsdp.forget_unused(standing.model)
    scaler = standing.scaler
    if scaler is not None:
        scaler.unscale_(optimiser.optimizer)
    norm = fsdp.whole(accelerator.clip_grad_norm_(trained, job.settings.clip))
    if scaler is None and not torch.isfinite(norm):
        raise _diverged(f"the gradient is {norm.item()}", job, standing, read.names)
    before = scaler.get_scale() if scaler else 1.0
    optimiser.step()
    optimiser.zero_grad()
    # The optimiser itself does not tell: a fused one is called, and skips within.
    if scaler is None or scaler.get_scale() >= before:
        standing.schedule.step()
    else:
        _note_skipped(job, standing, read.names)


def _note_skipped(job: Job, standing: Standing, names: list[str]) -> None:
    """Counts a step that the scaler has skipped. RuntimeError if a smaller scale would not help."""
    standing.skipped += 1
    scale = standing.scaler.get_scale() if standing.scaler else 1.0
    if scale < _LEAST_SCALE:
        said = f"gradients overflow float16 even if the loss is scaled by {scale:.2g}"
        raise _diverged(said, job, standing, names)


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
    parser.add_argument(
        "--report-to", default="", help=f"one or more of {', '.join(TRACKERS)}, with commas"
    )
    given = vars(parser.parse_args(arguments))
    try:
        run = train(Profile.load(given.pop("profile")), **given)
    except KeyboardInterrupt as interrupt:
        raise SystemExit(str(interrupt) or "interrupted before the first step") from None
    PartialState().print(run)


if __name__ == "__main__":
    main()
