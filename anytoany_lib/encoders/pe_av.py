"""PE-AV, Meta's Perception Encoder for sound and sight (December 2025, Apache-2.0): pictures, clips and sounds in one space.

The two towers of transformers' `PeAudioVideoModel` and its own preparation, which need the extra `pe-av` (timm, torchvision). A picture is a clip of
one frame. States are the frames of a clip, and of a sound its steps of 40 ms, through the head that makes the pooled vectors,
as `PeAudioFrameLevelModel` does it; PE-AV has no patch tokens behind its frames. Legend: B media, T frames, N samples.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from anytoany_lib.config import EncoderConfig, resolve
from anytoany_lib.encoders.frozen import (
    LIVE_WIDTHS,
    FrozenEncoder,
    Seen,
    check_folder,
)
from anytoany_lib.system.runs import compare

FRAMES = 16  # of a clip, evenly spread, as the published models of 16 frames read
SECONDS = 10.0  # of a sound that are heard
NEEDED = ("timm", "torchvision")
_STORED = {
    "video_model.video_encoder.": "video.",
    "video_model.video_head.": "video_head.",
    "audio_model.audio_encoder.": "audio.",
    "audio_model.audio_head.": "audio_head.",
}
_LIVE_SAMPLES = 3  # numbers that the codec's first convolutions hold of every sample and channel


def _own_name(name: str) -> str:
    """A published weight's name here."""
    begin = next(begin for begin in _STORED if name.startswith(begin))
    return _STORED[begin] + name.removeprefix(begin)


class PeAv(FrozenEncoder):
    """Clips (T, 3, H, W) and sounds (2, N), whose second row says which samples are sound."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype):
        super().__init__(config)
        if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            raise ImportError(
                f'the encoder pe-av needs {" and ".join(absent)}: pip install "anytoany[pe-av]"'
            )
        from transformers import (
            PeAudioEncoder,
            PeAudioFeatureExtractor,
            PeAudioVideoConfig,
            PeVideoEncoder,
            PeVideoVideoProcessor,
        )
        from transformers.models.pe_video.modeling_pe_video import PeVideoContrastiveHead

        folder = resolve(config.folder)
        check_folder(folder, "pe_audio_video")
        sizes = PeAudioVideoConfig.from_pretrained(folder, local_files_only=True)
        both, width = sizes.audio_video_config, sizes.text_config.hidden_size
        self.video = PeVideoEncoder(both.video_config)
        self.video_head = PeVideoContrastiveHead(both.video_config.hidden_size, width)
        self.audio = PeAudioEncoder(both.audio_config)
        self.audio_head = PeVideoContrastiveHead(both.audio_config.hidden_size, width)
        self._load(folder)
        for parameter in self.parameters():  # buffers of rotary positions stay in float32
            parameter.data = parameter.data.to(dtype)
        self.requires_grad_(False).eval()
        self._pixels = PeVideoVideoProcessor.from_pretrained(folder, local_files_only=True)
        self._samples = PeAudioFeatureExtractor.from_pretrained(folder, local_files_only=True)

    def _load(self, folder: Path) -> None:
        """Of the published weights those of the two towers: the text model and the tower of sound and sight are not asked.

        transformers' own loading (5.23) ties the third tower to these, and takes rotary buffers of timm 1.0.31 for parameters.
        """
        file = folder / "model.safetensors"
        with safe_open(file, framework="pt") as stored:
            names = [n for n in stored.keys() if n.startswith(tuple(_STORED))]  # noqa: SIM118
            weights = {_own_name(name): stored.get_tensor(name) for name in names}
        compare(self.state_dict(), weights, f"{file} does not fit this PE-AV")
        self.load_state_dict(weights)

    @property
    def width(self) -> int:
        """Of the space that all kinds share."""
        return self.video_head.proj.out_features

    def prepare(self, kind: str, medium: Any) -> Tensor:
        """See `Encoder`. Of a sound the first `SECONDS` are heard."""
        if kind == "audio":
            return self._sound(*medium)
        if kind == "image":
            frames = np.asarray(medium.convert("RGB"))[None]
        else:
            frames = medium[0] if isinstance(medium, tuple) else medium
            frames = frames[np.linspace(0, len(frames) - 1, FRAMES).astype(int)]
        clip = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)  # (T, 3, H, W)
        read = self._pixels(videos=[clip], do_sample_frames=False, return_tensors="pt")
        return read["pixel_values_videos"][0]

    def _sound(self, samples: np.ndarray, rate: int) -> Tensor:
        at, hop = self._samples.sampling_rate, self._samples.hop_length
        samples = samples if rate == at else soxr.resample(samples, rate, at)
        most = int(SECONDS * at) // hop * hop
        heard = self._samples(samples[:most], sampling_rate=at, return_tensors="pt")
        both = torch.cat([heard["input_values"][0], heard["padding_mask"].float()])
        return functional.pad(both, (0, most - both.shape[-1]))

    def look(self, kind: str, x: Tensor) -> Seen:
        """See `FrozenEncoder`."""
        if kind != "audio":
            seen = self.video(pixel_values_videos=x)
            return Seen(
                self.video_head(seen.pooler_output), self.video_head(seen.last_hidden_state)
            )
        heard = self.audio(input_values=x[:, :1], padding_mask=x[:, 1] > 0.5)
        counts = heard.output_mask.sum(-1).tolist()
        pooled, states = heard.pooler_output, heard.last_hidden_state
        return Seen(self.audio_head(pooled), self.audio_head(states), counts)

    def row_bytes(self, kind: str) -> int:
        """See `FrozenEncoder`."""
        if kind == "audio":
            channels = self.audio.config.dac_config.encoder_hidden_size
            samples = int(SECONDS * self._samples.sampling_rate)
            return _LIVE_SAMPLES * channels * samples * self.itemsize
        eyes = self.video.embedder.vision_model.timm_model
        frames = FRAMES if kind == "video" else 1
        return LIVE_WIDTHS * frames * eyes.patch_embed.num_patches * eyes.embed_dim * self.itemsize
