"""Rows of feature shards that stayed at their URL: read by range, a batch's rows at once, those read last kept in memory.

For a dataset whose features are larger than this machine's disk (`train --stream`): its mirror (see `system.remote`) has the manifests
and the keys of all rows, and not the shards. A shard is as `cache` writes it, so that where a row begins is known without asking.
"""

from __future__ import annotations

import io
import math
import re
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from anytoany_lib.system.remote import Left

KEPT_BYTES = 2**28  # of the rows of one cache
_SHARD = re.compile(r"features/[^/]+/\d+\.npy")


def is_shard(name: str) -> bool:
    """Whether a file of a dataset, by its name below the folder, is a shard of features."""
    return bool(_SHARD.fullmatch(name))


def shard_header(rows: int, shape: tuple[int, ...]) -> bytes:
    """What a shard of so many fp16 rows begins with: numpy's header 1.0."""
    stream = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def damage(shard: Left, rows: int, shape: tuple[int, ...]) -> str:
    """What is wrong with a shard that should have so many rows, by its size; "" if nothing is."""
    expected = len(shard_header(rows, shape)) + rows * 2 * math.prod(shape)
    found = (
        f"{shard.place}: expected {expected} bytes for {rows} rows of {shape}, found {shard.size}"
    )
    return "" if shard.size == expected else found


class RowsAtUrl:
    """Rows fp16 of one shape in shards at a URL, each shard with a number and a count of rows."""

    def __init__(self, shape: tuple[int, ...]):
        self._shape, self._bytes = shape, 2 * math.prod(shape)
        self._shards: dict[int, tuple[Left, int]] = {}
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()  # used last at the end

    def add(self, number: int, shard: Left, rows: int) -> None:
        """Makes a shard known by a number."""
        self._shards[number] = shard, len(shard_header(rows, self._shape))

    def __contains__(self, number: int) -> bool:
        return number in self._shards

    def __len__(self) -> int:
        return len(self._shards)

    def get(self, shards: Sequence[int], rows: Sequence[int]) -> np.ndarray:
        """float16 (n, *shape): a row of each shard, by number. Those that are not in memory come with one round of requests.

        OSError if a shard has gone from the URL, or is shorter than it was.
        """
        wanted = list(zip(shards, rows, strict=True))
        known = {place: self._kept[place] for place in set(wanted) & self._kept.keys()}
        known |= self._read(sorted(set(wanted) - known.keys()))
        for place in wanted:
            self._kept[place] = known[place]
            self._kept.move_to_end(place)
        while len(self._kept) * self._bytes > KEPT_BYTES:
            self._kept.popitem(last=False)
        return np.stack([known[place] for place in wanted])

    def _read(self, places: list[tuple[int, int]]) -> dict[tuple[int, int], np.ndarray]:
        """Rows by (shard, row), from the URL."""
        if not places:
            return {}
        files = self._shards[places[0][0]][0].files
        paths = [self._shards[shard][0].place for shard, _ in places]
        starts = [self._shards[shard][1] + row * self._bytes for shard, row in places]
        ends = [start + self._bytes for start in starts]
        try:
            read = files.cat_ranges(paths, starts, ends, on_error="raise")
            short = next((n for n, data in enumerate(read) if len(data) != self._bytes), None)
            if short is not None:
                raise OSError(f"{paths[short]}: {len(read[short])} bytes of a row")
        except OSError as error:
            raise OSError(
                f"a row of {len(set(paths))} shards at their URL could not be read: the dataset was written to since this began, or the "
                f"connection was lost; go on with --resume ({error})"
            ) from error
        rows = (np.frombuffer(data, "<f2").reshape(self._shape) for data in read)
        return dict(zip(places, rows, strict=True))
