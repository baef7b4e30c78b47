"""The autoencoder of the tiny image and video decoders: pictures and film frames <-> 4 x 16 x 16 latents."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from anytoany_lib.toyworld.training.diffusion import MuonAdamW, half_where_faster, paced
from anytoany_lib.toyworld.training.pace import Pace


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
    optimiser = MuonAdamW(vae, hidden=3e-3, other=2e-3)
    for step in paced(pace, optimiser, "autoencoder"):
        pixels = as_pixels(frames[rng.integers(len(frames), size=batch)])
        with half_where_faster():
            spread = vae.encode(pixels).latent_dist
            found = vae.decode(spread.sample()).sample
        loss = (
            reconstruction_loss(found.float(), pixels)
            + 2e-4 * spread.kl().mean() / spread.mean[0].numel()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 200 == 0:
            tqdm.write(f"autoencoder step {step} loss {loss.item():.4f}")
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / latents_of(vae, frames[:512]).std().item())
    return vae


def polish_decoder(
    vae: AutoencoderKL, frames: np.ndarray, pace: Pace, seed: int = 0, batch: int = 8
) -> AutoencoderKL:
    """Trains the decoding half on; what latents mean stays as it is, so UNets trained on them stay good.

    Latents get a little noise, since those that a UNet draws are a little off.
    """
    half = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimiser = MuonAdamW(half, hidden=2e-3, other=1e-3)
    for step in paced(pace, optimiser, "decoder"):
        chosen = frames[rng.integers(len(frames), size=batch)]
        latents = latents_of(vae, chosen)
        noise = torch.randn(latents.shape, generator=generator) * 0.05 / vae.config.scaling_factor
        with half_where_faster():
            found = vae.decode(latents + noise).sample
        loss = reconstruction_loss(found.float(), as_pixels(chosen))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 200 == 0:
            tqdm.write(f"decoder step {step} loss {loss.item():.4f}")
    half.requires_grad_(False)
    return vae


@torch.no_grad()
def latents_of(vae: AutoencoderKL, frames: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Mean latents (N, 4, 16, 16), float32, unscaled, of frames (N, 64, 64, 3)."""
    found = []
    for start in tqdm(
        range(0, len(frames), batch), desc="latents", mininterval=5, disable=len(frames) < 4096
    ):
        with half_where_faster():
            found.append(
                vae.encode(as_pixels(frames[start : start + batch])).latent_dist.mean.float()
            )
    return torch.cat(found)


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, frames: np.ndarray) -> np.ndarray:
    """Frames (N, 64, 64, 3), uint8, after encoding and decoding."""
    pixels = vae.decode(latents_of(vae, frames)).sample
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
