"""JSON values with one thing in them replaced, removed or doubled: what a gate of files from elsewhere has to withstand."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e400, float("nan"), 10**30, "", "x" * 10_000, "../../etc/passwd", "\0"),
    *("\ud800", [], {}, [[]], {"": None}, "file:///etc/passwd", "{{ 1/0 }}", [None] * 1000, "text"),
)


def variants(whole: Any, count: int, seed: int = 0) -> Iterator[Any]:
    """So many copies, each with one change."""
    rng, packed = random.Random(seed), pickle.dumps(whole)
    for _ in range(count):
        copied = pickle.loads(packed)  # five times as fast as a deep copy
        parent, key = rng.choice(list(_places(copied)))
        if rng.random() < 0.15:
            del parent[key]
        else:
            parent[key] = rng.choice(ODD)
        yield copied


def write_anew(file: Path, value: Any) -> None:
    """Writes a value in place of a file. What is emptied to be written, a disk may want to have at once, which takes longer."""
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(value))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a value, as what holds it and its key there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
