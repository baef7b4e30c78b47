"""How good the tiny image and video decoders are: what judges see in what they draw, and how long they take.

Scenes go in with a trained pipeline and the judges; rates between 0 and 1 come out, for pairs of colour and thing
(or motion and thing) that were in the training and for pairs that were held out of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, TextToVideoSDPipeline
from PIL import Image

from anytoany_lib.toyworld.judges import Judges
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.scenes import Scene, random_scene, render
from anytoany_lib.toyworld.training.autoencoder import reconstructed
from anytoany_lib.toyworld.training.text_encoder import conditions

GUIDANCE = 2.0
STEPS = {"image": 16, "video": 12}


def kind_of(pipeline: DiffusionPipeline) -> str:
    """ "video" for a TextToVideoSDPipeline, otherwise "image"."""
    return "video" if isinstance(pipeline, TextToVideoSDPipeline) else "image"


@torch.inference_mode()
def drawn(
    pipeline: DiffusionPipeline,
    captions: Sequence[str],
    seed: int = 0,
    steps: int | None = None,
    guidance: float = GUIDANCE,
    batch: int = 8,
) -> list[Image.Image] | list[np.ndarray]:
    """Pictures (PIL) or films (uint8 (8, 64, 64, 3)) of captions, from embeddings, as the decoders call it."""
    kind, made = kind_of(pipeline), []
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    for start in range(0, len(captions), batch):
        texts = list(captions[start : start + batch])
        output = pipeline(
            prompt_embeds=conditions(tokenizer, encoder, texts),
            negative_prompt_embeds=conditions(tokenizer, encoder, [""] * len(texts)),
            num_inference_steps=steps or STEPS[kind],
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed + start + i) for i in range(len(texts))],
            height=64,
            width=64,
            **({"num_frames": 8, "output_type": "np"} if kind == "video" else {}),
        )
        if kind == "image":
            made.extend(output.images)
        else:
            made.extend((np.asarray(output.frames) * 255).round().astype(np.uint8))
    return made


def verdicts(
    judges: Judges, kind: str, media: Sequence[Any], scenes: Sequence[Scene]
) -> dict[str, np.ndarray]:
    """As `Judges.judge`, without what was asked of none, with "all": whether all that was asked of a medium is right."""
    found = judges.judge(kind, media, scenes)
    asked = {name: row for name, row in found.items() if not np.isnan(row).all()}
    return asked | {"all": np.nanmin(np.stack(list(asked.values())), axis=0)}


def _rates(
    judges: Judges, kind: str, media: Sequence[Any], scenes: Sequence[Scene]
) -> dict[str, float]:
    found = verdicts(judges, kind, media, scenes)
    return {name: float(np.nanmean(row)) for name, row in found.items()}


def judged(
    pipeline: DiffusionPipeline,
    judges: Judges,
    count: int = 96,
    held_out: bool = False,
    seed: int = 1000,
    **settings: Any,
) -> dict[str, float]:
    """How often each attribute, and all at once ("all"), is seen in what is drawn of plain captions."""
    kind, rng = kind_of(pipeline), np.random.default_rng(seed)
    scenes = [random_scene(kind, rng, held_out=held_out) for _ in range(count)]
    media = drawn(pipeline, [caption(kind, scene) for scene in scenes], seed, **settings)
    return _rates(judges, kind, media, scenes)


def judged_reconstructions(
    vae: AutoencoderKL, judges: Judges, count: int = 256, seed: int = 2000
) -> dict[str, float]:
    """The same for new pictures that went through the autoencoder, with the error in decibels ("psnr")."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene("image", rng) for _ in range(count)]
    frames = np.stack([np.asarray(render("image", scene, rng)) for scene in scenes])
    found = reconstructed(vae, frames)
    error = np.mean((found.astype(float) - frames) ** 2)
    rates = _rates(judges, "image", [Image.fromarray(frame) for frame in found], scenes)
    return rates | {"psnr": float(10 * np.log10(255**2 / error))}


def seconds_each(
    pipeline: DiffusionPipeline, batch: int = 1, threads: int = 1, **settings: Any
) -> float:
    """Wall-clock seconds for one picture or film when `batch` are made at once, after one run to warm up."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        texts = ["a red bell"] * batch
        drawn(pipeline, texts, steps=2, batch=batch)
        start = time.perf_counter()
        drawn(pipeline, texts, batch=batch, **settings)
        return (time.perf_counter() - start) / batch
    finally:
        torch.set_num_threads(before)
