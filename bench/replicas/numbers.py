"""Random numbers as weights files, fast: a block of them is drawn once and repeated, and memory holds little more than it.

`write` makes a .safetensors, or a file as torch.save makes it (.bin, .pth, .pt), of a table of tensors. Norms are one and
biases zero, matrices as wide as their fan-in wants, so that what is computed with them stays finite.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import torch
from torch._subclasses import FakeTensorMode

from .tables import DTYPES, Table, bytes_of

_BLOCK = 1_000_003  # a prime, so that no two rows begin alike
_SCALES = {"audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}  # ImageBind's fixed ones


class Numbers:
    """The values of tensors. With `difference`, those of a model that is to be added to another: norms stay as they are."""

    def __init__(self, seed: int = 0, difference: bool = False):
        self._block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(seed))
        self._one = 0.0 if difference else 1.0

    def write(
        self, put: Callable[[memoryview], object], name: str, shape: tuple, dtype: str
    ) -> None:
        """Hands the tensor's bytes to `put`, piece by piece."""
        left, block = bytes_of(shape, dtype), self._values(name, shape, dtype)
        raw = memoryview(block.contiguous().view(torch.uint8).numpy()).cast("B")
        start = zlib.crc32(name.encode()) % block.numel() * block.itemsize
        start = start if left > len(raw) else 0
        while left:
            piece = raw[start : start + left]
            put(piece)
            left, start = left - len(piece), 0

    def _values(self, name: str, shape: tuple, dtype: str) -> torch.Tensor:
        """All numbers of a small or special tensor, or a block of numbers to be repeated."""
        last, count = name.rpartition(".")[2], math.prod(shape)
        if dtype == "I64":
            return torch.arange(count) if last == "position_ids" else torch.zeros(count).long()
        if last == "inv_freq":
            return 10000 ** -(torch.arange(count) / count)
        if last == "mask" and len(shape) == 2:
            return torch.full(shape, -torch.inf).triu(1).flatten()
        if last == "log_logit_scale":
            return torch.tensor([math.log(_SCALES.get(name.split(".")[1], 1 / 0.07))])
        if len(shape) == 1 and last.endswith(("weight", "weights", "scale")):
            return torch.full((count,), self._one).to(DTYPES[dtype])
        if last.endswith(("bias", "mean")):
            return torch.zeros(count).to(DTYPES[dtype])
        embeds = len(shape) < 2 or "embed" in name or "token" in name
        spread = 0.02 if embeds else 1 / math.sqrt(3 * math.prod(shape[1:]))
        return (spread * self._block[: max(1, count)]).to(DTYPES[dtype])


def write(file: Path, table: Table, numbers: Numbers) -> None:
    """A weights file of that table, in the format that its name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        _safetensors(file, table, numbers)
    else:
        _pickled(file, table, numbers)


def safetensors_head(table: Table) -> tuple[bytes, list[str]]:
    """What stands before the numbers, as the library writes it, and the names in the order of the numbers."""
    names = sorted(table, key=lambda name: (-DTYPES[table[name][1]].itemsize, name))
    head: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape, dtype = table[name]
        begin, end = end, end + bytes_of(shape, dtype)
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, names


def _safetensors(file: Path, table: Table, numbers: Numbers) -> None:
    head, names = safetensors_head(table)
    with file.open("wb", buffering=0) as out:
        out.write(head)
        for name in names:
            numbers.write(out.write, name, *table[name])


def _pickled(file: Path, table: Table, numbers: Numbers) -> None:
    """torch.save leaves room for the numbers, which are then written into it: memory never holds the tensors."""
    with FakeTensorMode():
        state = {name: torch.empty(shape, dtype=DTYPES[d]) for name, (shape, d) in table.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, file)
    with ZipFile(file) as archive:
        found = {entry.filename: entry.header_offset for entry in archive.infolist()}
    records = {int(name.rpartition("/")[2]): at for name, at in found.items() if "/data/" in name}
    with file.open("r+b", buffering=0) as out:
        for number, (name, (shape, dtype)) in enumerate(table.items()):
            out.seek(records[number] + 26)
            out.seek(records[number] + 30 + sum(struct.unpack("<HH", out.read(4))), os.SEEK_SET)
            numbers.write(out.write, name, shape, dtype)
