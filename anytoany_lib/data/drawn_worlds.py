"""Worlds that are drawn from a seed: what the scenes of any such world share, and how they become files and rows of a dataset.

A world says what can be the case (its own `Scene`), and shows it as pictures, sounds and clips; here is all that does not depend on
which world it is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from tqdm.auto import tqdm

from anytoany_lib.data.manifests import write_manifest
from anytoany_lib.data.reports import Measured, Report
from anytoany_lib.data.rows import Row, captioned_row, map_media, media_in
from anytoany_lib.media import media_files


@dataclass(frozen=True)
class DrawnScene:
    """One state of affairs; a world's own scene has attributes, None where one does not apply or is left open."""

    def asked(self) -> dict[str, str | int]:
        """The attributes that are set, as a plain dictionary."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def but(self, **changes: Any) -> Self:
        """The same scene with some attributes changed."""
        return replace(self, **changes)


Scene = TypeVar("Scene", bound=DrawnScene)


def pick(rng: np.random.Generator, options: Iterable[Any]) -> Any:
    """One of the options, all of them alike."""
    options = tuple(options)
    return options[int(rng.integers(len(options)))]


def article(phrase: str) -> str:
    """A noun phrase with its indefinite article."""
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def joined(*parts: str | None) -> str:
    """The parts that there are, with blanks between them."""
    return " ".join(part for part in parts if part)


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for every use, so that one more row of a sort leaves the others as they were."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


class SceneFiles(Generic[Scene]):
    """Writes the scenes of one split as media files below a folder, and its rows beside them.

    `render(kind, scene, rng)` gives a medium as `media_files.save` takes it, `measures` what a report says of each kind: its
    shorter side in pixels and its seconds. A scene that is in `pool` files already may be one of them again.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        rng: np.random.Generator,
        render: Callable[[str, Scene, np.random.Generator], Any],
        measures: Mapping[str, tuple[int, float]],
        pool: float = math.inf,
    ):
        self.folder, self.split, self.rng, self.pool = folder, split, rng, pool
        self._render, self._measures = render, measures
        self._count = 0
        self._made: dict[tuple[str, Scene], list[str]] = {}
        # What the files measure that no row of a report has told of yet.
        self._untold: dict[str, Measured] = {}

    def path(self, kind: str, scene: Scene) -> str:
        """The relative path of a file that shows the scene."""
        there = self._made.setdefault((kind, scene), [])
        if len(there) >= self.pool:
            return pick(self.rng, there)
        name = f"media/{self.split}/{kind}/{self._count:06d}{media_files.SUFFIX[kind]}"
        self._count += 1
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        media_files.save(kind, file, self._render(kind, scene, self.rng))
        self._untold[name] = Measured(kind, file.stat().st_size, *self._measures[kind])
        there.append(name)
        return name

    def stored(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages with their scenes replaced by files."""
        return map_media(messages, self.path)

    def captioned_rows(
        self,
        source: str,
        count: int,
        shares: Mapping[str, float],
        draw: Callable[[str, np.random.Generator], Scene],
        caption: Callable[[str, Scene], str],
    ) -> list[Row]:
        """So many media with their captions, each kind in its share, as any captioned dataset has them."""
        rows = []
        for kind, share in shares.items():
            for number in tqdm(range(round(count * share)), desc=f"{self.split} {kind}s"):
                scene = draw(kind, self.rng)
                called = caption(kind, scene)
                name, path = f"{self.split}-{kind}-{number}", self.path(kind, scene)
                rows.append(captioned_row(name, source, kind, path, called))
        return rows

    def write(self, rows: Sequence[Row], report: Report) -> None:
        """Writes the rows beside their files, and tells the report of them, of a medium with the first that shows it."""
        for row in rows:
            names = dict.fromkeys(name for _, name in media_in(row.messages))
            report.kept(row, [self._untold.pop(name) for name in names if name in self._untold])
        report.splits[self.split] = write_manifest(rows, self.folder, self.split)
