"""The log-mel picture of a sound, as the tiny audio decoder and the audio judge see it.

It is AudioLDM's (`anytoany_lib.decoders.mels`) minus the mean of the toy world's sounds, over their spread. Silence is about -1.5 and
a loud tone about 2.3. The autoencoder codes these numbers and the vocoder reads them as they are.
"""

import torch
from torch import Tensor

from anytoany_lib.decoders.mels import RATE, WINDOW, Levels, filters

SAMPLES = 32_000
LEVELS = Levels(peak=None, mean=-6.0, spread=3.6)


def normalised_mel(samples: Tensor) -> Tensor:
    """Normalised log-mel of samples (B, N) float32 at 16 kHz -> (B, N // 160, 64) float32."""
    return LEVELS.picture(samples)


def band_tones() -> tuple[Tensor, Tensor]:
    """Centre frequencies of the mel bands in Hz, and the amplitude of a tone for an energy of one; (64,) both."""
    bank = filters()
    hertz = torch.linspace(0, RATE / 2, len(bank))
    peaks = bank.amax(0)
    # a Hann window sums to WINDOW / 2, half of a tone's amplitude lies at its positive frequency,
    # and its main lobe counts twice in a band that is wider than it
    return (bank * hertz[:, None]).sum(0) / bank.sum(0), 1 / (WINDOW / 2 * peaks)
