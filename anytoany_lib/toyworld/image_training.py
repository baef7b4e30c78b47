"""Trains the tiny image decoder: captions -> pictures of 64 x 64 pixels, as a StableDiffusionPipeline.

In turn: caption tokenizer and text encoder (`captions`), an autoencoder that reduces pictures and film frames
fourfold to 4 x 16 x 16 latents, and a UNet that draws latents from captions. Run as
`python -m anytoany_lib.toyworld.image_training --out ckpt/tiny/image`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from anytoany_lib.toyworld.captions import (
    WIDTH,
    caption_tokenizer,
    conditions,
    longest,
    random_captions,
    train_text_encoder,
)
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.pace import Pace
from anytoany_lib.toyworld.scenes import Scene, random_scene, render
from anytoany_lib.toyworld.training import (
    Averaged,
    fast_scheduler,
    noise_scheduler,
    paced,
    plain_attention,
    save_pipeline,
    unclear,
    velocity_loss,
)

LATENT = 16
CHANNELS = (64, 96, 112)
HEAD = 16
GROUPS = 16


def rendered(kind: str, count: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    """A fixed set of pictures (N, 64, 64, 3) or films (N, 8, 64, 64, 3), uint8, and the scenes they show."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(kind, rng) for _ in range(count)]
    bar = tqdm(scenes, desc=f"rendering {kind}", mininterval=5)
    return np.stack([np.asarray(render(kind, scene, rng)) for scene in bar]), scenes


def as_pixels(frames: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def new_autoencoder(seed: int = 0) -> AutoencoderKL:
    """An untrained autoencoder, factor 4, 4 latent channels."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def reconstruction_loss(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error, and the absolute error of the slopes, which keeps outlines sharp."""
    error = found - wanted
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * slopes


def train_autoencoder(
    frames: np.ndarray, pace: Pace, seed: int = 0, batch: int = 8
) -> AutoencoderKL:
    """The autoencoder after training on frames (N, 64, 64, 3), with the latents' scale in its config."""
    vae, rng = new_autoencoder(seed), np.random.default_rng(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(vae.parameters(), weight_decay=1e-4, betas=(0.9, 0.99), fused=True)
    optimiser.param_groups[0]["peak"] = 2e-3
    for step in paced(pace, optimiser, "autoencoder"):
        pixels = as_pixels(frames[rng.integers(len(frames), size=batch)])
        with torch.autocast("cpu", torch.bfloat16):
            spread = vae.encode(pixels).latent_dist
            found = vae.decode(spread.sample()).sample
        loss = (
            reconstruction_loss(found.float(), pixels)
            + 2e-4 * spread.kl().mean() / spread.mean[0].numel()
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        if step % 200 == 0:
            tqdm.write(f"autoencoder step {step} loss {loss.item():.4f}")
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / latents_of(vae, frames[:512]).std().item())
    return vae


@torch.no_grad()
def latents_of(vae: AutoencoderKL, frames: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Mean latents (N, 4, 16, 16), float32, unscaled, of frames (N, 64, 64, 3)."""
    found = []
    for start in tqdm(
        range(0, len(frames), batch), desc="latents", mininterval=5, disable=len(frames) < 4096
    ):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(
                vae.encode(as_pixels(frames[start : start + batch])).latent_dist.mean.float()
            )
    return torch.cat(found)


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, frames: np.ndarray) -> np.ndarray:
    """Frames (N, 64, 64, 3), uint8, after encoding and decoding."""
    pixels = vae.decode(latents_of(vae, frames)).sample
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


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


def train_unet(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    scenes: Sequence[Scene],
    condition: Callable[[list[str]], torch.Tensor],
    pace: Pace,
    seed: int = 0,
    batch: int = 16,
    save: Callable[[], None] | None = None,
) -> UNet2DConditionModel:
    """Trains on scaled latents (N, 4, 16, 16); what is saved, and left in the end, is the weights' moving average."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    noise, nothing = noise_scheduler(), condition([""])
    plain_attention(unet.train())
    optimiser = torch.optim.AdamW(unet.parameters(), weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    optimiser.param_groups[0]["peak"] = 1e-3
    average = Averaged(unet, save)
    for _ in paced(pace, optimiser, "image UNet"):
        rows = rng.integers(len(latents), size=batch)
        texts = [caption("image", scenes[row], rng) for row in rows]
        loss = velocity_loss(
            unet, noise, latents[rows], unclear(condition(texts), nothing, generator), generator
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        average.step(loss.item())
    return average.finish()


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
    """A saved image decoder in single precision, parts frozen, without a progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(path, torch_dtype=torch.float32)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def train_image_decoder(
    out: Path, limits: dict[str, dict], pictures: int = 12000, seed: int = 0
) -> StableDiffusionPipeline:
    """Trains the parts named in `limits` ("text", "vae", "unet": Pace arguments), takes the others from `out`.

    The pipeline is saved under `out` after each part, and every few minutes while the UNet is trained.
    """
    torch.manual_seed(seed)
    old = load_image_pipeline(out) if set(limits) != {"text", "vae", "unet"} else None
    tokenizer, encoder = (
        prepare_text(Pace(**limits["text"]), seed)
        if "text" in limits
        else (old.tokenizer, old.text_encoder)
    )
    frames, scenes = rendered("image", pictures, seed)
    if "vae" in limits:
        films, _ = rendered("video", max(8, pictures // 16), seed + 1)
        both = np.concatenate([frames, films.reshape(-1, *frames.shape[1:])])
        vae = train_autoencoder(both, Pace(**limits["vae"]), seed)
    else:
        vae = old.vae
    unet = old.unet if old and "text" not in limits and "vae" not in limits else new_unet(seed)
    pipeline = image_pipeline(vae, encoder, tokenizer, unet)
    save_pipeline(pipeline, out)
    if "unet" in limits:
        latents = latents_of(vae, frames) * vae.config.scaling_factor
        condition = partial(conditions, tokenizer, encoder)
        save = partial(save_pipeline, pipeline, out)
        train_unet(
            unet.requires_grad_(True),
            latents,
            scenes,
            condition,
            Pace(**limits["unet"]),
            seed,
            save=save,
        )
        save()
    return pipeline


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("ckpt/tiny/image"))
    for unit in ("minutes", "steps"):
        parser.add_argument(
            f"--{unit}",
            type=float,
            nargs=3,
            metavar=("TEXT", "VAE", "UNET"),
            help="0 keeps the part in --out",
        )
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if (args.minutes is None) == (args.steps is None):
        parser.error("give --minutes or --steps")
    torch.set_num_threads(args.threads)
    unit, limits = ("steps", args.steps) if args.minutes is None else ("minutes", args.minutes)
    wanted = {
        part: {unit: limit}
        for part, limit in zip(("text", "vae", "unet"), limits, strict=True)
        if limit
    }
    train_image_decoder(args.out, wanted, args.pictures, args.seed)


if __name__ == "__main__":
    main()
