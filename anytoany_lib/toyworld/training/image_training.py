"""Trains the tiny image decoder: captions -> pictures of 64 x 64 pixels, as a StableDiffusionPipeline.

In turn: caption tokenizer and text encoder (`text_encoder`), an autoencoder that reduces pictures and film frames
fourfold to 4 x 16 x 16 latents, and a UNet that draws latents from captions. Run as
`python -m anytoany_lib.toyworld.training.image_training --out ckpt/tiny/image`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from anytoany_lib.toyworld.scenes import Scene, random_scene, render
from anytoany_lib.toyworld.training.autoencoder import latents_of, polish_decoder, train_autoencoder
from anytoany_lib.toyworld.training.diffusion import (
    fast_scheduler,
    load_frozen,
    note_training,
    save_pipeline,
    train_unet,
)
from anytoany_lib.toyworld.training.pace import Pace
from anytoany_lib.toyworld.training.text_encoder import (
    WIDTH,
    caption_tokenizer,
    conditions,
    longest,
    random_captions,
    train_text_encoder,
)

LATENT = 16
CHANNELS = (64, 96, 112)
HEAD = 16
GROUPS = 16
PARTS = ("text", "vae", "unet", "decoder")


def rendered(kind: str, count: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    """A fixed set of pictures (N, 64, 64, 3) or films (N, 8, 64, 64, 3), uint8, and the scenes they show."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(kind, rng) for _ in range(count)]
    bar = tqdm(scenes, desc=f"rendering {kind}", mininterval=5)
    return np.stack([np.asarray(render(kind, scene, rng)) for scene in bar]), scenes


def new_unet(seed: int = 0) -> UNet2DConditionModel:
    """An untrained UNet that takes (B, 4, 16, 16) latents and (B, 16, 128) conditions."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(width // HEAD for width in CHANNELS),
        use_linear_projection=True,
    )


def image_pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """The parts as one pipeline, without a safety checker: it can draw nothing but the toy world."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=fast_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sheet(pictures: Sequence[Image.Image | np.ndarray], columns: int = 8) -> Image.Image:
    """Pictures of one size side by side, row by row."""
    arrays = [np.asarray(picture) for picture in pictures]
    rows = [
        np.concatenate(arrays[i : i + columns], axis=1)
        for i in range(0, len(arrays) - columns + 1, columns)
    ]
    return Image.fromarray(np.concatenate(rows, axis=0))


def prepare_text(pace: Pace, seed: int) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Tokenizer and trained text encoder; prints what they were found to do."""
    tokenizer = caption_tokenizer(seed)
    count, text = longest(tokenizer, random_captions(5000, np.random.default_rng(seed + 3)))
    print(f"vocabulary {len(tokenizer)}; longest caption: {count} tokens, {text!r}", flush=True)
    encoder, named = train_text_encoder(tokenizer, pace, seed)
    print("text encoder names:", {name: round(rate, 3) for name, rate in named.items()}, flush=True)
    return tokenizer, encoder


def load_image_pipeline(path: Path) -> StableDiffusionPipeline:
    """A saved image decoder; see `training.load_frozen`."""
    return load_frozen(StableDiffusionPipeline, path)


def with_film_frames(pictures: np.ndarray, seed: int) -> np.ndarray:
    """Pictures (N, 64, 64, 3) and about half as many frames of films: what the autoencoder has to carry."""
    films, _ = rendered("video", max(8, len(pictures) // 16), seed + 1)
    return np.concatenate([pictures, films.reshape(-1, *pictures.shape[1:])])


def train_image_decoder(
    out: Path, limits: dict[str, dict], pictures: int = 12000, seed: int = 0
) -> StableDiffusionPipeline:
    """Trains the parts named in `limits` (of `PARTS`, with Pace arguments), takes the others from `out`.

    The last part, "decoder", trains the autoencoder's decoding half on. The pipeline is saved under `out` after each
    part, and every few minutes while the UNet is trained.
    """
    old: Any = None if {"text", "vae", "unet"} <= set(limits) else load_image_pipeline(out)
    if "text" in limits:
        tokenizer, encoder = prepare_text(Pace(**limits["text"]), seed)
    else:
        tokenizer, encoder = old.tokenizer, old.text_encoder
    frames, scenes = rendered("image", pictures, seed)
    if "vae" in limits:
        vae = train_autoencoder(with_film_frames(frames, seed), Pace(**limits["vae"]), seed)
    else:
        vae = old.vae
    unet = new_unet(seed) if {"text", "vae"} & set(limits) else old.unet
    pipeline = image_pipeline(vae, encoder, tokenizer, unet)
    save = partial(save_pipeline, pipeline, out)
    save()
    if "unet" in limits:
        latents = latents_of(vae, frames) * vae.config.scaling_factor
        condition = partial(conditions, tokenizer, encoder)
        pace = Pace(**limits["unet"])
        unet.requires_grad_(True)
        train_unet("image", unet, latents, scenes, condition, pace, seed, save=save)
        save()
        note_training(out, part="U-Net", pictures=pictures, seed=seed, **pace.facts())
    if "decoder" in limits:
        polish_decoder(vae, with_film_frames(frames, seed), Pace(**limits["decoder"]), seed)
        save()
    return pipeline


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("ckpt/tiny/image"))
    limit = parser.add_mutually_exclusive_group(required=True)
    names = tuple(part.upper() for part in PARTS)
    kept = "for each part; 0 keeps the part that is in --out"
    limit.add_argument("--minutes", type=float, nargs=len(PARTS), metavar=names, help=kept)
    limit.add_argument("--steps", type=int, nargs=len(PARTS), metavar=names, help=kept)
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unit, limits = ("steps", args.steps) if args.minutes is None else ("minutes", args.minutes)
    wanted = {part: {unit: limit} for part, limit in zip(PARTS, limits, strict=True) if limit}
    train_image_decoder(args.out, wanted, args.pictures, args.seed)


if __name__ == "__main__":
    main()
