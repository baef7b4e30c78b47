"""A training before its first step: what it is to do, whether that can be done, and all that it is done with.

What would keep it from ending is looked at here, rather than found after an hour. Then come the model with its trained parts
unfrozen, the optimiser with its schedule, and the data.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.optim import PagedAdamW8bit
from torch import nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from anytoany_lib.config import Profile, StageConfig
from anytoany_lib.data.manifests import dataset_fingerprint, read_manifest
from anytoany_lib.decoders.denoising import denoiser_of
from anytoany_lib.features.dataset_features import DatasetFeatures, LiveFeatures
from anytoany_lib.llm import pick_device, unpack
from anytoany_lib.modalities import SAY
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.peak_memory import Phases
from anytoany_lib.system.remote import known_as
from anytoany_lib.training.checkpoint import CHECKPOINT, TrainingState, check_room, newest, place
from anytoany_lib.training.distributed import Ranks
from anytoany_lib.training.stage_data import StageData

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
        """The profile's row for the stage."""
        return self.profile.stages[self.stage]

    def record(self, steps: int) -> dict[str, Any]:
        """The part of run.json that is known before the first step; trackers get it too."""
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

        ValueError if the run folder holds another stage or profile, a number makes no sense, or there is no dataset;
        FileNotFoundError if there is no run to start from, or nothing to resume. Models are loaded after this, for minutes.
        """
        if self.save_every < 1 or (self.max_steps is not None and self.max_steps < 1):
            found = f"{self.save_every} and {self.max_steps}"
            raise ValueError(f"save_every and max_steps are at least 1; found {found}")
        there = (self.run / runs.RECORD).is_file()
        if there:
            record = runs.read_record(self.run)
            name, stage = record["profile"]["name"], record["stage"]
            if (name, stage) != (self.profile.name, self.stage):
                raise ValueError(
                    f"{self.run} holds stage {stage} of profile {name}, not stage {self.stage} of "
                    f"{self.profile.name}: choose another run folder, or delete that one"
                )
        if resume and newest(self.run) is None:
            why = "is finished" if there else f"has no {CHECKPOINT} folder"
            raise FileNotFoundError(f"nothing to resume: {self.run} {why}; start without --resume")
        read_manifest(self.data, "train")
        if self.init:
            runs.read_record(self.init)

    def check_writable(self) -> None:
        """Makes the run folder. PermissionError if it, or what it would lie in, cannot be written."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.run).close()
        except OSError as error:
            message = f"{self.run} cannot be written ({error.strerror}): choose another folder"
            raise PermissionError(error.errno, message) from error

    def check_share(self, world: int) -> None:
        """ValueError if some of the processes would never have anything to do."""
        if world > self.settings.rows_a_step:
            raise ValueError(
                f"{world} processes, but a step of stage {self.stage} reads {self.settings.rows_a_step} rows: start fewer, "
                "or raise its batch_size or accumulation in the profile"
            )


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
    groups = [{"params": own, "lr": stage.learning_rates[part]} for part, own in parts.items()]
    optimiser = kind(groups, betas=(0.9, 0.95), weight_decay=stage.weight_decay)
    schedule = get_scheduler(stage.schedule, optimiser, round(stage.warmup * steps), steps)
    return optimiser, schedule


def _computing_in_halves(profile: Profile) -> Profile:
    """The profile with bfloat16 for "auto" on a CPU that multiplies in it: a step takes 0.7 of the time.

    For training alone: drawing one token after another it is slower, and replies should be the same on every machine.
    """
    native = torch.cpu.get_capabilities().get("avx512_bf16")
    if profile.llm.dtype != "auto" or pick_device().type != "cpu" or not native:
        return profile
    llm = profile.llm.model_copy(update={"dtype": "bfloat16"})
    return profile.model_copy(update={"llm": llm})


def _attend_by_products(model: AnyToAny) -> None:
    """Attention as plain matrix products for a language model that computes in bfloat16 on a CPU: torch's fused attention takes
    16 times as long backwards as forwards there, a quarter of a step (torch 2.13)."""
    if model.device.type == "cpu" and model.causal_lm.dtype == torch.bfloat16:
        model.causal_lm.set_attn_implementation("eager")


def swapped_decoders(before: Profile, now: Profile) -> list[str]:
    """Kinds whose decoder reads other conditions than it did in another profile, or was not there."""

    def read(profile: Profile, kind: str) -> tuple[Any, ...] | None:
        decoder = profile.decoders.get(kind)
        return (decoder.pipeline, decoder.folder, decoder.condition) if decoder else None

    return [kind for kind in now.decoders if read(before, kind) != read(now, kind)]


def _check_alike(before: Profile, now: Profile, init: Path) -> None:
    """ValueError unless profiles differ in their decoders and stages at most."""
    old, new = (
        runs.flat(one.model_dump(include={"llm", "encoder", "wrappers", "projection", "lora"}))
        | {f"decoders.{kind}.signals": decoder.signals for kind, decoder in one.decoders.items()}
        for one in (before, now)
    )
    if others := [name for name in new if ".source" not in name and old.get(name) != new[name]]:
        raise ValueError(
            f"{init} was trained with profile {before.name}, not {now.name}: name a run of that profile. Another decoder alone "
            f"would do, but they differ in {', '.join(others[:4])}"
        )


def _initial_model(profile: Profile, init: Path | None, seed: int) -> AnyToAny:
    """The model that a stage begins with: that of run `init`, or a new one.

    Of a run whose profile has other decoders the output projections of these begin anew, and of one that does not answer by
    voice the row of the token for it; it says so. ValueError if that run has another profile in more than that.
    """
    model = AnyToAny.from_profile(_computing_in_halves(profile), seed)
    _attend_by_products(model)
    if init is not None:
        before = runs.profile_of(runs.read_record(init), init)
        swapped = swapped_decoders(before, profile)
        if before.name != profile.name:
            _check_alike(before, profile, init)
        if (init / runs.ADAPTER).is_dir():
            model.add_lora()
        voiced = int(profile.speech.signal and not before.speech.signal)
        model.load(init, [f"output_projections.{kind}" for kind in swapped], new_tokens=voiced)
        if voiced:
            tqdm.write(f"{SAY}: {init} has no such token; its row begins as the average word's")
        for kind in swapped:
            tqdm.write(
                f"{kind}: its decoder is another one than in {init}, so its output projection begins anew; stage 2 trains it, and "
                "nothing else has to be trained again"
            )
    return model


def new_training(job: Job, ranks: Ranks, on_the_fly: bool) -> TrainingState:
    """A training that has not taken a step."""
    phases, settings = Phases(), job.settings
    with phases.phase("loading"):
        features = (LiveFeatures if on_the_fly else DatasetFeatures)(job.profile, job.data)
        if settings.reads != "comprehension" and not on_the_fly:
            features.check_captions()
        model = _initial_model(job.profile, job.init, job.seed)
        options = (settings.reads, model.messages, features, job.seed, settings.mixture)
        data = StageData(job.data, "train", *options)
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
    parts_of_it = (model, optimiser, schedule, scaler, data, denoiser, record)
    return TrainingState(*parts_of_it, settings.batch_size, phases)


def saved_model(job: Job, step: int) -> AnyToAny:
    """The whole model as the checkpoint before a step has it."""
    model = _initial_model(job.profile, job.init, job.seed)
    trained_parts(model, job.settings)
    model.load(place(job.run, step))
    return model
