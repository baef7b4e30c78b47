"""What a picture looks like while it is diffused: its latents through a linear map to colours.

A latent stands for a square of pixels and most of what it says is their mean colour, so the map costs nothing beside a
diffusion step, where the autoencoder would cost more than one. It is fitted to the autoencoder at hand.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

_PICTURES, _PATCHES, _LATENTS = 8, 6, 18  # to fit on: so many, each of so many squares a side


@torch.inference_mode()
def colour_map(vae: AutoencoderKL) -> torch.Tensor:
    """The map (C + 1, 3) from a diffusion latent with a 1 behind it to RGB in [-1, 1], float32 on the CPU.

    It is the least-squares fit between latents of coloured patches and what the autoencoder decodes them to.
    """
    dtype, side = vae.dtype, _LATENTS * 2 ** (len(vae.config.block_out_channels) - 1)
    chance = torch.Generator().manual_seed(0)
    shape = (_PICTURES, 1, _PATCHES, _PATCHES)
    # Pictures differ in light more than in colour.
    light = 3 * torch.rand(shape, generator=chance) - 1.5
    colour = 1.4 * torch.rand(shape[0], 3, *shape[2:], generator=chance) - 0.7
    patches = (light + colour).clamp(-1, 1)
    pictures = F.interpolate(patches, size=(side, side)).to(vae.device)
    vae.to(torch.float32)  # some published autoencoders overflow in half precision
    try:
        latents = vae.encode(pictures).latent_dist.mode()
        decoded = vae.decode(latents).sample
    finally:
        vae.to(dtype)
    seen = F.adaptive_avg_pool2d(decoded, latents.shape[-2:]).movedim(1, -1).reshape(-1, 3)
    known = (latents * vae.config.scaling_factor).movedim(1, -1).flatten(0, 2)
    return torch.linalg.lstsq(F.pad(known, (0, 1), value=1.0).cpu(), seen.cpu()).solution


def preview(colours: torch.Tensor, latents: torch.Tensor, scale: int) -> Image.Image:
    """Latents (C, h, w) of one picture as RGB of h * scale by w * scale pixels, by the map of `colour_map`."""
    known = F.pad(latents.float().cpu().movedim(0, -1), (0, 1), value=1.0)
    pixels = ((known @ colours + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    small = Image.fromarray(pixels.numpy())
    return small.resize((small.width * scale, small.height * scale), Image.Resampling.BILINEAR)
