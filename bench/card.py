"""What the sections of `gpu.py` share: the cap on the card's memory, seconds and peaks, random models, batches of words.

A section is a function of `Options`; what it finds it hands to `options.note` at once, so that a crash loses nothing found before.
"""

from __future__ import annotations

import gc
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from record import synchronise
from replicas import fill
from steps import Kit

from anytoany_lib import llm
from anytoany_lib.batches import Batch, collate
from anytoany_lib.config import Profile, StageConfig
from anytoany_lib.model import AnyToAny
from anytoany_lib.training import distributed
from anytoany_lib.training.checkpoint import TrainingState
from anytoany_lib.training.setup import Job, optimiser_and_schedule, trained_parts
from anytoany_lib.training.stage_data import Step

DEVICE = llm.pick_device()
WORDS = "A small red bell rings twice in the tower of the old church while the birds sing. "


@dataclass
class Options:
    """What a section is told: profile, memory that the card may give (GB), type to compute in, tokens of a row, where to
    find weights, and where to write what it finds.
    """

    profile: Profile
    cap: float
    dtype: str
    tokens: int
    scratch: Path
    file: Path
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> Path:
        """A folder for this section's own random models."""
        return self.scratch / self.file.name

    def note(self, what: str, found: Any) -> None:
        """Writes everything found so far, this too."""
        self.found[what] = found
        self.file.write_text(json.dumps(self.found, indent=1, default=float) + "\n")
        print(f"{self.file.stem}: {what}: {json.dumps(found, default=float)}", flush=True)


def limit_memory(gigabytes: float) -> None:
    """Lets this process have so much of the card, its CUDA context aside."""
    if DEVICE.type == "cuda":
        whole = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / whole))


def computing_in(profile: Profile, dtype: str) -> Profile:
    """The profile with a language model that computes in "bfloat16", "float16", "float32" or what is "auto" here."""
    return profile.model_copy(update={"llm": profile.llm.model_copy(update={"dtype": dtype})})


def free() -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def measured(into: dict[str, Any]) -> Iterator[None]:
    """Seconds and peak memory (GB on the card: held by tensors, and reserved; GB of the process) of what runs inside."""
    free()
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronise()
    started = time.perf_counter()
    yield
    synchronise()
    into["seconds"] = round(time.perf_counter() - started, 4)
    if DEVICE.type == "cuda":
        into["card_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
        into["card_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 3)
    into["host_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def small_profile(scratch: Path, quantization: str = "none") -> Profile:
    """A profile of a narrowed random Qwen, and of the tiny encoder and picture decoder that the repository has."""
    tiny, qwen = Profile.load("tiny"), Profile.load("qwen2.5-1.5b")
    absent = {"quantization": quantization, "folder": str(scratch / "absent")}
    stages = {
        number: stage.model_copy(update={"batch_size": 4}) for number, stage in tiny.stages.items()
    }
    small = tiny.model_copy(
        update={
            "llm": qwen.llm.model_copy(update=absent),
            "decoders": {"image": tiny.decoders["image"]},
            "stages": stages,
        }
    )
    return fill(small, scratch, narrow=8, processes=1)[0]


def talk(model: AnyToAny, stage: StageConfig, tokens: int, first: int = 0) -> list[dict]:
    """A conversation of `tokens` tokens, as the stage reads them; another one for another `first` word."""
    shown = {"type": "image", "image": torch.randn(model.profile.encoder.embedding)}
    made = [{"type": kind, "caption": kind} for kind in model.profile.decoders]
    asked = [{"type": "text", "text": "Make it."}]
    reads, writes = {
        "comprehension": ([shown], []),
        "generation": (asked, made[:1]),
        "instructions": ([shown, *asked], made[:1]),
    }[stage.reads]

    def with_words(count: int) -> list[dict]:
        text = " ".join((WORDS * (count + first)).split()[first : first + count])
        return [
            {"role": "user", "content": reads},
            {"role": "assistant", "content": [{"type": "text", "text": text}, *writes]},
        ]

    count = 1
    while len(model.messages.encode(with_words(count)).ids) < tokens:
        count += 1
    return with_words(count)


def batch_for(
    model: AnyToAny, stage: StageConfig, tokens: int, device: torch.device | None = None
) -> Batch:
    """The stage's batch of such conversations, on the model's device unless another one is named."""
    rows = [
        model.messages.encode(talk(model, stage, tokens, first))
        for first in range(stage.batch_size)
    ]

    def target(kind: str, _: str) -> torch.Tensor:
        return torch.randn(model.profile.decoders[kind].condition)

    width = model.profile.encoder.embedding
    return collate(rows, lambda _, m: m, target, width).to(device or model.device)


def kit_on(model: AnyToAny, number: int, batch: Batch, run: Path = Path()) -> tuple[Kit, Step]:
    """The kit's training of a stage, and the step that has the batch in it alone."""
    job = Job(model.profile, number, Path(), run, None, 0, None, 1)
    joined = distributed.Ranks(job.run, [], model.profile.llm.dtype)
    optimiser, schedule = optimiser_and_schedule(
        trained_parts(model, job.settings), job.settings, 1000
    )
    scaler = joined.accelerator.scaler
    record = {
        "seed": 0,
        "stage": number,
        "steps": 1000,
        "init": None,
        "data": {},
        "profile": model.profile.model_dump(mode="json"),
    }
    # No dataset: this step is the only one.
    data: Any = SimpleNamespace(cut=set(), left_out=set())
    rows = job.settings.batch_size
    state = TrainingState(model, optimiser, schedule, scaler, data, None, record, rows)
    shares = dict.fromkeys(["text", *batch.signals_at], 1.0)
    step = Step(["synthetic"], batch.ids.numel(), [(batch, shares)])
    return Kit(job, state, joined.accelerator), step
