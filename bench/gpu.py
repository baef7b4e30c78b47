"""Training steps and a chat turn with every medium, timed and weighed beside the bare libraries: `make gpu-check`.

    python bench/gpu.py [--profile nextgpt-7b --cap 16 --scratch DIR --tokens 128]

Models that are absent are replaced by random ones of full size (about 23 GB below --scratch). On a CUDA card the process
may use --cap GB and no more. Results go to bench/results/CARD.json; on a CPU use profile `tiny`, or be patient.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_models import fill
from record import keep, machine, medians, synchronise
from steps import Kit, bare_step

from anytoany_lib import memory
from anytoany_lib.batches import Batch, collate
from anytoany_lib.checkpoint import Standing
from anytoany_lib.config import Profile, StageConfig
from anytoany_lib.decoding import decode
from anytoany_lib.job import Job
from anytoany_lib.llm import pick_device
from anytoany_lib.model import AnyToAny
from anytoany_lib.ranks import Ranks
from anytoany_lib.sampling import Sampling
from anytoany_lib.stage_data import Step
from anytoany_lib.toyworld import draw, film, sound
from anytoany_lib.train import optimiser_and_schedule, trained_parts

DEVICE = pick_device()
STEPS, WARMUP, NEW_TOKENS = 8, 2, 32
WORDS = "A small red bell rings twice in the tower of the old church while the birds sing. "


@contextmanager
def measured(into: dict[str, Any]):
    """Seconds and peak memory (GB on the card, and of the process) of what runs inside."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    yield
    synchronise()
    into["seconds"] = round(time.perf_counter() - started, 3)
    if DEVICE.type == "cuda":
        into["card_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    into["host_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def twice(step: Callable[[], None]) -> None:
    """Not before its second run does a step hold the optimiser's moments beside the activations."""
    step()
    step()


def talk(model: AnyToAny, stage: StageConfig, tokens: int) -> list[dict]:
    """A conversation of `tokens` tokens, as the stage reads them."""
    shown = {"type": "image", "image": torch.randn(model.profile.encoder.embedding)}
    made = [{"type": kind, "caption": kind} for kind in model.profile.decoders]
    asked = [{"type": "text", "text": "Make it."}]
    reads, writes = {
        "comprehension": ([shown], []),
        "generation": (asked, made[:1]),
        "instructions": ([shown, *asked], made[:1]),
    }[stage.reads]

    def with_words(count: int) -> list[dict]:
        text = " ".join((WORDS * count).split()[:count])
        return [
            {"role": "user", "content": reads},
            {"role": "assistant", "content": [{"type": "text", "text": text}, *writes]},
        ]

    count = 1
    while len(model.messages.encode(with_words(count)).ids) < tokens:
        count += 1
    return with_words(count)


def batch_for(model: AnyToAny, stage: StageConfig, tokens: int) -> Batch:
    """The stage's batch of such conversations, on the device."""
    encoded = model.messages.encode(talk(model, stage, tokens))

    def target(kind: str, _: str) -> torch.Tensor:
        return torch.randn(model.profile.decoders[kind].condition)

    width = model.profile.encoder.embedding
    return collate([encoded] * stage.batch_size, lambda _, m: m, target, width).to(DEVICE)


def kit_on(model: AnyToAny, number: int, batch: Batch) -> tuple[Kit, Step]:
    """The kit's training of a stage, and the step that has the batch in it alone."""
    job = Job(model.profile, number, Path(), Path(), None, 0, None, 1)
    ranks = Ranks(job.run, [])
    optimiser, schedule = optimiser_and_schedule(
        trained_parts(model, job.settings), job.settings, 1000
    )
    scaler, record = ranks.accelerator.scaler, {"seed": 0, "stage": number}
    # No dataset: this step is the only one.
    standing = Standing(model, optimiser, schedule, scaler, None, None, None, record)
    shares = dict.fromkeys(["text", *batch.signals_at], 1.0)
    step = Step(["synthetic"], batch.ids.numel(), [(batch, shares)])
    return Kit(job, standing, ranks.accelerator), step


def training(profile: Profile, tokens: int) -> dict[str, Any]:
    """Every stage: seconds of a step, tokens a second, the ratio to the bare step, and memory."""
    results = {}
    for number, stage in profile.stages.items():
        loading: dict[str, Any] = {}
        with measured(loading):
            model = AnyToAny.from_profile(profile, seed=0)
        batch = batch_for(model, stage, tokens)
        found: dict[str, Any] = {"batch": list(batch.ids.shape), "loading": loading}
        kit, read = kit_on(model, number, batch)
        step = partial(kit.take, read)
        bare: dict[str, Any] = {}
        with measured(bare):  # its optimiser is gone before the kit's first step
            twice(partial(bare_step(model), read))
        with measured(found):
            twice(step)
        times = medians(step, partial(bare_step(model), read), rounds=STEPS, warmup=WARMUP)
        found["step_seconds"], found["bare_step_seconds"] = times
        found["tokens_per_second"] = round(batch.ids.numel() / found["step_seconds"])
        found["ratio"] = round(found["step_seconds"] / found["bare_step_seconds"], 3)
        found["bare_card_gb"] = bare.get("card_gb")
        results[f"stage {number}"] = found
        del model, batch, kit, read, step
    return results


def _media() -> list[tuple[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        ("image", draw("bell", "red", rng)),
        ("audio", sound("bell", rng)),
        ("video", film("bell", "red", "left", rng)),
    ]


@torch.inference_mode()
def chat(profile: Profile) -> dict[str, Any]:
    """A turn that shows every medium and makes every medium, on one card; a second round loads nothing."""
    model = AnyToAny.from_profile(profile, seed=0)
    model.requires_grad_(False).eval()
    parts = [{"type": kind, kind: medium} for kind, medium in _media()]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": WORDS}]}]
    results: dict[str, Any] = {}
    for turn in ("first", "second"):
        found: dict[str, Any] = {}
        reading: dict[str, Any] = {}
        with measured(reading):
            prompt = model.messages.encode(messages, prompt=True)
            model.embed_media([(kind, medium) for kind, medium, _ in prompt.media])
        found["reading media"] = reading
        writing: dict[str, Any] = {}
        with measured(writing):
            sampling = Sampling(max_new_tokens=NEW_TOKENS, kinds=())
            drafts = [draft for _, draft, _ in decode(model, [prompt], sampling, [0])]
        writing["tokens_per_second"] = round(drafts[-1].length / writing["seconds"], 1)
        found["writing"] = writing
        for kind, decoder in profile.decoders.items():
            making: dict[str, Any] = {}
            states = torch.randn(1, decoder.signals, model.token_rows.input.shape[1]).to(DEVICE)
            condition = model.project(kind, states)
            with measured(making):
                model.render(kind, condition, [0])
            found[f"making {kind}"] = making
        results[turn] = found
    results["bare"] = {kind: bare_pipeline(model, kind) for kind in profile.decoders}
    return results


def bare_pipeline(model: AnyToAny, kind: str) -> float:
    """Seconds of the pipeline's own call with an embedding of the same shape, its model on the card."""
    config, decoder = model.profile.decoders[kind], model.decoder(kind)
    pipeline = decoder.pipeline
    condition = torch.randn(1, *config.condition).to(DEVICE, pipeline.unet.dtype)
    arguments = {
        "prompt_embeds": condition,
        "negative_prompt_embeds": condition,
        "num_inference_steps": config.steps,
        "guidance_scale": config.guidance,
        "output_type": "pil" if kind == "image" else "np",
        **config.options,
    }

    def call() -> float:
        synchronise()
        started = time.perf_counter()
        pipeline(**arguments)
        synchronise()
        return time.perf_counter() - started

    return round(model._residence.run(kind, decoder, call), 3)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="nextgpt-7b")
    parser.add_argument("--cap", type=float, default=16, help="GB of the card that may be used")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--scratch", type=Path, help="keep random models here for the next time")
    options = parser.parse_args()
    if DEVICE.type == "cuda":
        whole = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.cap * 1e9 / whole))
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        profile, random = fill(Profile.load(options.profile), scratch)
        planned = {
            name: round(memory.peak(phase) / 1e9, 2)
            for name, phase in memory.plan(profile, options.tokens).items()
        }
        result = {
            "machine": machine(),
            "date": date.today().isoformat(),
            "profile": profile.name,
            "cap_gb": options.cap if DEVICE.type == "cuda" else None,
            "random weights": random,
            "planned_gb": planned,
            "training": training(profile, options.tokens),
            "chat": chat(profile),
        }
    keep(result, profile.name)


if __name__ == "__main__":
    main()
