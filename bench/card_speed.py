"""Sections of `gpu.py` that time and weigh what a user waits for, beside the bare libraries."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from card import (
    DEVICE,
    WORDS,
    Options,
    batch_for,
    computing_in,
    free,
    kit_on,
    limit_memory,
    measured,
)
from record import medians, synchronise
from steps import bare_step

from anytoany_lib.config import resolve
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import prepare
from anytoany_lib.generation.decoding import decode
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld import draw, film, sound

CUDA = DEVICE.type == "cuda"
STEPS, WARMUP = (6, 2) if CUDA else (1, 0)
NEW_TOKENS = 32 if CUDA else 8


def _loaded(options: Options, dtype: str = "") -> AnyToAny:
    """The profile's untrained model, on a card that has as much memory as `options.cap` says."""
    limit_memory(options.cap)
    loading: dict[str, Any] = {}
    with measured(loading):
        model = AnyToAny.from_profile(computing_in(options.profile, dtype or options.dtype), seed=0)
    if CUDA:
        loading["kept_gb"] = round(torch.cuda.memory_allocated() / 1e9, 3)
    options.note("loading", loading | {"dtype": str(model.causal_lm.dtype)})
    return model


def training(options: Options) -> None:
    """Every stage on one loaded language model: seconds of a step, tokens a second, ratios to bare steps, memory."""
    model = _loaded(options)
    for number in options.profile.stages:
        _stage(options, model, number, options.tokens)
    _stage(options, model, max(options.profile.stages), 4 * options.tokens)


def training_in_float16(options: Options) -> None:
    """Stage 3 once more in float16 with a scaled loss, which is what a T4 has."""
    model = _loaded(options, "float16" if CUDA else "float32")
    _stage(options, model, max(options.profile.stages), options.tokens)


def _stage(options: Options, model: AnyToAny, number: int, tokens: int) -> None:
    stage = options.profile.stages[number]
    batch = batch_for(model, stage, tokens)
    kit, read = kit_on(model, number, batch)
    bares = {"everywhere": bare_step(model), "where learnt": bare_step(model, everywhere=False)}
    found: dict[str, Any] = {"batch": list(batch.ids.shape)}
    with measured(found):  # the optimiser's moments are there from the second step on
        kit.take(read)
        kit.take(read)
    for name, bare in bares.items():
        alone: dict[str, Any] = {}
        with measured(alone):
            bare(read)
        found[f"bare, logits {name}"] = alone
    works = [partial(take, read) for take in (kit.take, *bares.values())]
    times = medians(*works, rounds=STEPS, warmup=WARMUP)
    found["step_seconds"] = times[0]
    found["tokens_per_second"] = round(batch.ids.numel() / times[0])
    for name, seconds in zip(bares, times[1:], strict=True):
        found[f"ratio to bare, logits {name}"] = round(times[0] / seconds, 3)
    options.note(f"stage {number}, {tokens} tokens", found)
    del kit, bares, works, batch, read
    model.zero_grad()
    free()


@torch.inference_mode()
def talking(options: Options) -> None:
    """Tokens a second: reading a long prompt, writing alone and sixteen at once, beside bare `generate`; with LoRA first."""
    model = _loaded(options)
    model.add_lora()
    model.requires_grad_(False).eval()
    _rates(options, model, "with LoRA")
    model_profile = model.profile
    del model
    free()
    model = AnyToAny.from_profile(model_profile, seed=0)
    model.requires_grad_(False).eval()
    _rates(options, model, "without LoRA")


def _rates(options: Options, model: AnyToAny, name: str) -> None:
    long = model.profile.llm.context - NEW_TOKENS
    for what, words, rows, new in (
        (f"writing {NEW_TOKENS}", 32, 1, NEW_TOKENS),
        (f"reading {long}", long, 1, 1),
        (f"16 at once, writing {NEW_TOKENS}", 32, 16, NEW_TOKENS),
    ):
        prompt = _prompt(model, words)
        kit = partial(_written, model, prompt, rows, new)
        bare = partial(_generated, model, prompt, rows, new)
        found: dict[str, Any] = {"rows": rows, "tokens of the prompt": len(prompt.ids)}
        with measured(found):
            lengths = kit(), bare()
        times = medians(kit, bare, rounds=2 if CUDA else 1)
        tokens = lengths if new > 1 else (len(prompt.ids),) * 2
        found["tokens_per_second"] = round(tokens[0] / times[0], 1)
        found["of bare generate"] = round(tokens[1] / times[1], 1)
        options.note(f"{name}: {what}", found)


def _prompt(model: AnyToAny, tokens: int) -> Any:
    count = 1

    def encoded(count: int) -> Any:
        text = " ".join((WORDS * count).split()[:count])
        turn = {"role": "user", "content": [{"type": "text", "text": text}]}
        return model.messages.encode([turn], prompt=True)

    while len(encoded(count + 1).ids) <= tokens:
        count += 1
    return encoded(count)


def _written(model: AnyToAny, prompt: Any, rows: int, new: int) -> int:
    sampling = Sampling(max_new_tokens=new, kinds=())
    drafts = {row: draft for row, draft, _ in decode(model, [prompt] * rows, sampling, [0] * rows)}
    return sum(draft.length for draft in drafts.values())


def _generated(model: AnyToAny, prompt: Any, rows: int, new: int) -> int:
    ids = torch.tensor([prompt.ids] * rows, device=model.device)
    made = model.llm.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )
    return int((made.shape[1] - ids.shape[1]) * rows)


def _media() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": draw("bell", "red", rng),
        "audio": sound("bell", rng),
        "video": film("bell", "red", "left", rng),
    }


@torch.inference_mode()
def features(options: Options) -> None:
    """The encoder on media of each kind: seconds a batch, media a second, memory, by batch and type."""
    limit_memory(options.cap)
    path = resolve(options.profile.encoder.folder)
    for dtype in (torch.float16, torch.float32) if CUDA else (torch.float32,):
        loading: dict[str, Any] = {}
        with measured(loading):
            encoder = ImageBind.from_checkpoint(path, ("vision", "audio"), dtype).to(DEVICE)
        options.note(f"loading {dtype}", loading)
        kept = {}
        for kind, medium in _media().items():
            one = prepare(encoder.config, kind, media_files.as_media(kind, medium))
            for batch in (1, 8, 32) if CUDA else (1,):
                stacked = torch.stack([one] * batch)
                found: dict[str, Any] = {}
                try:
                    encoder.embed_prepared(kind, stacked)
                    with measured(found):
                        kept[kind] = encoder.embed_prepared(kind, stacked)
                    found["a second"] = round(batch / found["seconds"], 1)
                except torch.OutOfMemoryError as error:
                    found["out of memory"] = str(error)[:120]
                options.note(f"{kind} x {batch} {dtype}", found)
        del encoder
        free()


@torch.inference_mode()
def chat(options: Options) -> None:
    """A turn that shows every medium and makes every medium, twice; what each part of it takes, and the bare pipelines."""
    model = _loaded(options)
    model.requires_grad_(False).eval()
    parts = [{"type": kind, kind: medium} for kind, medium in _media().items()]
    asked = [*parts, {"type": "text", "text": WORDS}]
    for turn in ("first turn", "second turn"):
        prompt = model.messages.encode([{"role": "user", "content": asked}], prompt=True)
        reading: dict[str, Any] = {}
        with measured(reading):
            model.media_models._embeddings.clear()
            model.embed_media([(kind, medium) for kind, medium, _ in prompt.media])
        options.note(f"{turn}: reading media", reading)
        writing: dict[str, Any] = {}
        with measured(writing):
            drafts = list(decode(model, [prompt], Sampling(max_new_tokens=32, kinds=()), [0]))
        options.note(f"{turn}: writing", writing | {"tokens": drafts[-1][1].length})
        for kind in options.profile.decoders:
            options.note(f"{turn}: making {kind}", _made(model, kind))
    for kind in options.profile.decoders:
        options.note(f"bare {kind}", {"seconds": bare_pipeline(model, kind)})


def _made(model: AnyToAny, kind: str) -> dict[str, Any]:
    """Loading, moving and the first step; the other steps; the autoencoder: seconds apart, and memory together."""
    config = model.profile.decoders[kind]
    states = torch.randn(1, config.signals, model.token_rows.input.shape[1]).to(DEVICE)
    condition = model.project(kind, states)
    times: list[float] = []

    def on_step(done: int, total: int, shown: Any) -> None:
        synchronise()
        times.append(time.perf_counter())

    found: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        with measured(found):
            model.render(kind, condition, [0], None, None, on_step)
    except (RuntimeError, ValueError) as error:
        found["error"] = f"{type(error).__name__}: {error}"[:300]
    ended = time.perf_counter()
    if not times:
        return found
    return found | {
        "until the first step": round(times[0] - started, 3),
        "a step": round((times[-1] - times[0]) / max(1, len(times) - 1), 4),
        "steps": len(times),
        "after the last step": round(ended - times[-1], 3),
    }


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

    return round(model.media_models._residence.run(kind, decoder, call), 3)
