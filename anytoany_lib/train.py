"""Training: one entry, one collator and one loss for all three stages.

    python -m anytoany_lib.train --profile P --stage 1 --data OUT --run DIR [--init RUN --max-steps N --resume]

A stage is a row of the profile's table: what it reads, which parts it trains and how fast. It reads cached features
only: no encoder is in memory, and of the diffusion models the UNets alone, in a stage with a denoising term. With
`--on-the-fly` the encoder and the decoders' text encoders are, and compute what the caches lack. `accelerate launch -m
anytoany_lib.train ...` spreads it over cards.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, AutocastKwargs, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration
from bitsandbytes.optim import PagedAdamW8bit
from torch import nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from anytoany_lib import runs
from anytoany_lib.config import Alignment, FitConfig, Profile, StageConfig, portable, resolve
from anytoany_lib.data import dataset_fingerprint, splits_in
from anytoany_lib.denoising import Denoiser, is_term
from anytoany_lib.features import DatasetFeatures
from anytoany_lib.fitting import fit_input_projection, fit_output_projections
from anytoany_lib.live import LiveFeatures
from anytoany_lib.llm import pick_device, pick_dtype
from anytoany_lib.model import AnyToAny
from anytoany_lib.stage_data import StageData
from anytoany_lib.trackers import EVENTS, TRACKERS, Log, named, reporting

CHECKPOINT = "checkpoint"
_ABOUT_OLD_WEIGHTS = ("evaluation", "conversation")
_CAPTIONS_FITTED = 4096
_FREE_BYTES = 200 * 2**20


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


def optimiser_and_schedule(parts: dict[str, list[nn.Parameter]], stage: StageConfig, steps: int):
    """AdamW with a learning rate for each part, and the stage's schedule."""
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
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


def total_loss(losses: dict[str, torch.Tensor], stage: StageConfig) -> torch.Tensor:
    """Cross entropy plus the weighted alignment losses and denoising terms of all kinds."""
    return sum(
        loss
        if name == "text"
        else (stage.denoising_weight if is_term(name) else stage.alignment_weight) * loss
        for name, loss in losses.items()
    )


def _denoiser(profile: Profile, settings: StageConfig, seed: int) -> Denoiser | None:
    """What computes the stage's denoising terms, None if it has none."""
    if not settings.denoising_weight:
        return None
    device = pick_device()
    return Denoiser(profile.decoders, seed, device, pick_dtype(device), settings.checkpointing)


def _check_target(run: Path, profile: Profile, stage: int, resume: bool) -> None:
    """Fails before training rather than after it: another run's folder, no room, no permission."""
    run.mkdir(parents=True, exist_ok=True)
    if (run / runs.RECORD).is_file():
        record = runs.read_record(run)
        found = (record["profile"]["name"], record["stage"])
        if found != (profile.name, stage):
            raise ValueError(
                f"{run} holds stage {found[1]} of profile {found[0]}, not stage {stage} of {profile.name}: "
                "choose another run folder, or delete that one"
            )
    if resume and not (run / CHECKPOINT).is_dir():
        raise FileNotFoundError(
            f"nothing to resume: {run} has no {CHECKPOINT} folder; start without --resume"
        )
    if not os.access(run, os.W_OK):
        raise PermissionError(f"{run} is read-only; choose a folder that can be written")
    free = shutil.disk_usage(run).free
    if free < _FREE_BYTES:
        raise OSError(f"{run}: {free >> 20} MiB of disk are free, a run needs {_FREE_BYTES >> 20}")


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


def peak_memory_bytes() -> dict[str, int]:
    """Peak memory of this process on the host, and on the card if there is one."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_available():
        peak["device"] = torch.cuda.max_memory_allocated()
    return peak


@torch.no_grad()
def validation_losses(
    model: AnyToAny,
    data: StageData,
    batch_size: int,
    alignment: Alignment = "l2",
    denoiser: Denoiser | None = None,
) -> dict[str, float]:
    """Mean of each loss over a split, batch by batch."""
    model.eval()
    sums: dict[str, list[float]] = {}
    batches = data.once(batch_size, latents=denoiser is not None)
    bar = tqdm(batches, total=-(-len(data) // batch_size), desc="validation")
    for number, batch in enumerate(bar):
        if denoiser:
            denoiser.begin(number)
        for name, loss in model(batch.to(model.device), alignment, denoiser).items():
            sums.setdefault(name, []).append(loss.item())
    return {name: float(np.mean(values)) for name, values in sums.items()}


def _validation(
    model: AnyToAny,
    data: Path,
    settings: StageConfig,
    features: DatasetFeatures,
    seed: int,
    denoiser: Denoiser | None,
) -> dict[str, float]:
    """The losses on the validation split, {} if the dataset has none."""
    if "validation" not in splits_in(data):
        return {}
    held_out = StageData(data, "validation", settings.reads, model.messages, features, seed)
    return validation_losses(model, held_out, settings.batch_size, settings.alignment, denoiser)


def _not_finite(
    loss: torch.Tensor, stage: int, step: int, names: list[str], run: Path
) -> RuntimeError:
    there = (run / CHECKPOINT).is_dir()
    return RuntimeError(
        f"stage {stage}, step {step}: the loss is {loss.item()} on rows {', '.join(names)}; the last good checkpoint is "
        f"{run / CHECKPOINT if there else 'the initial weights'}. Lower the stage's learning rates in the profile"
    )


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
    run goes on with `resume`, to the weights it would have had. `on_log` gets each line of metrics.jsonl, and so do the
    trackers in `report_to` ("tensorboard, wandb"; see `trackers`). Raises RuntimeError (step, rows, last checkpoint) if a
    loss is not finite.
    """
    data, run = resolve(data), resolve(run)
    settings, init = profile.stages[stage], resolve(init) if init else None
    trackers = named(report_to)
    _check_target(run, profile, stage, resume)
    accelerator = _accelerator(run, trackers)
    features = (LiveFeatures if on_the_fly else DatasetFeatures)(profile, data)
    model = _initial_model(profile, init, seed)
    denoiser = _denoiser(profile, settings, seed)
    train_data = StageData(
        data, "train", settings.reads, model.messages, features, seed, settings.mixture
    )
    planned = settings.steps_of(len(train_data), accelerator.num_processes)
    steps = max_steps or planned
    state = _State(model, *optimiser_and_schedule(trained_parts(model, settings), settings, steps))
    fitted, share = {}, steps / planned
    if resume:
        state.load(run)
    else:
        torch.manual_seed(seed + stage)
        fitted = _fit_before(model, settings, train_data, untrained=init is None, share=share)
        torch.manual_seed(seed + stage)
    record = _made_of(profile, stage, steps, seed, init, data)
    with reporting(accelerator, run, record, state.step):
        log = Log(run, accelerator, append=resume, on_log=on_log)
        job = _Job(run, stage, settings, steps, save_every, denoiser)
        _loop(accelerator, job, state, train_data, log)
        if accelerator.is_main_process:
            if settings.fit_after.steps:
                fitted |= _fit_projections(
                    model, settings.fit_after, settings, train_data, share, "after"
                )
            record |= {
                "fitted": fitted,
                "validation": _validation(model, data, settings, features, seed, denoiser),
                "seconds": state.seconds,
                "peak_memory_bytes": peak_memory_bytes(),
            }
            _finish(run, model, record, init)
        accelerator.wait_for_everyone()
    return run


def _made_of(
    profile: Profile, stage: int, steps: int, seed: int, init: Path | None, data: Path
) -> dict[str, Any]:
    """The part of run.json that is known before the first step, which trackers are told too."""
    return {
        "profile": profile.model_dump(mode="json"),
        "stage": stage,
        "steps": steps,
        "seed": seed,
        "init": portable(init) if init else None,
        "data": {portable(data): dataset_fingerprint(data)},
        **runs.provenance(),
    }


def _accelerator(run: Path, trackers: list[str]) -> Accelerator:
    # In float16 the loss is scaled, and that is all: the model itself keeps its projections and LoRA in float32.
    return Accelerator(
        mixed_precision="fp16" if pick_dtype(pick_device()) == torch.float16 else "no",
        log_with=trackers or None,  # an empty list is warned about
        project_config=ProjectConfiguration(logging_dir=str(run / EVENTS)),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            AutocastKwargs(enabled=False),
        ],
    )


def _fit_projections(
    model: AnyToAny, fit: FitConfig, settings: StageConfig, data: StageData, share: float, when: str
) -> dict[str, float]:
    """Fits the output projections to the language model as it stands, for longer if the stage is trained for longer."""
    rows, steps = max(fit.batch_size, round(share * fit.rows)), round(share * fit.steps)
    batches = (batch for _, batch in data.batches(settings.batch_size))
    scaled = fit.model_copy(update={"rows": rows, "steps": steps})
    losses = fit_output_projections(model, batches, scaled, settings.alignment)
    return {f"{kind} {when}": loss for kind, loss in losses.items()}


def _fit_before(
    model: AnyToAny, settings: StageConfig, data: StageData, untrained: bool, share: float
) -> dict[str, float]:
    """Fits the bridges that start here to the frozen models (see `fitting`); what came of it, for run.json."""
    fitted: dict[str, float] = {}
    if "input_projection" in settings.learning_rates and untrained:
        embeddings, captions = data.captioned_media(_CAPTIONS_FITTED)
        if captions:
            explained = fit_input_projection(model, embeddings, captions)
            fitted["words explained by soft tokens"] = explained
    reads_states = "output_projections" in settings.learning_rates
    uncalibrated = model.profile.projection.standardise and not model.calibrated
    if reads_states and (settings.fit_before.steps or uncalibrated):
        fitted |= _fit_projections(model, settings.fit_before, settings, data, share, "before")
    return fitted


@dataclass
class _Job:
    """What a training is to do: where to, which stage, for how many steps, how often to save, with which denoising."""

    run: Path
    stage: int
    settings: StageConfig
    steps: int
    save_every: int
    denoiser: Denoiser | None


@dataclass
class _State:
    """Where a training stands: all that a checkpoint holds, and when it (as good as) began."""

    model: AnyToAny
    optimiser: torch.optim.Optimizer
    schedule: Any
    step: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def save(self, run: Path, step: int) -> None:
        """Writes the checkpoint of a run, which stands before `step`."""
        state = {"optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}
        state |= {"step": step, "seconds": self.seconds, "rng": torch.get_rng_state()}
        with runs.appearing_whole(run / CHECKPOINT) as folder:
            runs.write_tensors(folder, self.model.bridges(), self.model.adapter)
            torch.save(state, folder / "state.pt")

    def load(self, run: Path) -> None:
        """Takes over the checkpoint of a run."""
        self.model.load(run / CHECKPOINT)
        state = torch.load(run / CHECKPOINT / "state.pt", weights_only=True)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        self.step, self.started = state["step"], time.perf_counter() - state["seconds"]


def _loop(accelerator: Accelerator, job: _Job, state: _State, data: StageData, log: Log) -> None:
    """The steps from `state.step` on; saves a checkpoint every so often and when it is interrupted."""
    model, first = state.model, state.step
    wrapped, optimiser, schedule = accelerator.prepare(model, state.optimiser, state.schedule)
    rank, world = accelerator.process_index, accelerator.num_processes
    latents = job.denoiser is not None
    batches = data.batches(job.settings.batch_size, first * world + rank, world, latents)
    shown = {"desc": f"stage {job.stage}", "initial": first, "total": job.steps}
    bar = tqdm(range(first, job.steps), **shown, disable=rank > 0)
    trained = [p for group in state.optimiser.param_groups for p in group["params"]]
    step = first
    wrapped.train()
    try:
        for step, (names, batch) in zip(bar, batches, strict=False):
            if job.denoiser:
                job.denoiser.begin(step * world + rank)
            losses = wrapped(batch.to(model.device), job.settings.alignment, job.denoiser)
            loss = total_loss(losses, job.settings)
            if not torch.isfinite(loss):
                raise _not_finite(loss, job.stage, step, names, job.run)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained, job.settings.clip)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            log.add(step, losses, schedule.get_last_lr()[0], batch, state.seconds)
            due = (step + 1) % job.save_every == 0 and step + 1 < job.steps
            if accelerator.is_main_process and due:
                state.save(job.run, step + 1)
    except KeyboardInterrupt:
        state.save(job.run, step)
        raise


def _finish(run: Path, model: AnyToAny, record: dict[str, Any], init: Path | None) -> None:
    """Puts the final weights into the run folder; `run.json` comes last and makes it a run."""
    (run / runs.RECORD).unlink(missing_ok=True)
    with runs.appearing_whole(run / ".final") as folder:
        runs.write_tensors(folder, model.bridges(), model.adapter)
        if init and (init / runs.VOCABULARY).is_file():
            shutil.copy(init / runs.VOCABULARY, folder)
    (run / runs.VOCABULARY).unlink(missing_ok=True)
    shutil.rmtree(run / runs.ADAPTER, ignore_errors=True)
    for item in (run / ".final").iterdir():
        item.replace(run / item.name)
    (run / ".final").rmdir()
    shutil.rmtree(run / CHECKPOINT, ignore_errors=True)
    for stale in _ABOUT_OLD_WEIGHTS:
        shutil.rmtree(run / stale, ignore_errors=True)
    (run / "metrics.json").unlink(missing_ok=True)
    runs.write_file(run / runs.RECORD, json.dumps(record, indent=2) + "\n")


def main() -> None:
    """Command line: train one stage."""
    parser = argparse.ArgumentParser(
        description="Train one stage on a dataset with cached features."
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
    given = vars(parser.parse_args())
    print(train(Profile.load(given.pop("profile")), **given))


if __name__ == "__main__":
    main()
