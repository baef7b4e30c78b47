"""How few diffusion steps the tiny decoders need: solver, steps and guidance beside what the toy world's judges find right.

    python bench/few_steps.py [--kinds image,audio,video --captions 192 --threads 1 --seed 0]

A decoder is told true captions, half of them of pairs that no training has shown; the judges say how many things, colours, motions
and so on came out. A form is SOLVER-STEPS, with "-gN" another guidance scale, and with "-lastN" without guidance in the last N
steps, where a UNet is asked for one medium instead of two. Seconds are of the processor for one medium of a batch. Results go to
bench/results/few-steps-MACHINE.json.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from record import keep, machine
from tqdm import tqdm

from anytoany_lib.config import Profile, resolve
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.decoders.pipelines import Decoder
from anytoany_lib.llm import pick_device
from anytoany_lib.system import terminal
from anytoany_lib.toyworld.judges import Judges, load_judges
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.scenes import Scene, random_scene

SOLVERS = {
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "ddim": DDIMScheduler,
}
FORMS = {
    "image": ("dpm-14", "dpm-10", "dpm-8", "dpm-6", "dpm-8-last4", "unipc-6", "ddim-8"),
    "audio": ("dpm-12", "dpm-8", "dpm-6", "dpm-8-last4", "unipc-6", "ddim-8"),
    "video": ("dpm-8", "dpm-6", "dpm-5", "dpm-6-last3", "unipc-5", "ddim-6"),
}
FORM = re.compile(r"(\w+?)-(\d+)(?:-g([\d.]+))?(?:-last(\d+))?")
BATCH = 16


@contextmanager
def without_guidance(decoder: Decoder, last: int) -> Iterator[None]:
    """In the last steps the UNet sees each medium with its condition alone, and says so for both halves of the batch."""
    unet = decoder.pipeline.unet
    own, called = unet.forward, 0

    def forward(sample: torch.Tensor, *given: Any, **named: Any) -> Any:
        nonlocal called
        called += 1
        if called <= len(decoder.pipeline.scheduler.timesteps) - last:
            return own(sample, *given, **named)
        half = len(sample) // 2
        told = {n: v[half:] if _of_batch(v, sample) else v for n, v in named.items()}
        found = own(sample[half:], *given, **told)
        both = torch.cat([found[0], found[0]])
        return (both,) if isinstance(found, tuple) else type(found)(sample=both)

    unet.forward = forward
    try:
        yield
    finally:
        unet.forward = own


def _of_batch(value: Any, sample: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == len(sample)


def scenes_of(kind: str, count: int, seed: int) -> list[Scene]:
    """Scenes by a seed, every other one of a pair that is held out of training where the kind has such."""
    rng = np.random.default_rng([seed, len(kind)])
    return [random_scene(kind, rng, bool(n % 2) and kind != "audio") for n in range(count)]


def drawn(
    decoder: Decoder, form: str, conditions: torch.Tensor, seed: int
) -> tuple[list[Any], float]:
    """The media of conditions in a form, and seconds of the processor for each."""
    parts = FORM.fullmatch(form)
    if not parts or parts[1] not in SOLVERS:
        raise ValueError(
            f"{form!r} is no form: expected SOLVER-STEPS[-gSCALE][-lastN], SOLVER of {', '.join(SOLVERS)}"
        )
    steps, guidance = int(parts[2]), parts[3] and float(parts[3])
    kept = decoder.pipeline.scheduler
    decoder.pipeline.scheduler = SOLVERS[parts[1]].from_config(kept.config)
    media, started = [], time.process_time()
    try:
        for at in tqdm(range(0, len(conditions), BATCH), form, leave=False):
            batch = conditions[at : at + BATCH]
            seeds = range(seed + at, seed + at + len(batch))
            with without_guidance(decoder, int(parts[4] or 0)):
                made = decoder.generate(batch, seeds, steps=steps, guidance=guidance)
            media += [
                next(part[k] for k in ("image", "audio", "video") if k in part) for part in made
            ]
    finally:
        decoder.pipeline.scheduler = kept
    return media, (time.process_time() - started) / len(conditions)


def measure(
    profile: Profile, judges: Judges, kind: str, count: int, seed: int, forms: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """For every form what the judges find right, all that was asked of a medium among it, and seconds of one."""
    scenes, device = scenes_of(kind, count, seed), pick_device()
    conditions = CaptionEncoder(profile.decoders[kind], device)([caption(kind, s) for s in scenes])
    decoder, found = Decoder(profile.decoders[kind], device), {}
    for form in forms:
        media, seconds = drawn(decoder, form, conditions, seed)
        right = judges.judge(kind, media, scenes)
        rates = {
            name: float(np.nanmean(row)) for name, row in right.items() if not np.isnan(row).all()
        }
        whole = np.nanmin(np.stack([row for name, row in right.items() if name in rates]), axis=0)
        found[form] = rates | {"all": float(whole.mean()), "seconds": seconds}
        print(kind, form, found[form], flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--kinds", default=",".join(FORMS))
    parser.add_argument(
        "--forms", help="with commas, for all kinds; those of a list for each if left out"
    )
    parser.add_argument("--captions", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    profile = Profile.load(options.profile)
    judges = load_judges(resolve(profile.judges_folder))
    result: dict[str, Any] = {"machine": machine(), "date": date.today().isoformat()}
    result |= {"profile": profile.name, "captions": options.captions, "seed": options.seed}
    for kind in options.kinds.split(","):
        forms = tuple(options.forms.split(",")) if options.forms else FORMS[kind]
        result[kind] = measure(profile, judges, kind, options.captions, options.seed, forms)
        rows = [
            {"form": form, **{k: f"{v:.3f}" for k, v in one.items()}}
            for form, one in result[kind].items()
        ]
        print(f"{kind}\n{terminal.table(rows)}", flush=True)
    keep(result, "few-steps")


if __name__ == "__main__":
    main()
