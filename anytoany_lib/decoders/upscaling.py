"""Pictures and clips made larger for whoever looks at them: the last step of a decoder, and no part of what it made.

The network is Real-ESRGAN's small one for animation (SRVGGNetCompact in Wang et al., "Real-ESRGAN", ICCVW 2021, and its weights
realesr-animevideov3): convolutions with a PReLU after each but the last, whose channels become the pixels of a square, added to
the nearest pixel of the picture itself. What it changes of the light and colour of whole patches is taken back.
`checkpoints.upscaler` makes the folder that is read here.

B pictures or frames; H, W their sides in pixels.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from anytoany_lib.config import DecoderConfig, resolve
from anytoany_lib.gates.foreign_code import without_code
from anytoany_lib.system.files import read_json

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
_RGB = 3
_PATCH = 9  # pixels a side, over which light and colour are kept: wider than a line, whose edges are to change


class Upscaler(nn.Module):
    """Pictures `scale` times as wide and as high. `body` has the layers by their published names and numbers."""

    def __init__(self, scale: int, width: int, layers: int):
        super().__init__()
        self.scale = scale
        widths = [_RGB, *[width] * (layers - 1), _RGB * scale**2]
        steps: list[nn.Module] = []
        for before, after in pairwise(widths):
            steps += [nn.Conv2d(before, after, 3, padding=1), nn.PReLU(after)]
        self.body = nn.Sequential(*steps[:-1])

    @classmethod
    def from_folder(cls, folder: str | Path) -> Upscaler:
        """The network in a folder, on the CPU in float32, for use alone. FileNotFoundError or ValueError says what is wrong."""
        folder = resolve(folder)
        for name in (SETTINGS, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"no upscaler in {folder} (expected {name}): set `upscaler` in the profile's decoder to a folder that has "
                    "one, or `upscale: 1`, which shows media as they are made"
                )
        without_code(folder)
        try:
            network = cls(**read_json(folder / SETTINGS))
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{folder} holds no upscaler of this kit: expected scale, width and layers in {SETTINGS} and the weights of "
                f"that network in {WEIGHTS} ({error}); `python -m anytoany_lib.checkpoints.upscaler` makes such a folder"
            ) from error
        return network.requires_grad_(False).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels from 0 to 1 (B, 3, H, W) -> (B, 3, H * scale, W * scale), which may go a little beyond."""
        detail = F.pixel_shuffle(self.body(pixels), self.scale)
        return detail + F.interpolate(pixels, scale_factor=self.scale, mode="nearest")

    def in_tone(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same as `forward`, and over every patch as light and as coloured as the pixels are.

        The network alone makes grey grounds some levels lighter, with a faint halo around what stands on them.
        """
        larger = self(pixels)
        lost = pixels - F.avg_pool2d(larger, self.scale)
        lost = F.avg_pool2d(lost, _PATCH, stride=1, padding=_PATCH // 2, count_include_pad=False)
        return larger + F.interpolate(lost, scale_factor=self.scale, mode="bilinear")

    @torch.inference_mode()
    def frames(self, frames: np.ndarray) -> np.ndarray:
        """Pictures uint8 (B, H, W, 3) -> uint8 (B, H * scale, W * scale, 3), one at a time: each is what it would be alone."""
        weight = next(self.parameters())
        larger = []
        for frame in frames:
            pixels = torch.tensor(frame, device=weight.device).movedim(-1, 0)[None]
            pixels = (pixels / 255).to(weight.dtype, memory_format=torch.channels_last)
            made = (self.in_tone(pixels)[0].float() * 255).round().clamp(0, 255).to(torch.uint8)
            larger.append(made.movedim(0, -1).cpu().numpy())
        return np.stack(larger)

    def enlarged(self, medium: dict[str, Any]) -> dict[str, Any]:
        """What a part with this picture (PIL) or clip (uint8 (T, H, W, 3)) has beside it: {"enlarged": the same, larger}."""
        if "video" in medium:
            return {"enlarged": self.frames(medium["video"])}
        pixels = np.asarray(medium["image"].convert("RGB"))
        return {"enlarged": Image.fromarray(self.frames(pixels[None])[0])}


def upscaler_of(config: DecoderConfig) -> Upscaler | None:
    """The upscaler that a decoder's profile asks for, None if it asks for none. ValueError if the folder's makes another size."""
    if not config.enlarges:
        return None
    network = Upscaler.from_folder(config.upscaler)
    if network.scale != config.upscale:
        raise ValueError(
            f"the profile says upscale: {config.upscale}, the upscaler in {config.upscaler} makes media {network.scale} times "
            f"as large: set upscale to {network.scale}, or name another upscaler"
        )
    return network
