"""SigLIP2 for pictures and clips beside Whisper's encoder for sounds: two models under permissive licences, a kind each.

SigLIP2 (arXiv 2502.14786, Apache-2.0) in its fixed resolutions, which are published as `siglip` models; Whisper (arXiv
2212.04356, Apache-2.0, MIT) of any size, its decoder left out. Their spaces have nothing in common, so each has columns of
its own: a vector is [SigLIP2, 0] or [0, Whisper], and one linear map of it is one map for each of them.
Legend: B media, T frames of a clip, L states, D both widths together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    SiglipImageProcessorPil,
    SiglipModel,
    WhisperFeatureExtractor,
    WhisperModel,
)

from anytoany_lib.config import EncoderConfig, resolve
from anytoany_lib.encoders.frozen import LIVE_WIDTHS, FrozenEncoder, Seen, load_frozen

FRAMES = 8  # of a clip, evenly spread
HALVED = 2  # mel frames of a state of Whisper's: its second convolution has stride 2


class SiglipWhisper(FrozenEncoder):
    """Pictures (3, H, W), clips (T, 3, H, W) and sounds (mel + 1, frames), whose last row says which frames are sound."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype):
        super().__init__(config)
        eyes, ears = resolve(config.folder), resolve(config.audio_folder or "")
        self.vision = load_frozen(SiglipModel, eyes, "siglip", dtype).vision_model
        self.audio = load_frozen(WhisperModel, ears, "whisper", dtype).encoder
        self._pixels = SiglipImageProcessorPil.from_pretrained(eyes, local_files_only=True)
        self._mels = WhisperFeatureExtractor.from_pretrained(ears, local_files_only=True)
        self.seen, self.heard = self.vision.config.hidden_size, self.audio.config.d_model

    @property
    def width(self) -> int:
        """Columns of both models."""
        return self.seen + self.heard

    def prepare(self, kind: str, medium: Any) -> Tensor:
        """See `Encoder`. Of a sound the first 30 s are heard."""
        if kind == "audio":
            return self._sound(*medium)
        if kind == "image":
            return self._pixels(medium.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        frames = medium[0] if isinstance(medium, tuple) else medium
        picked = frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
        pictures = [Image.fromarray(frame) for frame in picked]
        return self._pixels(pictures, return_tensors="pt")["pixel_values"]

    def _sound(self, samples: np.ndarray, rate: int) -> Tensor:
        at = self._mels.sampling_rate
        samples = samples if rate == at else soxr.resample(samples, rate, at)
        heard = self._mels(
            samples, sampling_rate=at, return_tensors="pt", return_attention_mask=True
        )
        return torch.cat([heard["input_features"][0], heard["attention_mask"].float()])

    def look(self, kind: str, x: Tensor) -> Seen:
        """See `FrozenEncoder`. A clip's vector is the mean of its frames', a sound's the mean of the states that are sound."""
        if kind == "audio":
            states = self.audio(x[:, :-1]).last_hidden_state
            frames = (x[:, -1] > 0.5).sum(-1)
            counts = (frames / HALVED).ceil().clamp(1, states.shape[1]).int().tolist()
            rows = [row[:count].mean(0) for row, count in zip(states, counts, strict=True)]
            return Seen(self._beside(torch.stack(rows)), self._beside(states), counts)
        seen = self.vision(pixel_values=x.reshape(-1, *x.shape[-3:]))
        pooled = seen.pooler_output.unflatten(0, (len(x), -1)).mean(1)
        states = seen.last_hidden_state.unflatten(0, (len(x), -1)).flatten(1, 2)  # (B, T * L, D)
        return Seen(self._beside(pooled, eyes=True), self._beside(states, eyes=True))

    def _beside(self, x: Tensor, eyes: bool = False) -> Tensor:
        """A model's values in its columns, zeros in the other's."""
        return functional.pad(x, (0, self.heard) if eyes else (self.seen, 0))

    def row_bytes(self, kind: str) -> int:
        """See `FrozenEncoder`."""
        if kind == "audio":
            return LIVE_WIDTHS * self.audio.config.max_source_positions * self.heard * self.itemsize
        tokens = (self.vision.config.image_size // self.vision.config.patch_size) ** 2
        tokens *= FRAMES if kind == "video" else 1
        return LIVE_WIDTHS * tokens * self.seen * self.itemsize
