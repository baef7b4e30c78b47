"""What ImageBind is shaped like, and how media become the tensors it reads.

`ImageBindConfig` names every width and count of the model and of its preparation; `HUGE` is the
published model. `prepare(config, kind, media)` turns one image, sound or film (in memory) into the
model's input; files are opened elsewhere (`media`). Recipes are those of the published model:
CLIP's mean and deviation, bicubic short side and centre crop; 2 frames x clips x crops for a film;
2 s clips as Kaldi log-mel filter banks for a sound.
Legend: B batch, S clips, T frames, H W pixels, F mel frames.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pydantic
import soxr
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.audio_utils import mel_filter_bank

from anytoany_lib.encoders.sensed_inputs import prepare_sensed
from anytoany_lib.modalities import MODALITIES, SENSED_KINDS

SENSE_OF_KIND: Mapping[str, str] = MappingProxyType(
    {kind: modality.sense for kind, modality in MODALITIES.items()}
    | {kind: kind for kind in ("text", *SENSED_KINDS)}
)
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
MEL_MEAN, MEL_STD = -4.268, 9.138
WINDOW, HOP, FFT = 400, 160, 512  # 25 ms every 10 ms at 16 kHz
SAMPLE_RATE = 16000
FRAMES_PER_CLIP = 2
IMU_CHANNELS, IMU_SAMPLES, IMU_PATCH = 6, 2000, 8
SENSED_PATCH = 16  # pixels a side, of depth and thermal pictures
NARROWEST = 8  # times as long as wide: of what is longer only the part that is seen is scaled


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class SenseConfig(_Frozen):
    """One sense's transformer: tokens of `width`, `blocks` layers of `heads` heads."""

    width: int
    blocks: int
    heads: int
    scale: float | None = None  # fixed factor after normalisation; text learns its own


class ImageBindConfig(_Frozen):
    """Shape of the model (a sense that is None does not exist) and of its inputs."""

    embed_dim: int
    vision: SenseConfig
    audio: SenseConfig
    text: SenseConfig
    depth: SenseConfig | None = None
    thermal: SenseConfig | None = None
    imu: SenseConfig | None = None
    image_size: int = 224
    vision_patch: int = 14
    audio_patch: int = 16
    audio_stride: int = 10
    mel_bins: int = 128
    mel_frames: int = 204
    vocab_size: int = 49408
    context_length: int = 77
    audio_clips: int = 3
    audio_clip_seconds: float = 2.0
    video_clips: int = 5
    video_clip_seconds: float | None = 2.0  # None: spread the frames evenly over the whole film
    video_crops: int = 3

    def senses(self) -> dict[str, SenseConfig]:
        """The senses this model has, in the published order."""
        names = ("vision", "text", "audio", "depth", "thermal", "imu")
        return {name: sense for name in names if (sense := getattr(self, name)) is not None}


HUGE = ImageBindConfig(
    embed_dim=1024,
    vision=SenseConfig(width=1280, blocks=32, heads=16),
    text=SenseConfig(width=1024, blocks=24, heads=16),
    audio=SenseConfig(width=768, blocks=12, heads=12, scale=20.0),
    depth=SenseConfig(width=384, blocks=12, heads=8, scale=5.0),
    thermal=SenseConfig(width=768, blocks=12, heads=12, scale=10.0),
    imu=SenseConfig(width=512, blocks=6, heads=8, scale=5.0),
)


def tokens_of(config: ImageBindConfig, kind: str) -> int:
    """Tokens that a medium of a kind, or a text, is to the model: those of all its clips."""
    if kind == "text":
        return config.context_length
    if kind == "imu":
        return IMU_SAMPLES // IMU_PATCH + 1
    if kind in SENSED_KINDS:
        return (config.image_size // SENSED_PATCH) ** 2 + 1
    if kind == "audio":
        sides = (config.mel_bins, config.mel_frames)
        patches = [(side - config.audio_patch) // config.audio_stride + 1 for side in sides]
        return config.audio_clips * (patches[0] * patches[1] + 1)
    clips = config.video_clips * config.video_crops if kind == "video" else 1
    return clips * ((config.image_size // config.vision_patch) ** 2 + 1)


def prepare(config: ImageBindConfig, kind: str, media: Any) -> torch.Tensor:
    """One medium as the model's float32 input, without the batch axis.

    image: PIL image -> (3, H, W). audio: (float samples (N,), rate) -> (S, 1, mel, F).
    video: uint8 (T, H, W, 3), or (that, frames per second) -> (S, 3, 2, H, W). Other senses: `sensed_inputs`.
    Raises ValueError for another kind, an empty or misshapen medium.
    """
    if kind == "image":
        return prepare_image(config, media)
    if kind == "audio":
        return prepare_audio(config, *media)
    if kind == "video":
        frames, fps = media if isinstance(media, tuple) else (media, None)
        return prepare_video(config, frames, fps)
    if kind in SENSED_KINDS:
        return prepare_sensed(config.image_size, kind, media)
    raise ValueError(
        f"kind must be one of {', '.join(sorted({*SENSE_OF_KIND} - {'text'}))}, not {kind!r}"
    )


def prepare_image(config: ImageBindConfig, image: Image.Image) -> torch.Tensor:
    """PIL image -> (3, H, W) float32: short side by bicubic, centre crop, CLIP normalisation."""
    size = config.image_size
    image = image.convert("RGB")
    short = min(image.size)
    if max(image.size) > NARROWEST * short:
        image = image.resize((size, size), Image.Resampling.BICUBIC, _middle(image.size))
    elif short != size:
        width, height = image.size
        image = image.resize(
            (max(size, size * width // short), max(size, size * height // short)),
            Image.Resampling.BICUBIC,
        )
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
    return normalise_pixels(pixels)


def _middle(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest square in the middle of a picture of this size: left, top, right, bottom."""
    short = min(size)
    left, top = ((side - short) / 2 for side in size)
    return left, top, left + short, top + short


def normalise_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (..., 3, H, W) or float 0..255 -> float32 with CLIP's mean and deviation."""
    mean = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def clip_starts(seconds: float, clip_seconds: float, clips: int) -> list[float]:
    """Start of each of `clips` evenly spaced clips; a medium shorter than one repeats it."""
    room = max(seconds - clip_seconds, 0.0)
    return [room / max(clips - 1, 1) * i for i in range(clips)]


def film_clips(config: ImageBindConfig, frames: int, fps: float | None) -> np.ndarray:
    """The frames to read of a film of `frames` frames: int indices (clips, 2), for any decoder.

    With `fps` and a clip length, the published rule: the first and last frame of each clip.
    Otherwise pairs from a spread over the whole film.
    """
    if frames < 1:
        raise ValueError("a film needs at least one frame")
    count, length = config.video_clips, config.video_clip_seconds
    if fps is None or length is None:
        spread = np.linspace(0, frames - 1, count * FRAMES_PER_CLIP).round().astype(int)
        return spread.reshape(count, FRAMES_PER_CLIP)
    starts = clip_starts(frames / fps, length, count)
    firsts = [min(int(np.ceil(fps * start)), frames - 1) for start in starts]
    lasts = [min(int(np.ceil(fps * (start + length))), frames) - 1 for start in starts]
    return np.array([[a, max(a, b)] for a, b in zip(firsts, lasts, strict=True)])


def prepare_video(
    config: ImageBindConfig, frames: np.ndarray, fps: float | None = None
) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> (clips x crops, 3, 2, size, size) float32."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"a film is uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    picked = film_clips(config, len(frames), fps)
    pixels = torch.from_numpy(frames[picked]).permute(0, 4, 1, 2, 3)  # (clips, 3, 2, H, W)
    places, size, short = _places(config.video_crops), config.image_size, min(frames.shape[1:3])
    if max(frames.shape[1:3]) > NARROWEST * short:
        crops = [_short_side(_crop(pixels, short, place).float(), size) for place in places]
    else:
        scaled = _short_side(pixels.float(), size)
        crops = [_crop(scaled, size, place) for place in places]
    crops = [normalise_pixels(crop.transpose(1, 2)).transpose(1, 2) for crop in crops]
    return torch.stack(crops, dim=1).flatten(0, 1)


def _short_side(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """(clips, 3, 2, H, W) scaled so that the short side is `size` (bilinear, as published)."""
    height, width = pixels.shape[-2:]
    short = min(height, width)
    if short == size:
        return pixels
    target = (size * height // short, size * width // short)
    scaled = F.interpolate(pixels.flatten(0, 1), target, mode="bilinear", align_corners=False)
    return scaled.unflatten(0, pixels.shape[:2])


def _places(crops: int) -> tuple[float, ...]:
    if crops not in (1, 3):
        raise ValueError(f"video_crops must be 1 or 3, not {crops}")
    return (0.5,) if crops == 1 else (0.0, 0.5, 1.0)


def _crop(pixels: torch.Tensor, size: int, place: float) -> torch.Tensor:
    """Square crop at the start, middle or end (0, 0.5, 1) of the longer side."""
    height, width = pixels.shape[-2:]
    top, left = (int(np.ceil((side - size) * place)) for side in (height, width))
    return pixels[..., top : top + size, left : left + size]


def prepare_audio(config: ImageBindConfig, samples: np.ndarray, rate: int) -> torch.Tensor:
    """Mono float samples (N,) in [-1, 1] at `rate` Hz -> (clips, 1, mel, F) float32."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"a sound is mono samples (N,), not {samples.shape}")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    seconds, length = len(samples) / SAMPLE_RATE, config.audio_clip_seconds
    spans = [
        (int(start * SAMPLE_RATE), int((start + length) * SAMPLE_RATE))
        for start in clip_starts(seconds, length, config.audio_clips)
    ]
    clips = [log_mels(config, torch.from_numpy(samples[a:b])[None]) for a, b in spans]
    return torch.stack(clips)  # (S, 1, mel, F)


@functools.cache
def _filters(mel_bins: int) -> torch.Tensor:
    """Kaldi's triangular filters, (FFT / 2 + 1, mel)."""
    with warnings.catch_warnings():
        # 128 filters are more than the lowest frequencies can fill: the published recipe has them.
        warnings.filterwarnings("ignore", "At least one mel filter", UserWarning)
        bank = mel_filter_bank(
            num_frequency_bins=FFT // 2 + 1,
            num_mel_filters=mel_bins,
            min_frequency=20.0,
            max_frequency=SAMPLE_RATE / 2,
            sampling_rate=SAMPLE_RATE,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return torch.from_numpy(bank).float()


def log_mels(config: ImageBindConfig, samples: torch.Tensor) -> torch.Tensor:
    """Samples (B, N) at 16 kHz -> normalised Kaldi log-mel banks (B, mel, F), padded or cut."""
    samples = F.pad(samples.float(), (0, max(0, WINDOW - samples.shape[-1])))
    frames = samples.unfold(-1, WINDOW, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - 0.97 * before) * torch.hann_window(WINDOW, periodic=False)
    power = torch.fft.rfft(frames, n=FFT).abs().square()
    mels = (power @ _filters(config.mel_bins)).clamp_min(torch.finfo(torch.float32).eps).log()
    mels = mels.transpose(-1, -2)[..., : config.mel_frames]
    mels = F.pad(mels, (0, config.mel_frames - mels.shape[-1]))
    return (mels - MEL_MEAN) / MEL_STD
