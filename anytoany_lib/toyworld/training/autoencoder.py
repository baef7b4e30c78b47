"""The autoencoder of the tiny image and video decoders: pictures and film frames <-> 4 x 16 x 16 latents."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from anytoany_lib.toyworld.training.diffusion import MuonAdamW, half_where_faster
from anytoany_lib.toyworld.training.pace import Pace, minimise

KL_WEIGHT = 2e-4  # of the mean over a latent's numbers


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


def reconstruction_loss(decoded: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error, and the absolute error of the slopes, which keeps outlines sharp."""
    error = decoded - truth
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * slopes


def train_autoencoder(
    frames: np.ndarray, pace: Pace, seed: int = 0, batch: int = 8
) -> AutoencoderKL:
    """The autoencoder after training on frames (N, 64, 64, 3), with the latents' scale in its config."""
    vae, rng = new_autoencoder(seed), np.random.default_rng(seed)
    torch.manual_seed(seed)

    def next_loss() -> torch.Tensor:
        """How far the next frames are off once encoded and decoded, and a little of the KL divergence."""
        pixels = as_pixels(frames[rng.integers(len(frames), size=batch)])
        with half_where_faster():
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return reconstruction_loss(decoded.float(), pixels) + KL_WEIGHT * kl

    minimise(next_loss, MuonAdamW(vae, hidden=3e-3, other=2e-3), pace, "autoencoder")
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

    def next_loss() -> torch.Tensor:
        """How far the next frames are off once decoded from their latents with some noise."""
        chosen = frames[rng.integers(len(frames), size=batch)]
        latents = latents_of(vae, chosen)
        noise = torch.randn(latents.shape, generator=generator) * 0.05 / vae.config.scaling_factor
        with half_where_faster():
            decoded = vae.decode(latents + noise).sample
        return reconstruction_loss(decoded.float(), as_pixels(chosen))

    minimise(next_loss, MuonAdamW(half, hidden=2e-3, other=1e-3), pace, "decoder")
    half.requires_grad_(False)
    return vae


@torch.no_grad()
def latents_of(vae: AutoencoderKL, frames: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Mean latents (N, 4, 16, 16), float32, unscaled, of frames (N, 64, 64, 3)."""
    parts = []
    for start in tqdm(
        range(0, len(frames), batch), desc="latents", mininterval=5, disable=len(frames) < 4096
    ):
        with half_where_faster():
            parts.append(
                vae.encode(as_pixels(frames[start : start + batch])).latent_dist.mean.float()
            )
    return torch.cat(parts)


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, frames: np.ndarray) -> np.ndarray:
    """Frames (N, 64, 64, 3), uint8, after encoding and decoding."""
    pixels = vae.decode(latents_of(vae, frames)).sample
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
