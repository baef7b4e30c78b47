"""Trains the tiny video decoder: captions -> films of 8 frames of 64 x 64 pixels, as a TextToVideoSDPipeline.

It borrows the image decoder's autoencoder and text encoder as they are, and starts from its UNet: every spatial
weight by name, the temporal layers' output at zero, so that the first film is eight pictures of one caption. Run as
`python -m anytoany_lib.toyworld.training.video_training --image ckpt/tiny/image --out ckpt/tiny/video`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from torch import nn

from anytoany_lib.toyworld.scenes import Scene
from anytoany_lib.toyworld.training.autoencoder import latents_of
from anytoany_lib.toyworld.training.diffusion import (
    fast_scheduler,
    load_frozen,
    note_training,
    save_pipeline,
    train_unet,
)
from anytoany_lib.toyworld.training.image_training import (
    CHANNELS,
    GROUPS,
    HEAD,
    LATENT,
    load_image_pipeline,
    rendered,
)
from anytoany_lib.toyworld.training.pace import Pace
from anytoany_lib.toyworld.training.text_encoder import WIDTH, conditions

TEMPORAL = ("temp_convs", "temp_attentions", "transformer_in")


def new_video_unet(image_unet: UNet2DConditionModel, seed: int = 0) -> UNet3DConditionModel:
    """A UNet for (B, 4, 8, 16, 16) latents that draws each frame as the image UNet would, until it is trained."""
    torch.manual_seed(seed)
    unet = UNet3DConditionModel(
        sample_size=LATENT,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        cross_attention_dim=WIDTH,
        attention_head_dim=HEAD,
    )
    weights = unet.state_dict()
    spatial = image_unet.state_dict()
    unknown = [
        name
        for name in spatial
        if name not in weights or weights[name].shape != spatial[name].shape
    ]
    if unknown:
        raise ValueError(f"the video UNet has no place for the image UNet's {unknown[:5]}")
    unet.load_state_dict(weights | spatial)
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and name.endswith("proj_out") and is_temporal(name):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


def with_spatial_weights(
    unet: UNet3DConditionModel, image_unet: UNet2DConditionModel
) -> UNet3DConditionModel:
    """A trained video UNet whose frames are drawn anew as the image UNet draws: it was trained on, say."""
    unet.load_state_dict(unet.state_dict() | image_unet.state_dict())
    return unet


def is_temporal(name: str) -> bool:
    """Whether a parameter's or module's name is of a layer that mixes frames."""
    return any(part in name for part in TEMPORAL)


def _without_dropout(unet: UNet3DConditionModel) -> UNet3DConditionModel:
    """Temporal layers come with dropout 0.1, whose random bits cost a tenth of a step and help nothing here."""
    for module in unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return unet


def film_latents(vae: AutoencoderKL, films: np.ndarray) -> torch.Tensor:
    """Scaled latents (N, 4, 8, 16, 16), float32, of films (N, 8, 64, 64, 3)."""
    flat = latents_of(vae, films.reshape(-1, *films.shape[2:])) * vae.config.scaling_factor
    return flat.unflatten(0, films.shape[:2]).transpose(1, 2).contiguous()


def train_video_unet(
    unet: UNet3DConditionModel,
    latents: torch.Tensor,
    scenes: Sequence[Scene],
    condition: Callable[[list[str]], torch.Tensor],
    pace: Pace,
    seed: int = 0,
    batch: int = 3,
    save: Callable[[], None] | None = None,
) -> UNet3DConditionModel:
    """Trains on scaled latents (N, 4, 8, 16, 16): the temporal layers fast, what the image UNet knew slowly."""
    return train_unet(
        "video",
        _without_dropout(unet),
        latents,
        scenes,
        condition,
        pace,
        seed,
        batch,
        save,
        pace_of=lambda name: 1.0 if is_temporal(name) else 0.4,
    )


def video_pipeline(
    image: StableDiffusionPipeline, unet: UNet3DConditionModel
) -> TextToVideoSDPipeline:
    """The video UNet with the image decoder's other parts, as one pipeline."""
    return TextToVideoSDPipeline(
        vae=image.vae,
        text_encoder=image.text_encoder,
        tokenizer=image.tokenizer,
        unet=unet,
        scheduler=fast_scheduler(),
    )


def load_video_pipeline(path: Path) -> TextToVideoSDPipeline:
    """A saved video decoder; see `training.load_frozen`."""
    return load_frozen(TextToVideoSDPipeline, path)


def train_video_decoder(
    image: Path,
    out: Path,
    limit: dict,
    films: int = 3000,
    seed: int = 0,
    resume: bool = False,
    redraw: bool = False,
) -> TextToVideoSDPipeline:
    """Trains the video UNet within `limit` (Pace arguments) and saves the pipeline under `out`.

    With `resume` it starts from the UNet in `out`, with `redraw` from its temporal layers and the image decoder's
    spatial ones, otherwise from the image decoder's alone.
    """
    source = load_image_pipeline(image)
    resume = resume or redraw
    start = load_video_pipeline(out).unet if resume else new_video_unet(source.unet, seed)
    if redraw:
        start = with_spatial_weights(start, source.unet)
    pipeline = video_pipeline(source, start)
    save = partial(save_pipeline, pipeline, out)
    frames, scenes = rendered("video", films, seed + 2)
    latents = film_latents(source.vae, frames)
    condition = partial(conditions, source.tokenizer, source.text_encoder)
    pace = Pace(**limit)
    train_video_unet(start.requires_grad_(True), latents, scenes, condition, pace, seed, save=save)
    save()
    begun = "both decoders" if redraw else "this decoder" if resume else "the image decoder"
    note_training(out, part="U-Net", begun_with=begun, films=films, seed=seed, **pace.facts())
    return pipeline


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, default=Path("ckpt/tiny/image"))
    parser.add_argument("--out", type=Path, default=Path("ckpt/tiny/video"))
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--minutes", type=float)
    limit.add_argument("--steps", type=int)
    parser.add_argument("--films", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the UNet in --out")
    parser.add_argument(
        "--redraw", action="store_true", help="the same, with the image decoder's spatial layers"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pace = {"minutes": args.minutes} if args.steps is None else {"steps": args.steps}
    train_video_decoder(args.image, args.out, pace, args.films, args.seed, args.resume, args.redraw)


if __name__ == "__main__":
    main()
