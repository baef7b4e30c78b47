"""The folder of packages, opened: pictures and loops of things with their transparency, their names, and the instruments."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from anytoany_lib.smallworld.packages import INSTRUMENTS, LABELS, LOOPS, MANIFEST, PICTURES
from anytoany_lib.smallworld.sounds import Instruments
from anytoany_lib.smallworld.things import TABLE, THINGS, Thing
from anytoany_lib.system.files import read_json

LOOP_FRAMES = 16  # of a clip, taken evenly from a loop


class World:
    """What the things look and sound like, from the folder that `packages.fetch` made.

    FileNotFoundError or ValueError if a thing has no picture, or is not called what `things` calls it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"no packages in {self.folder} (expected {MANIFEST}): `make small-data` fetches them"
            )
        entries = {_plain(one["hexcode"]): one for one in read_json(self.folder / LABELS)}
        for thing in TABLE:
            _check(thing, entries.get(_plain(thing.code)), self.folder)
        self.picture = lru_cache(maxsize=None)(self._picture)
        self.loop = lru_cache(maxsize=8)(self._loop)

    @cached_property
    def instruments(self) -> Instruments:
        """The bank of instruments, opened on first use: it takes a second and 300 MB."""
        return Instruments(self.folder / INSTRUMENTS)

    def _picture(self, name: str) -> Image.Image:
        """A thing as RGBA, cut to what can be seen of it."""
        with Image.open(self._file(PICTURES, name)) as picture:
            return _cut([picture.convert("RGBA")])[0]

    def _loop(self, name: str) -> tuple[Image.Image, ...]:
        """A thing moving on its spot, LOOP_FRAMES frames as RGBA, all cut alike; without a loop its picture again and again."""
        path = self.folder / LOOPS / f"{THINGS[name].code}.webp"
        if not path.is_file():
            return (self.picture(name),) * LOOP_FRAMES
        with Image.open(path) as loop:
            count, frames = getattr(loop, "n_frames", 1), []
            if count == 1:
                return (self.picture(name),) * LOOP_FRAMES
            for at in np.linspace(0, count, LOOP_FRAMES, endpoint=False).astype(int):
                loop.seek(int(at))
                frames.append(loop.convert("RGBA"))
        return tuple(_cut(frames))

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{THINGS[name].code}.webp"


def _plain(code: str) -> str:
    """A code without the mark that asks for a coloured picture, which not all packages write."""
    return code.lower().removesuffix("-fe0f")


def _check(thing: Thing, entry: dict | None, folder: Path) -> None:
    """Raises an error if a thing has no picture, or a name that is not among the words of its label and tags."""
    if entry is None or not (folder / PICTURES / f"{thing.code}.webp").is_file():
        raise FileNotFoundError(
            f"{folder}: nothing shows {thing.code}, the {thing.name}: fetch the packages again"
        )
    words = " ".join([entry["label"], *entry.get("tags", [])]).lower()
    for noun in (thing.name, *thing.also):
        if noun.lower() not in words:
            raise ValueError(f"{thing.code} is called {words!r}, and never {noun!r}: see `things`")


def _cut(frames: list[Image.Image]) -> list[Image.Image]:
    """Frames without the transparent margin that all of them share."""
    boxes = np.array([frame.getbbox() or (0, 0, *frame.size) for frame in frames])
    left, top = boxes[:, :2].min(0)
    right, bottom = boxes[:, 2:].max(0)
    return [frame.crop((int(left), int(top), int(right), int(bottom))) for frame in frames]
