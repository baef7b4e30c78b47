"""The log-mel picture of a sound, as the tiny audio decoder and the audio judge see it.

Samples at 16 kHz go in; out comes a time-first picture (frames, 64) of normalised log energies:
magnitude STFT (Hann window of 1024 samples, hop 160, reflected by 432 samples at both ends, so N
samples give N / 160 frames), 64 Slaney mel bands up to 8 kHz with Slaney area normalisation,
natural logarithm with a floor of 1e-5, minus LOG_MEAN, over LOG_SPREAD. Silence is about -1.5 and
a loud tone about 2.3. The autoencoder codes these numbers and the vocoder reads them as they are.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

RATE = 16_000
SAMPLES = 32_000
MEL_BINS = 64
HOP = 160
WINDOW = 1024
FLOOR = 1e-5
LOG_MEAN = -6.0
LOG_SPREAD = 3.6


@lru_cache(maxsize=8)
def _filters(window: int = WINDOW, bands: int = MEL_BINS) -> Tensor:
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
    return spectrum(samples, window, hop).transpose(1, 2) @ _filters(window, bands)


def log_mel(samples: Tensor) -> Tensor:
    """Normalised log-mel of samples (B, N) float32 at 16 kHz -> (B, N // 160, 64) float32."""
    return (mel_energies(samples).clamp(min=FLOOR).log() - LOG_MEAN) / LOG_SPREAD


def band_tones() -> tuple[Tensor, Tensor]:
    """Centre frequencies of the mel bands in Hz, and the amplitude of a tone for an energy of one; (64,) both."""
    bank = _filters()
    hertz = torch.linspace(0, RATE / 2, len(bank))
    peaks = bank.amax(0)
    # a Hann window sums to WINDOW / 2, half of a tone's amplitude lies at its positive frequency,
    # and its main lobe counts twice in a band that is wider than it
    return (bank * hertz[:, None]).sum(0) / bank.sum(0), 1 / (WINDOW / 2 * peaks)
