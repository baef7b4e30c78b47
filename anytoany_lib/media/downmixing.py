"""Downmixing: the channels of a sound become one, so that nothing that can be heard cancels.

Blocks of samples (N, C) go in, as often as they are asked for, and mono (N,) comes out: the mean of the channels, unless
some band is lost in it. Channels of opposite sign, as a wrongly wired cable gives, would otherwise become silence.
Legend: N samples, C channels, W samples of a window, F frequencies, B bands.
"""

from collections.abc import Callable, Iterator

import numpy as np

from anytoany_lib.media.containers import MediaError

Blocks = Callable[[], Iterator[np.ndarray]]

_WINDOW = 2048
# Of a band's power, -25 dB: less remains only of channels that are each other's negative.
_LOST = 0.003
_SHARE = 0.01  # of the whole power, -20 dB: what is lost below that is not heard beside the rest


def downmix(blocks: Blocks) -> np.ndarray:
    """Mono (N,) of float32 blocks (n, C), asked for again if their mean loses something. MediaError if a sample is not a number."""
    means, bands = [], _Bands()
    for block in filter(np.size, blocks()):
        if not np.isfinite(block).all():
            raise MediaError("unreadable", "the sound has samples that are not numbers")
        means.append(block.mean(axis=1))
        bands.add(block)
    weights = bands.weights()
    if weights is not None:
        means = [block @ weights for block in blocks()]
    mono = np.concatenate(means) if means else np.empty(0, np.float32)
    if not np.isfinite(mono).all():
        raise MediaError("unreadable", "the sound has samples beyond what can be added")
    return mono


class _Bands:
    """How the channels go together in each third of an octave: their summed cross-spectra (B, C, C)."""

    def __init__(self) -> None:
        self._power: np.ndarray | None = None
        steps = np.arange(3 * int(np.log2(_WINDOW)))
        self._edges = np.unique(np.round(2 ** (steps / 3)).astype(int))
        self._edges = self._edges[self._edges <= _WINDOW // 2]
        self._shape = np.hanning(_WINDOW)[:, None]

    def add(self, block: np.ndarray) -> None:
        """Takes a block (n, C) in; of one channel there is nothing to know."""
        channels = block.shape[1]
        if channels == 1:
            return
        padded = np.pad(block, ((0, -len(block) % _WINDOW), (0, 0)))
        windows = padded.reshape(-1, _WINDOW, channels) * self._shape  # (n / W, W, C)
        spectra = np.fft.rfft(windows, axis=1).transpose(1, 2, 0)  # (F, C, n / W)
        power = (spectra @ spectra.conj().transpose(0, 2, 1)).real  # (F, C, C)
        bands = np.add.reduceat(power, self._edges, axis=0)  # (B, C, C), without what stands still
        self._power = bands if self._power is None else self._power + bands

    def weights(self) -> np.ndarray | None:
        """Weights (C,) of the channels that lose least, float32; None if the mean loses nothing that is heard."""
        if self._power is None:
            return None
        whole = self._power.sum(axis=0)  # (C, C)
        loudest = int(whole.diagonal().argmax())
        channels = len(whole)
        mean = np.full(channels, 1 / channels)
        signed = np.where(whole[loudest] < 0, -mean, mean)
        alone = np.eye(channels)[loudest]
        if self._lost(mean) < _SHARE:
            return None
        return min((signed, alone, mean), key=self._lost).astype(np.float32)

    def _lost(self, weights: np.ndarray) -> float:
        """The share of the channels' power in the bands of which these weights leave nothing."""
        assert self._power is not None
        held = self._power.trace(axis1=1, axis2=2) / len(weights)  # (B,)
        left = np.einsum("c,bcd,d->b", weights, self._power, weights)
        return float(held[left < _LOST * held].sum() / max(held.sum(), np.finfo(float).tiny))
