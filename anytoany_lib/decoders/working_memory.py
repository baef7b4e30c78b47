"""What a diffusion pipeline takes while it works, beside its weights: a rule, from its own widths and the media asked for.

Counted layer by layer for the published pipelines, without a card and without the workspaces of its libraries, a UNet holds
at most 33 maps of its first width (ZeroScope; Stable Diffusion 26, AudioLDM and XL 16), an autoencoder three of the
width before the last, in the size of what it decodes. `offloading` corrects the rule by what a call did take.
"""

from __future__ import annotations

import math
from typing import Any

from anytoany_lib.config import DecoderConfig

_UNET_MAPS, _VAE_MAPS = 34, 4
_GUIDED = 2  # a UNet sees every medium told and untold
_FRAMES = 16  # of a clip, which TextToVideoSDPipeline makes unless told
_FLOAT = 4


def _latent_size(
    pipeline: Any, config: DecoderConfig, frames: int | None, seconds: float | None
) -> tuple[int, int]:
    """Places of one medium's latents: (of a picture, a frame or a sound, and how many of them)."""
    options, factor = config.options, pipeline.vae_scale_factor
    trained = pipeline.unet.config.sample_size
    trained = trained if isinstance(trained, int) else trained[0]
    vocoder = getattr(pipeline, "vocoder", None)
    if vocoder is not None:
        a_frame = math.prod(vocoder.config.upsample_rates) / vocoder.config.sampling_rate
        asked = seconds or options.get("audio_length_in_s", trained * factor * a_frame)
        return math.ceil(asked / a_frame / factor) * vocoder.config.model_in_dim // factor, 1
    sides = (options.get(side, trained * factor) for side in ("height", "width"))
    clip = config.pipeline == "text-to-video"
    count = (frames or int(options.get("num_frames", _FRAMES))) if clip else 1
    return math.prod(math.ceil(side / factor) for side in sides), count


def working_bytes(
    pipeline: Any,
    config: DecoderConfig,
    media: int,
    frames: int | None = None,
    seconds: float | None = None,
) -> int:
    """Bytes that a pipeline's activations take for so many media, of the profile's length unless another is given."""
    places, count = _latent_size(pipeline, config, frames, seconds)
    unet, vae = pipeline.unet, pipeline.vae
    each = unet.dtype.itemsize
    diffusion = (
        _GUIDED * media * count * places * unet.config.block_out_channels[0] * _UNET_MAPS * each
    )
    pixels = places * pipeline.vae_scale_factor**2
    widths = vae.config.block_out_channels
    # One picture or frame at a time goes through it; what came out is kept of all.
    decoded = pixels * widths[min(1, len(widths) - 1)] * _VAE_MAPS * each
    kept = 2 * media * count * pixels * vae.config.out_channels * _FLOAT
    return max(diffusion, decoded + kept)
