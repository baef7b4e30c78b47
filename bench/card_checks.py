"""Sections of `gpu.py` that ask whether a card computes what a CPU does, and recovers from what goes wrong on one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import accelerate
import bitsandbytes as bnb
import diffusers
import numpy as np
import peft
import torch
import transformers
from card import (
    DEVICE,
    Options,
    batch_for,
    computing_in,
    free,
    kit_on,
    limit_memory,
    small_profile,
)
from record import machine, medians
from torch.nn import functional as F

from anytoany_lib.config import Profile, resolve
from anytoany_lib.decoders.pipelines import Decoder
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.generation.decoding import decode, read_prompts
from anytoany_lib.generation.kv_cache import PrefixCache
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld import draw
from anytoany_lib.training.setup import trained_parts

CUDA = DEVICE.type == "cuda"
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Length of the difference over the length of the reference."""
    found, reference = found.detach().double().cpu(), reference.detach().double().cpu()
    return ((found - reference).norm() / reference.norm()).item()


def cosine(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Cosine of two tensors as vectors."""
    pair = (found.detach().double().cpu().flatten(), reference.detach().double().cpu().flatten())
    return F.cosine_similarity(*pair, dim=0).item()


def four_bits(options: Options) -> None:
    """Versions, bytes of the CUDA context, and a product with NF4 weights beside the same with the weights they stand for."""
    modules = (torch, transformers, diffusers, peft, bnb, accelerate)
    options.note("versions", {m.__name__: m.__version__ for m in modules})
    if CUDA:
        before = torch.cuda.mem_get_info()
        torch.zeros(1, device=DEVICE) @ torch.zeros(1, device=DEVICE)
        (torch.zeros(8, 8, device=DEVICE) @ torch.zeros(8, 8, device=DEVICE)).sum().item()
        left, whole = torch.cuda.mem_get_info()
        options.note(
            "context",
            {
                "card": machine(),
                "whole_gb": whole / 1e9,
                "taken_gb": (whole - left - torch.cuda.memory_reserved()) / 1e9,
                "taken_at_first_gb": (whole - before[0]) / 1e9,
                "capability": torch.cuda.get_device_capability(),
            },
        )
    width = 4096 if CUDA else 256
    generator = torch.Generator().manual_seed(0)
    weight = 0.02 * torch.randn(width, width, generator=generator)
    for name, dtype in TYPES.items():
        options.note(name, four_bit_products(weight, dtype))


def four_bit_products(weight: torch.Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """By the number of rows that are multiplied: distances of product and gradient, and seconds of both ways."""
    width = len(weight)
    layer = bnb.nn.Linear4bit(
        width, width, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True
    )
    layer.weight = bnb.nn.Params4bit(
        weight.to(dtype), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer.support_avx512bf16_for_cpu = False
    layer = layer.to(DEVICE)
    twin = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    found: dict[str, Any] = {"quantisation": distance(twin, weight)}
    for rows in (1, 4, 64, 512):
        x = torch.randn(rows, width, device=DEVICE, dtype=dtype)
        exact = x.double() @ twin.double().T
        with torch.inference_mode():
            product, plain = layer(x), F.linear(x, twin)
            seconds = medians(
                lambda x=x: layer(x), lambda x=x: F.linear(x, twin), rounds=20, warmup=3
            )
        asked, pushed = x.clone().requires_grad_(), torch.randn_like(x)
        layer(asked).backward(pushed)
        found[str(rows)] = {
            "distance": distance(product, exact),
            "distance of its twin": distance(plain, exact),
            "gradient": distance(asked.grad, pushed.double() @ twin.double()),
            "seconds": seconds[0],
            "seconds of its twin": seconds[1],
        }
    return found


def _passed(
    model: AnyToAny, batch: Any
) -> tuple[torch.Tensor, dict[str, float], dict[str, torch.Tensor]]:
    """Hidden states at real tokens, losses, and gradients of what is trained, by name."""
    batch = batch.to(model.device)
    with torch.no_grad():
        inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
        hidden = model.hidden_states(inputs, batch.mask, use_cache=False)[batch.mask.bool()]
    model.zero_grad()
    losses = model(batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return hidden, {name: loss.item() for name, loss in losses.items()}, gradients


def _small_model(options: Options, quantization: str, dtype: str, device: torch.device) -> AnyToAny:
    profile = computing_in(small_profile(options.own, quantization), dtype)
    return AnyToAny.from_profile(profile, seed=0, device=device)


def same_numbers(options: Options) -> None:
    """A small random model on the device in every type, beside the CPU in float32: hidden states, losses, gradients."""
    torch.backends.cuda.matmul.allow_tf32 = False
    reference = _small_model(options, "none", "float32", torch.device("cpu"))
    stage = reference.profile.stages[3]
    torch.manual_seed(0)
    batch = batch_for(reference, stage, 64)
    _trainable(reference, stage)
    # What is trained: the language model's own weights are in 4 bits or in another type.
    own = {
        k: v.clone()
        for k, v in reference.state_dict().items()
        if "lora_" in k or not k.startswith("llm.")
    }
    wanted = _passed(reference, batch)
    cases = [("none", dtype) for dtype in ("float32", "bfloat16", "float16")]
    cases += [("nf4", dtype) for dtype in (("bfloat16", "float16") if CUDA else ("float32",))]
    for quantization, dtype in cases:
        name = f"{quantization} {dtype}"
        model = _small_model(options, quantization, dtype, DEVICE)
        _trainable(model, stage)
        model.load_state_dict(own, strict=False)
        hidden, losses, gradients = _passed(model, batch)
        options.note(
            name,
            {
                "hidden states": distance(hidden, wanted[0]),
                "losses": {k: [v, wanted[1][k]] for k, v in losses.items()},
                "least cosine of a gradient": min(
                    cosine(g, wanted[2][k]) for k, g in gradients.items() if wanted[2][k].norm() > 0
                ),
                "finite": all(bool(torch.isfinite(g).all()) for g in gradients.values()),
                "padding": _left_padding(model),
            },
        )
        del model
        free()
    _same_media(options)


def _trainable(model: AnyToAny, stage: Any) -> None:
    torch.manual_seed(1)
    trained_parts(model, stage)
    model.eval()  # without LoRA's dropout
    with torch.no_grad():  # LoRA begins with zeros, whose gradients would say little
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(
                    0.02
                    * torch.randn(
                        parameter.shape, generator=torch.Generator().manual_seed(len(name))
                    )
                )


@torch.inference_mode()
def _left_padding(model: AnyToAny) -> float:
    """How far the last hidden states of prompts in one left-padded batch are from those of each alone."""
    texts = [
        "Hi.",
        "Draw me a red bell, please, and let it ring.",
        "A bird that sings in the morning sun",
    ]
    prompts = [
        model.messages.encode(
            [{"role": "user", "content": [{"type": "text", "text": t}]}], prompt=True
        )
        for t in texts
    ]
    together, _ = read_prompts(model, prompts, PrefixCache())
    alone = torch.cat([read_prompts(model, [prompt], PrefixCache())[0] for prompt in prompts])
    return distance(together, alone)


@torch.inference_mode()
def _same_media(options: Options) -> None:
    """The tiny encoder in half precision and the tiny picture decoder from fixed latents, beside the CPU in float32."""
    profile = small_profile(options.own)
    rng = np.random.default_rng(0)
    pictures = [draw("bell", "red", rng), draw("boat", "blue", rng)]
    folder = resolve(profile.encoder.folder)
    wanted = ImageBind.from_checkpoint(folder, ("vision",)).embed("image", pictures)
    types = (torch.float32, torch.float16) if CUDA else (torch.float32,)
    for dtype in types:
        found = (
            ImageBind.from_checkpoint(folder, ("vision",), dtype)
            .to(DEVICE)
            .embed("image", pictures)
        )
        options.note(f"encoder {dtype}", {"cosines": F.cosine_similarity(found, wanted).tolist()})
    noise = [torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=d) for d in types]
    options.note("noise of one seed", {str(n.dtype): distance(n, noise[0]) for n in noise})
    reference = _pictures(profile, torch.device("cpu"), torch.float32)
    for dtype in types:
        off = np.abs(_pictures(profile, DEVICE, dtype) - reference).mean()
        options.note(f"pictures {dtype}", {"mean difference in 255ths": 255 * off})


def _pictures(profile: Profile, device: torch.device, dtype: torch.dtype) -> np.ndarray:
    """Two pictures of the tiny decoder as floats (2, H, W, 3), from conditions and latents that are always the same."""
    config = profile.decoders["image"]
    decoder = Decoder(config, device, dtype)
    unet, generator = decoder.pipeline.unet.config, torch.Generator().manual_seed(0)
    condition = torch.randn(2, *config.condition, generator=generator)
    latents = torch.randn(2, unet.in_channels, *(unet.sample_size,) * 2, generator=generator)
    made = decoder.pipeline(
        **decoder._conditions(condition),
        latents=latents.to(device, dtype),
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        output_type="np",
        **config.options,
    )
    return made[0]


def half_precision(options: Options) -> None:
    """Float16 with a scaled loss, as a T4 trains: steps, an overflow, a checkpoint gone on from, memory that runs out."""
    if CUDA:
        limit_memory(6)
    torch.manual_seed(0)
    model = _small_model(options, "nf4", "float16" if CUDA else "float32", DEVICE)
    batch = batch_for(model, model.profile.stages[3], 64)
    with tempfile.TemporaryDirectory() as folder:
        kit, read = kit_on(model, 3, batch, Path(folder))
        losses = []
        for _ in range(8):
            kit.take(read)
            losses.append({k: round(v, 4) for k, v in kit.state.first.items()})
        scaler = kit.state.scaler
        rate = kit.state.schedule.get_last_lr()[0]
        options.note(
            "steps", {"scale": scaler and scaler.get_scale(), "rate": rate, "first": losses[0]}
        )
        if scaler:
            _overflow(options, kit, read)
        _gone_on_from(options, kit, read, model, batch, Path(folder))
    if CUDA:
        _paged_optimiser(options, model, batch)
        _out_of_memory(options, model)


def _overflow(options: Options, kit: Any, read: Any) -> None:
    """A scale under which every gradient is infinite: the step must leave weights and schedule alone."""
    scaler = kit.state.scaler
    kept = scaler.get_scale()
    scaler._scale.fill_(2.0**60)
    trained = [p for group in kit.optimiser.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in trained]
    rate, at = kit.state.schedule.get_last_lr()[0], kit.state.schedule.last_epoch
    kit.take(read)
    options.note(
        "overflow",
        {
            "weights unchanged": all(
                torch.equal(a, b) for a, b in zip(before, trained, strict=True)
            ),
            "scale": [2.0**60, scaler.get_scale()],
            "schedule moved by": kit.state.schedule.last_epoch - at,
            "rate": [rate, kit.state.schedule.get_last_lr()[0]],
            "step_was_skipped": bool(kit.optimiser.step_was_skipped),
        },
    )
    scaler._scale.fill_(kept)


def _gone_on_from(
    options: Options, kit: Any, read: Any, model: AnyToAny, batch: Any, run: Path
) -> None:
    """Two steps after a checkpoint, and the same two after it is loaded: how far the weights are apart."""
    started = time.perf_counter()
    kit.state.save(run)
    seconds = time.perf_counter() - started
    trained = [p for group in kit.optimiser.param_groups for p in group["params"]]
    for _ in range(2):
        kit.take(read)
    first = [p.detach().clone() for p in trained]
    kit.state.load(run)
    for _ in range(2):
        kit.take(read)
    apart = max(distance(b, a) for a, b in zip(first, trained, strict=True))
    options.note("checkpoint", {"seconds": seconds, "apart after two steps": apart})


def _paged_optimiser(options: Options, model: AnyToAny, batch: Any) -> None:
    stages = {
        n: s.model_copy(update={"optimiser": "paged-adamw-8bit"})
        for n, s in model.profile.stages.items()
    }
    model.profile = model.profile.model_copy(update={"stages": stages})
    kit, read = kit_on(model, 3, batch)
    trained = [p for group in kit.optimiser.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in trained]
    for _ in range(3):
        kit.take(read)
    moved = sum(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    finite = all(bool(torch.isfinite(p).all()) for p in trained)
    options.note("paged 8-bit AdamW", {"tensors moved": [moved, len(trained)], "finite": finite})


def _out_of_memory(options: Options, model: AnyToAny) -> None:
    """A step and a reply for which there is no memory: what is raised, and whether the next ones succeed."""
    free()
    stage = model.profile.stages[3]
    kit, _ = kit_on(model, 3, batch_for(model, stage, 64))
    wide = stage.model_copy(update={"batch_size": 64})
    limit_memory(torch.cuda.memory_allocated() / 1e9 + 0.7)
    found: dict[str, Any] = {}
    large = batch_for(model, wide, 900)
    try:
        kit.take(kit_on(model, 3, large)[1])
        found["a step of 64 x 900"] = "fitted"
    except Exception as error:
        found["a step of 64 x 900"] = f"{type(error).__name__}: {error}"[:300]
    model.zero_grad()
    del large
    free()
    small = batch_for(model, stage, 64)
    kit, read = kit_on(model, 3, small)
    kit.take(read)
    found["then a step of 4 x 64"] = "done"
    words = [{"role": "user", "content": [{"type": "text", "text": "bell " * 60_000}]}]
    prompt = model.messages.encode(words, prompt=True)
    model.eval()
    try:
        for _ in decode(model, [prompt] * 24, Sampling(max_new_tokens=4, kinds=()), [0] * 24):
            pass
        found["24 replies to 60,000 words"] = "fitted"
    except Exception as error:
        found["24 replies to 60,000 words"] = f"{type(error).__name__}: {error}"[:300]
    words[0]["content"][0]["text"] = "bell"
    prompt = model.messages.encode(words, prompt=True)
    drawn = list(decode(model, [prompt], Sampling(max_new_tokens=4, kinds=()), [0]))
    found["then a reply to one word"] = len(drawn)
    options.note("out of memory", found)


_LAUNCHED = """
import sys, torch
sys.path.insert(0, {bench!r})
from pathlib import Path
from card import batch_for, kit_on, small_profile
from anytoany_lib.model import AnyToAny
from anytoany_lib.generation.kv_cache import PrefixCache
from anytoany_lib.training.distributed import Ranks
joined = Ranks(Path(), [], "auto")
model = AnyToAny.from_profile(small_profile(Path({scratch!r}), "nf4"), seed=0)
kit, read = kit_on(model, 3, batch_for(model, model.profile.stages[3], 64))
if joined.sharded:
    kit.wrapped, kit.optimiser = joined.prepare(model, kit.state.optimiser)
for _ in range(3):
    kit.take(read)
print("RESULT", joined.accelerator.distributed_type, torch.distributed.get_backend(), kit.state.first)
"""


def processes(options: Options) -> None:
    """One process under torchrun, as every card of a lab runs: DDP, then FSDP2."""
    script = options.scratch / "launched.py"
    options.scratch.mkdir(parents=True, exist_ok=True)
    bench = str(Path(__file__).parent)
    script.write_text(_LAUNCHED.format(bench=bench, scratch=str(options.own)))
    small_profile(options.own, "nf4")
    for name, asked in {
        "DDP": {},
        "FSDP2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    }.items():
        started = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "1",
            str(script),
        ]
        try:
            done = subprocess.run(
                command,
                env=os.environ | asked,
                capture_output=True,
                text=True,
                timeout=80,
                check=False,
            )
            said = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
            errors = [line for line in done.stderr.splitlines() if "Error: " in line]
            found = said or errors or done.stderr.strip().splitlines()[-30:]
        except subprocess.TimeoutExpired as error:
            found = [f"no end within {error.timeout} s"]
        options.note(name, {"said": found, "seconds": time.perf_counter() - started})
