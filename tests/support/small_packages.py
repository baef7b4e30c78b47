"""A stand-in for the packages of the small world: drawn discs in the place of pictures, a sine in the place of instruments."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from anytoany_lib.smallworld import packages
from anytoany_lib.smallworld.things import DRUMS, TABLE

SIDE, MOVING = 48, ("dog", "bird")
_RATE, _KEY, _PERIOD = (
    16_000,
    60,
    64,
)  # of the sine, which is 250 Hz where it is played at its own key
_INSTRUMENT, _SAMPLE, _MODES, _LOOPED = 41, 53, 54, 1  # generators of a SoundFont


def disc(radius: float) -> Image.Image:
    """A brown disc with a dark eye, among transparency."""
    picture, middle = Image.new("RGBA", (SIDE, SIDE)), SIDE / 2
    draw = ImageDraw.Draw(picture)
    box = [middle - radius, middle - radius, middle + radius, middle + radius]
    draw.ellipse(box, (180, 130, 90, 255))
    draw.ellipse([middle - 3, middle - 9, middle + 3, middle - 3], (20, 20, 20, 255))
    return picture


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _name(text: str) -> bytes:
    return text.encode().ljust(20, b"\0")


def soundfont(presets: Iterable[tuple[int, int]]) -> bytes:
    """A SoundFont 2.1 file with these (bank, program) presets, all of them a sine."""
    presets = sorted(presets)
    time = np.arange(_PERIOD * 40)
    sine = (20_000 * np.sin(2 * np.pi * time / _PERIOD)).astype("<i2")
    info = _chunk(b"ifil", struct.pack("<HH", 2, 1)) + _chunk(b"isng", b"EMU8000\0")
    info += _chunk(b"INAM", b"stand-in")
    samples = sine.tobytes() + bytes(2 * 46)
    heads = b"".join(
        _name(f"{bank} {program}") + struct.pack("<HHHIII", program, bank, at, 0, 0, 0)
        for at, (bank, program) in enumerate(presets)
    )
    heads += _name("EOP") + struct.pack("<HHHIII", 0, 0, len(presets), 0, 0, 0)
    bags = b"".join(struct.pack("<HH", at, 0) for at in range(len(presets) + 1))
    uses = struct.pack("<HH", _INSTRUMENT, 0) * len(presets) + bytes(4)
    zone = struct.pack("<HHHH", _MODES, _LOOPED, _SAMPLE, 0) + bytes(4)
    place = struct.pack(
        "<IIIIIBbHH", 0, len(sine), _PERIOD, len(sine) - _PERIOD, _RATE, _KEY, 0, 0, 1
    )
    parts = [
        (b"phdr", heads),
        (b"pbag", bags),
        (b"pmod", bytes(10)),
        (b"pgen", uses),
        (b"inst", _name("sine") + struct.pack("<H", 0) + _name("EOI") + struct.pack("<H", 1)),
        (b"ibag", struct.pack("<HHHH", 0, 0, 2, 0)),
        (b"imod", bytes(10)),
        (b"igen", zone),
        (b"shdr", _name("sine") + place + _name("EOS") + bytes(26)),
    ]
    described = b"".join(_chunk(name, data) for name, data in parts)
    lists = _chunk(b"LIST", b"INFO" + info)
    lists += _chunk(b"LIST", b"sdta" + _chunk(b"smpl", samples))
    return _chunk(b"RIFF", b"sfbk" + lists + _chunk(b"LIST", b"pdta" + described))


def write(folder: Path) -> Path:
    """The folder that `packages.fetch` would make."""
    for name in (packages.PICTURES, packages.LOOPS):
        (folder / name).mkdir(parents=True)
    for thing in TABLE:
        disc(20).save(folder / packages.PICTURES / f"{thing.code}.webp", lossless=True)
        if thing.name in MOVING:
            first, *others = [disc(radius) for radius in (20, 17, 14, 17)]
            path = folder / packages.LOOPS / f"{thing.code}.webp"
            first.save(path, save_all=True, append_images=others, lossless=True)
    labels = [
        {"hexcode": thing.code.upper(), "label": thing.name, "tags": list(thing.also)}
        for thing in TABLE
    ]
    (folder / packages.LABELS).write_text(json.dumps(labels))
    voices = {(thing.voice.bank, thing.voice.program) for thing in TABLE if thing.voice}
    (folder / packages.INSTRUMENTS).write_bytes(soundfont({*voices, (DRUMS, 0)}))
    (folder / packages.MANIFEST).write_text('{"packages": []}')
    (folder / packages.LICENCES).write_text("# Nobody's\n")
    return folder
