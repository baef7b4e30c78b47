"""Frozen diffusion pipelines at work: conditions -> media, step by step, with previews.

What a pipeline class needs of its own stands in `adapters`; here is what all of them share: how they are called and moved, which
of their media are not to be shown, what a picture looks like before it is done, and how much memory they take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image, ImageOps
from torch.nn import functional as F

from anytoany_lib.config import DecoderConfig
from anytoany_lib.decoders.adapters import ADAPTERS, DEFAULT_FRAMES, CaptionEncoder
from anytoany_lib.decoders.footprints import Footprint, footprint
from anytoany_lib.decoders.loading import load_pipeline
from anytoany_lib.decoders.protocol import as_read
from anytoany_lib.decoders.upscaling import upscaler_of
from anytoany_lib.system.offloading import HOST, bytes_of, frozen_dtype

OnStep = Callable[[int, int, Image.Image | None], None]
_UNET_MAPS, _VAE_MAPS = 34, 4  # that are held at once, see `Decoder.working_bytes`
_GUIDED = 2  # with guidance a UNet sees every medium with its condition and without
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class DiffusionSettings:
    """How media are diffused. Where a value is None, the profile's holds."""

    steps: int | None = None
    guidance: float | None = None
    """The guidance scale: 1 is no guidance."""
    on_step: OnStep | None = None
    """`on_step(done, total, preview)` is called after each diffusion step; what it raises ends the generation. The total is
    the scheduler's own."""
    frames: int | None = None
    """Length of clips."""
    seconds: float | None = None
    """Length of sounds."""
    preview_every: int = 0
    """After every so many steps `on_step` gets the first picture as it is so far, else None; 0 is never."""
    picture: Image.Image | None = None
    """Where to begin instead of with noise: the picture that is edited."""
    strength: float = 1.0
    """How much of that picture may change, and the part of the steps that is taken."""
    enlarge: bool = False
    """Whether pictures and clips get a larger copy beside them, where the profile says `upscale`."""


class Decoder:
    """A frozen diffusion pipeline that turns embeddings into media. Loads once, in half precision for a card."""

    def __init__(
        self, config: DecoderConfig, device: torch.device, dtype: torch.dtype | None = None
    ):
        self.config = config
        self._adapter = ADAPTERS[config.pipeline]
        wished = frozen_dtype(device) if dtype is None else dtype
        self._dtype = self._adapter.computes_in(wished)
        self._unconditional: torch.Tensor | None = None
        self.pipeline = load_pipeline(config, self._dtype)
        self._device = device
        upscaler = upscaler_of(config)
        self._upscaler = None if upscaler is None else upscaler.to(self._dtype)
        self.to(device)

    def _modules(self) -> list[torch.nn.Module]:
        parts = [*self.pipeline.components.values(), self._upscaler]
        return [part for part in parts if isinstance(part, torch.nn.Module)]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights of all parts."""
        return sum(map(bytes_of, self._modules()))

    def to(self, device: torch.device) -> None:
        """Moves every part, to the card or to host memory."""
        for part in self._modules():
            part.to(device)
        self._device = device

    def working_bytes(
        self, media: int, frames: int | None = None, seconds: float | None = None
    ) -> int:
        """Bytes that `generate` takes beside the weights for so many media, of the profile's length unless another is given.

        `system.offloading` corrects the rule by what a call did take.
        """
        return self._footprint(frames, seconds).of(media)

    def _footprint(self, frames: int | None, seconds: float | None) -> Footprint:
        """What a medium takes, by a rule from the pipeline's own widths.

        Counted layer by layer for the published pipelines, without a card and without the workspaces of its libraries, a UNet
        holds at most 33 maps of its first width (ZeroScope; Stable Diffusion 26, AudioLDM and XL 16), an autoencoder three of the
        width before the last, in the size of what it decodes.
        """
        parts = {
            name: part.config
            for name, part in self.pipeline.components.items()
            if hasattr(part, "config")
        }
        lengths = {"frames": frames, "seconds": seconds}
        if (rule := footprint(parts, self._lengthened(lengths))) is not None:
            return rule
        places, count = _latent_size(self.pipeline, self.config, frames, seconds)
        unet, vae = self.pipeline.unet, self.pipeline.vae
        each = unet.dtype.itemsize
        unet_widths, vae_widths = unet.config.block_out_channels, vae.config.block_out_channels
        passes = _GUIDED if self.config.guidance > 1 else 1
        diffusion = passes * count * places * unet_widths[0] * _UNET_MAPS * each
        pixels = places * self.pipeline.vae_scale_factor**2
        decoded = pixels * vae_widths[min(1, len(vae_widths) - 1)] * _VAE_MAPS * each
        kept = 2 * count * pixels * vae.config.out_channels * _FLOAT_BYTES
        return Footprint((count, places), (count, pixels), diffusion, decoded, kept, pieces=count)

    @cached_property
    def _colours(self) -> torch.Tensor:
        return colour_map(self.pipeline.vae)

    @cached_property
    def _editing(self) -> DiffusionPipeline:
        """The pipeline of the same parts that edits a picture."""
        if self._adapter.editing is None:
            raise ValueError(
                f"a {self.config.pipeline} pipeline cannot edit: leave the picture out, or set edit_strength and strength to None"
            )
        parts = dict(self.pipeline.components)
        if "safety_checker" in self._adapter.editing._optional_components:
            parts["requires_safety_checker"] = self.config.safety_checker
        pipeline = self._adapter.editing(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _lengthened(self, lengths: Mapping[str, float | None]) -> DecoderConfig:
        """The settings with another "frames" or "seconds", where one is given and the pipeline has such a length."""
        names = self._adapter.lengths
        given = {names[k]: n for k, n in lengths.items() if k in names and n is not None}
        return self.config.model_copy(update={"options": self.config.options | given})

    def _beginning(self, settings: DiffusionSettings) -> tuple[Any, dict[str, Any]]:
        """The pipeline to call, and its arguments for the size of a medium, or for the picture to begin with."""
        if settings.picture is None:
            lengths = {length: getattr(settings, length) for length in self._adapter.lengths}
            return self.pipeline, self._lengthened(lengths).options
        options = {n: v for n, v in self.config.options.items() if n not in ("height", "width")}
        trained = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        width, height = (
            int(self.config.options.get(side, trained)) for side in ("width", "height")
        )
        picture = ImageOps.fit(
            settings.picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS
        )
        return self._editing, options | {"image": picture, "strength": settings.strength}

    def _callbacks(self, settings: DiffusionSettings) -> dict[str, Any]:
        """The pipeline's argument that has it call `on_step` after its steps.

        They are counted as the scheduler goes: PNDM takes one more than it is asked for, Heun's two for each but the last.
        """
        on_step, preview_every = settings.on_step, settings.preview_every
        if on_step is None:
            return {}
        scheduler = self.pipeline.scheduler

        def counted(step: int, timestep: Any, latents: torch.Tensor) -> None:
            """Called by the older pipelines after every step of the scheduler's order, and after the last."""
            total = len(scheduler.timesteps)
            on_step(min((step + 1) * scheduler.order, total), total, None)

        if not self._adapter.new_callback:
            return {"callback": counted}
        # Fitted before the first step. What a transformer denoises is no picture of four colours.
        colours = self._colours if preview_every and self._adapter.editing else None

        def called(
            pipe: Any, step: int, timestep: Any, arguments: dict[str, Any]
        ) -> dict[str, Any]:
            """Called by the pipeline after each step; hands the latents on as they are."""
            shown = None
            if colours is not None and (step + 1) % preview_every == 0:
                # Some schedulers keep latents larger than the autoencoder's, by the noise that is left.
                latents = pipe.scheduler.scale_model_input(arguments["latents"], timestep)
                shown = preview(colours, latents[0], pipe.vae_scale_factor)
            # An edit takes the last of the scheduler's steps alone.
            on_step(step + 1, pipe.num_timesteps, shown)
            return arguments

        return {"callback_on_step_end": called}

    def _conditions(self, embeddings: torch.Tensor, guided: bool) -> dict[str, torch.Tensor]:
        """The pipeline's arguments for a batch of conditions, and if it is guided away from them the same of an empty caption."""
        conditional = as_read(self.config, embeddings.to(self._device, self._dtype))
        arguments = self._adapter.arguments(self.pipeline, conditional)
        if not (guided and self._adapter.negative):
            return arguments
        unconditional = self._negative().expand_as(conditional).contiguous()
        negative = self._adapter.arguments(self.pipeline, unconditional)
        return arguments | {f"negative_{name}": value for name, value in negative.items()}

    def _negative(self) -> torch.Tensor:
        """The condition of an empty caption (1, *condition) as the pipeline reads it; computed when it is first needed."""
        if self._unconditional is None:
            # By the pipeline's own text encoder; one that it does without never sees the card.
            device = self._device if self._adapter.reads_captions else HOST
            read = CaptionEncoder(self.config, device, self._dtype)([""])
            self._unconditional = as_read(self.config, read.to(self._dtype))
        return self._unconditional.to(self._device)

    @torch.inference_mode()
    def generate(
        self, embeddings: torch.Tensor, seeds: Sequence[int], *settings: Any, **named: Any
    ) -> list[dict[str, Any]]:
        """Embeddings (B, *condition) and a seed each -> B media as the payload of reply parts.

        What follows the seeds are `DiffusionSettings`, in their order or by their names: steps, guidance, on_step, frames, seconds,
        preview_every, picture, strength, enlarge. An image part gets "image" (PIL), an audio part "audio" (float32 mono) and
        "sampling_rate", a video part "video" (uint8 (T, H, W, 3)) and "fps"; the first and the last also "enlarged", the same in a
        larger size, where that is asked for and the profile has an upscaler. BrokenMedia if embeddings or media are not finite, or the safety checker
        refuses some; the others are made all the same, as they would have been.
        """
        chosen = DiffusionSettings(*settings, **named)
        finite = torch.isfinite(embeddings).flatten(1).all(1).tolist()
        if not any(finite):
            raise BrokenMedia([None] * len(finite), [_CONDITION_NOT_FINITE] * len(finite))
        pipeline, beginning = self._beginning(chosen)
        guidance = self.config.guidance if chosen.guidance is None else chosen.guidance
        pipeline.vae.use_slicing = self._footprint(chosen.frames, chosen.seconds).sliced(len(seeds))
        output = pipeline(
            # A broken embedding keeps its place in the batch, so that the others are computed as ever.
            **self._conditions(embeddings.nan_to_num(0, 0, 0), guidance > 1),
            **self._adapter.steps(chosen.steps or self.config.steps),
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",  # before it is rounded to bytes, where NaN would look like black
            **beginning,
            **self._callbacks(chosen),
        )
        refused = getattr(output, "nsfw_content_detected", None) or [False] * len(finite)
        media = self._media(np.asarray(output[0]), finite, refused)
        if chosen.enlarge and self._upscaler is not None:
            return [medium | self._upscaler.enlarged(medium) for medium in media]
        return media

    def _media(
        self, floats: np.ndarray, finite: Sequence[bool], refused: Sequence[bool]
    ) -> list[dict[str, Any]]:
        """The media of a batch as the payload of reply parts; BrokenMedia if one had no finite embedding, is not finite, or is refused."""
        reasons = [reason_of(*one) for one in zip(finite, floats, refused, strict=True)]
        media = [
            None if reason else self._adapter.medium(medium, self.config, self.pipeline)
            for medium, reason in zip(floats, reasons, strict=True)
        ]
        if any(reasons):
            raise BrokenMedia(media, reasons)
        return [medium for medium in media if medium is not None]


# --- media that come to nothing ---


_CONDITION_NOT_FINITE = (
    "the output projection gave values that are not finite: the run folder is broken"
)
_MEDIUM_NOT_FINITE = (
    "the decoder gave values that are not finite: its weights are broken, or too large for 16 bits"
)
_REFUSED = (
    "the decoder's safety checker refused the picture: ask for another, or draw with another seed; safety_checker: false "
    "in the profile's decoder leaves it out"
)


class BrokenMedia(ValueError):
    """Some media of a batch came to nothing: `media` has the others, and None in place of these; `reasons` says why, or ""."""

    def __init__(self, media: list[dict[str, Any] | None], reasons: list[str]):
        super().__init__("; ".join(dict.fromkeys(filter(None, reasons))))
        self.media, self.reasons = media, reasons


def reason_of(finite: bool, medium: np.ndarray, refused: bool) -> str:
    """Why a medium is broken, "" if it is not: whether its condition was finite, the medium, and whether the safety checker refused it."""
    if not finite:
        return _CONDITION_NOT_FINITE
    if not np.isfinite(medium).all():
        return _MEDIUM_NOT_FINITE
    return _REFUSED if refused else ""


# --- previews: the latents of a picture through a linear map to colours ---
#
# A latent stands for a square of pixels and most of what it says is their mean colour, so the map costs nothing beside a
# diffusion step, where the autoencoder would cost more than one. It is fitted to the autoencoder at hand.


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
        length = seconds or options.get("audio_length_in_s", trained * factor * a_frame)
        return math.ceil(length / a_frame / factor) * vocoder.config.model_in_dim // factor, 1
    sides = (options.get(side, trained * factor) for side in ("height", "width"))
    clip = "frames" in ADAPTERS[config.pipeline].lengths
    count = (frames or int(options.get("num_frames", DEFAULT_FRAMES))) if clip else 1
    return math.prod(math.ceil(side / factor) for side in sides), count
