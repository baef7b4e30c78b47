"""The log-mel picture of a sound, as AudioLDM's autoencoder reads it.

Samples at 16 kHz go in; out comes a time-first picture (frames, 64) of log energies: magnitude STFT (Hann window of 1024
samples, hop 160, reflected by 432 samples at both ends, so N samples give N / 160 frames), 64 Slaney mel bands up to 8 kHz
with Slaney area normalisation, natural logarithm with a floor of 1e-5.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from anytoany_lib.system.files import write_file

RATE = 16_000
MEL_BINS = 64
HOP = 160
WINDOW = 1024
FLOOR = 1e-5
FILE = "log_mel.json"


@lru_cache(maxsize=8)
def filters(window: int = WINDOW, bands: int = MEL_BINS) -> Tensor:
    """Mel filter bank (window // 2 + 1, bands), float32."""
    bank = mel_filter_bank(
        num_frequency_bins=window // 2 + 1,
        num_mel_filters=bands,
        min_frequency=0.0,
        max_frequency=RATE / 2,
        sampling_rate=RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank).float()


@lru_cache(maxsize=8)
def _hann(window: int) -> Tensor:
    return torch.hann_window(window)


def spectrum(samples: Tensor, window: int = WINDOW, hop: int = HOP) -> Tensor:
    """Magnitude STFT of samples (B, N) float32 -> (B, window // 2 + 1, N // hop)."""
    edge = (window - hop) // 2
    padded = F.pad(samples, (edge, edge), mode="reflect")
    waves = torch.stft(
        padded, window, hop_length=hop, window=_hann(window), center=False, return_complex=True
    )
    # abs() of a complex zero has no gradient; the small constant keeps training finite
    return (waves.real.square() + waves.imag.square() + 1e-9).sqrt()


def mel_energies(
    samples: Tensor, window: int = WINDOW, hop: int = HOP, bands: int = MEL_BINS
) -> Tensor:
    """Magnitudes of samples (B, N) float32 summed in mel bands: (B, N // hop, bands)."""
    return spectrum(samples, window, hop).transpose(1, 2) @ filters(window, bands)


def log_mel(samples: Tensor) -> Tensor:
    """Log-mel of samples (B, N) float32 at 16 kHz -> (B, N // 160, 64) float32."""
    return mel_energies(samples).clamp(min=FLOOR).log()


@dataclass(frozen=True)
class Levels:
    """How loud an autoencoder expects sounds, and on which scale it reads their log-mels."""

    peak: float | None = 0.5
    """Sounds are centred and scaled to this peak, as AudioLDM's training did; None leaves them as they are."""
    mean: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, folder: Path) -> Levels:
        """Those in a decoder folder's log_mel.json; AudioLDM's own where there is none."""
        file = folder / FILE
        return cls(**json.loads(file.read_text())) if file.is_file() else cls()

    def save(self, folder: str | Path) -> None:
        """Notes them in a decoder's folder."""
        write_file(Path(folder) / FILE, json.dumps(asdict(self)) + "\n")

    def picture(self, samples: Tensor) -> Tensor:
        """What the autoencoder reads of samples (B, N) float32 at 16 kHz: (B, N // 160, 64)."""
        if self.peak is not None:
            samples = samples - samples.mean(-1, keepdim=True)
            loudest = samples.abs().amax(-1, keepdim=True)
            samples = self.peak * samples / loudest.clamp(min=1e-8)
        return (log_mel(samples) - self.mean) / self.spread
