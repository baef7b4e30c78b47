"""The denoising term of NExT-GPT v1.5's alignment: whether a decoder's UNet or transformer, given a projected condition, finds its
way back to the medium that is to be generated.

Beside the distance to a caption's embedding it is the decoder's own training loss: the medium's latents, noised to one
random timestep, and the mean squared error of what the network makes of them: the noise, a velocity or, of those that were
trained by flow matching, the way from medium to noise. Network and autoencoder are frozen; the gradient goes through the
network into the condition.

Media files -> `LatentEncoder` -> latents, cached as the other features are -> `Denoiser.loss` in a training step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import AutoModel, DDPMScheduler
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.training_utils import compute_snr
from PIL import Image, ImageOps
from torch import nn
from torch.utils.checkpoint import checkpoint

from anytoany_lib.config import DecoderConfig, Profile, StageConfig
from anytoany_lib.decoders import mels
from anytoany_lib.decoders.adapters import ADAPTERS, DEFAULT_FRAMES, decoder_folder
from anytoany_lib.decoders.footprints import footprint
from anytoany_lib.decoders.protocol import as_read
from anytoany_lib.gates.foreign_code import LOCAL
from anytoany_lib.llm import pick_device, pick_dtype
from anytoany_lib.media import media_files
from anytoany_lib.system.out_of_memory import Portions

LATENT_BATCH = 8  # clips of full size are large
_AT_ONCE_BYTES = 2**30  # of what an autoencoder reads
_GAMMA = {"image": 5.0}  # v1.5 weights images by min-SNR, sounds and clips not
_SUFFIX = " denoising"
_LAYERS = (
    *(ResnetBlock2D, Transformer2DModel, TemporalConvLayer, TransformerTemporalModel),
    *(SanaTransformerBlock, WanTransformerBlock),
)


def term(kind: str) -> str:
    """What the losses of a batch call the denoising term of a kind of medium."""
    return kind + _SUFFIX


def is_term(name: str) -> bool:
    """Whether a loss of that name is a denoising term."""
    return name.endswith(_SUFFIX)


def kind_of(name: str) -> str:
    """What a loss of that name is about, denoising term or not: "text", or a kind of medium."""
    return name.removesuffix(_SUFFIX)


# --- targets: media -> latents ---


def _settings(config: DecoderConfig, part: str) -> dict[str, Any]:
    return json.loads((decoder_folder(config) / part / "config.json").read_text(encoding="utf-8"))


def _plans(config: DecoderConfig) -> dict[str, dict[str, Any]]:
    """The configurations of what makes and denoises latents."""
    return {part: _settings(config, part) for part in (ADAPTERS[config.pipeline].network, "vae")}


def _factor(config: DecoderConfig) -> int:
    """How many pixels of a side one latent stands for."""
    return 2 ** (len(_settings(config, "vae")["block_out_channels"]) - 1)


def _read_size(kind: str, config: DecoderConfig) -> tuple[int, ...]:
    """Of what the autoencoder reads of a medium: (H, W), (T, H, W), or frames and bands of a log-mel."""
    if (rule := footprint(_plans(config), config)) is not None:
        return rule.size
    options, factor = config.options, _factor(config)
    trained = _settings(config, "unet")["sample_size"] * factor  # the default of pipelines
    if kind == "audio":
        hop = math.prod(_settings(config, "vocoder")["upsample_rates"])
        if hop != mels.HOP:
            raise ValueError(
                f"{config.folder}: its vocoder makes {hop} samples of a frame, AudioLDM's log-mels have {mels.HOP}: "
                "the denoising term does not fit it; set denoising_weight: 0"
            )
        seconds = options.get("audio_length_in_s", trained * mels.HOP / mels.RATE)
        return factor * math.ceil(seconds * mels.RATE / mels.HOP / factor), mels.MEL_BINS
    picture = int(options.get("height", trained)), int(options.get("width", trained))
    return (
        (int(options.get("num_frames", DEFAULT_FRAMES)), *picture) if kind == "video" else picture
    )


def latent_shape(kind: str, config: DecoderConfig) -> tuple[int, ...]:
    """Of one medium's latents: (C, h, w), with frames (C, T, h, w). ValueError if the pipeline has no denoising term."""
    _told(config)  # or there is no use for them
    vae = _settings(config, "vae")
    if (rule := footprint(_plans(config), config)) is not None:
        return vae.get("z_dim") or vae["latent_channels"], *rule.places
    *frames, height, width = _read_size(kind, config)
    factor = _factor(config)
    return vae["latent_channels"], *frames, height // factor, width // factor


def _told(config: DecoderConfig) -> Callable[[torch.Tensor], dict[str, torch.Tensor | None]]:
    """What makes a pipeline's conditions the arguments of its network. ValueError if it has no denoising term."""
    arguments = ADAPTERS[config.pipeline].told
    if arguments is None:
        raise ValueError(
            f"{config.pipeline} has no denoising term: its network needs more than the condition, or is a distilled one. Set "
            "denoising_weight: 0 in the profile's stages, or choose another decoder"
        )
    return arguments


def latent_model_files(config: DecoderConfig) -> list[Path]:
    """The files that determine a decoder's latents: its autoencoder, and how loud it expects sounds."""
    folder = decoder_folder(config)
    return sorted((folder / "vae").iterdir()) + sorted(folder.glob(mels.FILE))


def _picture(image: Image.Image, size: Sequence[int]) -> torch.Tensor:
    """A picture of so many pixels (H, W), its edges cut where its proportions are others: uint8 (3, H, W)."""
    height, width = size
    fitted = np.asarray(ImageOps.fit(image, (width, height)))
    return torch.from_numpy(fitted.copy()).permute(2, 0, 1)


class LatentEncoder:
    """A decoder's autoencoder: media -> float32 latents, as its UNet was trained on them."""

    def __init__(self, kind: str, config: DecoderConfig, device: torch.device):
        self._kind, self._config, self._device = kind, config, device
        self._size = _read_size(kind, config)
        folder = decoder_folder(config)
        self._levels = mels.Levels.of(folder)
        vae = AutoModel.from_pretrained(str(folder / "vae"), torch_dtype=torch.float32, **LOCAL)
        self._vae = vae.to(device).eval()
        self._vae.enable_slicing()
        self._portions = Portions(_AT_ONCE_BYTES)

    def prepared(self, file: Path) -> torch.Tensor:
        """A media file decoded and made into the autoencoder's input; may run on any thread.

        An image uint8 (3, H, W); a clip from its beginning, at the profile's frames per second (where it says none, all
        of it), uint8 (T, 3, H, W); a sound, cut or filled up with silence, float32 (1, frames, 64). MediaError if it cannot be read.
        """
        if self._kind == "image":
            return _picture(media_files.load_image(file), self._size)
        if self._kind == "video":
            count, *size = self._size
            seconds = count / self._config.fps if self._config.fps else None
            frames, _ = media_files.load_video(file, num_frames=count, max_seconds=seconds)
            return torch.stack([_picture(Image.fromarray(frame), size) for frame in frames])
        samples, _ = media_files.load_audio(file, mels.RATE)
        length = self._size[0] * mels.HOP
        filled = np.pad(samples[:length], (0, max(0, length - len(samples))))
        return self._levels.picture(torch.from_numpy(filled)[None])

    def __call__(self, prepared: Sequence[torch.Tensor]) -> torch.Tensor:
        """What `prepared` gave of some media -> scaled latents (B, *latent_shape) float32 on the CPU.

        The mean of the posterior, where v1.5 samples: so it can be kept. A sample would lie 4 % of the latents' spread away
        from it for the tiny pictures and clips, 31 % for the sounds, and the tiny UNets were trained on means.
        """
        pixels = prepared[0].numel() * 4  # once as they are, once scaled, and their latents
        return self._portions(self._kind, prepared, 3 * pixels, self._encoded)

    @torch.inference_mode()
    def _encoded(self, prepared: Sequence[torch.Tensor]) -> torch.Tensor:
        read = torch.stack(list(prepared)).to(self._device)
        if read.dtype == torch.uint8:
            read = read.float() / 127.5 - 1
        return ADAPTERS[self._config.pipeline].latents(self._vae, read)


# --- the loss ---


@dataclass(frozen=True)
class FlowMatching:
    """Straight ways from media to noise: at time s a latent is (1 - s) media + s noise, and noise - media is to be predicted.

    So Liu et al. 2022 (arXiv 2209.03003) and Lipman et al. 2022 (arXiv 2210.02747). Times are shifted towards noise as Esser et
    al. 2024 do (arXiv 2403.03206, equation 23) and FlowMatchEulerDiscreteScheduler has them: of n steps, number t is at
    s = shift * u / (1 + (shift - 1) * u) with u = (t + 1) / n.
    """

    shift: float
    noise_is: float
    """What the network calls noise alone: 1, or the number of steps."""
    steps: int

    def times(self, steps: torch.Tensor) -> torch.Tensor:
        """The time s of steps (B,), float32 (B,), from near 0 to 1."""
        u = (steps.float() + 1) / self.steps
        return self.shift * u / (1 + (self.shift - 1) * u)

    def add_noise(
        self, clean: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor
    ) -> torch.Tensor:
        """`clean` latents (B, ...) with noise of the steps (B,): the shape of `clean`."""
        times = self.times(steps).view(-1, *[1] * (clean.ndim - 1))
        return (1 - times) * clean + times * noise


Schedule: TypeAlias = DDPMScheduler | FlowMatching


def noise_schedule(config: DecoderConfig) -> Schedule:
    """How a pipeline's network was trained: the noise of its published scheduler, whichever way that samples."""
    folder = decoder_folder(config) / "scheduler"
    settings = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))
    steps, kind = settings.get("num_train_timesteps", 1000), settings.get("prediction_type")
    if kind == "trigflow":  # what the pipeline makes of a network that itself predicts a flow
        return FlowMatching(1.0, 1.0, steps)
    if kind == "flow_prediction" or settings["_class_name"].startswith("FlowMatch"):
        return FlowMatching(settings.get("flow_shift", settings.get("shift", 1.0)), steps, steps)
    return DDPMScheduler.from_pretrained(folder)


def prediction_target(
    schedule: Schedule, clean: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor
) -> torch.Tensor:
    """What the network should predict of `clean` latents (B, ...) with noise of the timesteps (B,): the shape of `clean`.

    ValueError if its prediction type is none of epsilon, v_prediction, sample and a flow.
    """
    if isinstance(schedule, FlowMatching):
        return noise - clean
    kind = schedule.config.prediction_type
    if kind == "v_prediction":
        return schedule.get_velocity(clean, noise, steps)
    if kind not in ("epsilon", "sample"):
        raise ValueError(
            f"prediction_type {kind!r}: the denoising term knows epsilon, v_prediction, sample"
        )
    return noise if kind == "epsilon" else clean


def min_snr_weights(schedule: DDPMScheduler, steps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights (B,) of the squared errors at timesteps (B,) that count as min(SNR, gamma) of an error in the latents.

    So Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy": for predicted noise
    min(SNR, gamma) / SNR, for velocities min(SNR, gamma) / (SNR + 1).
    """
    snr = compute_snr(schedule, steps)
    if schedule.config.prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)  # also where nothing but noise is left
    weights = snr.clamp(max=gamma)
    return weights / (snr + 1) if schedule.config.prediction_type == "v_prediction" else weights


def _compute_twice(network: nn.Module) -> None:
    """Has every layer keep its input alone and compute the rest again for its gradient; diffusers' own way has no clips."""
    for layer in network.modules():
        if isinstance(layer, _LAYERS):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


class Denoiser:
    """The frozen networks of a profile's decoders and their noise, each loaded when its kind first comes up.

    What is drawn for a batch follows from the seed and the batch's number, so a resumed run draws what it would have.
    With `checkpointing` the networks compute activations twice and keep few. ValueError if a pipeline has no such term.
    """

    def __init__(
        self,
        decoders: Mapping[str, DecoderConfig],
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
    ):
        for config in decoders.values():
            _told(config)
        self._decoders, self._seed = decoders, seed
        self._device, self._dtype, self._checkpointing = device, dtype, checkpointing
        self._loaded: dict[str, tuple[Any, Schedule]] = {}
        self._generator = torch.Generator()

    def begin(self, *number: int) -> None:
        """Seeds the noise of the next batch by its number, in a training (step, process, part). Call it before the losses."""
        (drawn,) = np.random.SeedSequence([self._seed, *number]).generate_state(1, np.uint64)
        self._generator.manual_seed(int(drawn))

    def loaded(self, kind: str) -> bool:
        """Whether a kind has come up."""
        return kind in self._loaded

    def _parts(self, kind: str) -> tuple[Any, Schedule]:
        """The network of a kind and its noise."""
        if kind not in self._loaded:
            config, adapter = self._decoders[kind], ADAPTERS[self._decoders[kind].pipeline]
            folder, dtype = decoder_folder(config), adapter.computes_in(self._dtype)
            # Loading draws random weights, which must not move the numbers a training draws.
            with torch.random.fork_rng():
                network = AutoModel.from_pretrained(
                    str(folder / adapter.network), torch_dtype=dtype, **LOCAL
                )
            network = network.to(self._device).requires_grad_(False).eval()
            if self._checkpointing:
                _compute_twice(network)
            self._loaded[kind] = network, noise_schedule(config)
        return self._loaded[kind]

    def loss(self, kind: str, conditions: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Mean error over media with conditions (B, *condition) and latents (B, *latent_shape), a random timestep each."""
        _, schedule = self._parts(kind)
        drawn_by = self._generator
        count = (
            schedule.steps
            if isinstance(schedule, FlowMatching)
            else schedule.config.num_train_timesteps
        )
        steps = torch.randint(count, (len(latents),), generator=drawn_by).to(self._device)
        noise = torch.randn(latents.shape, generator=drawn_by).to(self._device)
        return self.errors(kind, conditions, latents, steps, noise).mean()

    def errors(
        self,
        kind: str,
        conditions: torch.Tensor,
        latents: torch.Tensor,
        steps: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Each medium's mean squared error (B,) at its timestep (B,), weighted by min-SNR if v1.5 weights its kind."""
        (network, schedule), config = self._parts(kind), self._decoders[kind]
        flows = isinstance(schedule, FlowMatching)
        noisy = schedule.add_noise(latents, noise, steps).to(network.dtype)
        times = schedule.times(steps) * schedule.noise_is if flows else steps
        arguments = _told(config)(as_read(config, conditions.to(network.dtype)))
        if network.config.get("guidance_embeds"):  # it is told the guidance as a number
            scale = config.guidance * network.config.guidance_embeds_scale
            arguments["guidance"] = conditions.new_full((len(conditions),), scale).to(network.dtype)
        predicted = network(noisy, timestep=times, **arguments).sample.float()
        target = prediction_target(schedule, latents, noise, steps)
        errors = (predicted - target).square().flatten(1).mean(1)
        if kind not in _GAMMA or flows:
            return errors
        return errors * min_snr_weights(schedule, steps, _GAMMA[kind])


def denoiser_of(profile: Profile, stage: StageConfig, seed: int) -> Denoiser | None:
    """What computes a stage's denoising terms, None if it has none."""
    if not stage.denoising_weight:
        return None
    device = pick_device()
    return Denoiser(profile.decoders, seed, device, pick_dtype(device), stage.checkpointing)
