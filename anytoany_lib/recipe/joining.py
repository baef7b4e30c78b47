"""One dataset of several: so many rows of each, their media linked below one folder, and requests for media among the pairs.

Every row's source is then the name of its data set. What a benchmark has too is left out of training.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anytoany_lib.data import SPLITS, Row, read_manifest, splits_in, write_manifest
from anytoany_lib.data.building import MEDIA_FOLDER
from anytoany_lib.data.rows import DataError, map_media, media_in
from anytoany_lib.recipe.settings import PublicData, Recipe
from anytoany_lib.system.files import appearing_whole, write_json

_NUMBER = re.compile(r"\d{6,}$")


@dataclass(frozen=True)
class Chosen:
    """What is taken of a data set: rows of its training split, requests among them; `left_out` are media by `names_of`."""

    folder: Path
    rows: int
    requests: int
    left_out: frozenset[str] = frozenset()


def join(recipe: Recipe, chosen: Mapping[str, Chosen], out: Path, seed: int = 0) -> dict[str, Any]:
    """Writes the dataset OUT, whole or not at all; returns {data set: {split: rows}}, also kept in OUT/report.json.

    Rows are taken from all over a split; media are hard-linked where the disk allows. DataError where a set gives no rows.
    """
    counts: dict[str, dict[str, int]] = {name: {} for name in chosen}
    with appearing_whole(out) as work:
        for split in SPLITS:
            rows = (
                row
                for name, one in chosen.items()
                for row in _rows(recipe, name, one, split, work, counts[name], seed)
            )
            write_manifest(rows, work, split)
        for name, found in counts.items():
            if not found.get("train"):
                raise DataError(
                    f"{name}: no row of its training split is left; look into {chosen[name].folder}/report.json for why"
                )
        write_json(work / "report.json", {"joined": counts})
    return counts


def _rows(
    recipe: Recipe,
    name: str,
    chosen: Chosen,
    split: str,
    work: Path,
    counts: dict[str, int],
    seed: int,
) -> Iterator[Row]:
    """The rows of a split of one data set, and behind them its requests, as the joined dataset has them."""
    if split not in splits_in(chosen.folder):
        return
    manifest, data = read_manifest(chosen.folder, split), recipe.data[name]
    most = {"train": chosen.rows, "validation": recipe.held_out}.get(split, _tests(recipe, data))
    wanted = round(chosen.requests * min(1.0, most / chosen.rows))
    asked = set(_spread(min(most, len(manifest)), wanted))
    requests: list[Row] = []
    for number, index in enumerate(_spread(len(manifest), most)):
        row = manifest[index]
        if any(names_of(path) & chosen.left_out for _, path in media_in(row.messages)):
            continue
        counts[split] = counts.get(split, 0) + 1
        moved = _moved(row, name, chosen.folder, work)
        if number in asked:
            requests.append(_request(recipe, moved, np.random.default_rng([seed, index])))
        yield moved
    yield from requests


def _tests(recipe: Recipe, data: PublicData) -> int:
    """Test rows: more of questions with short answers, which are counted, than of others."""
    return recipe.tests if data.reader.endswith("aqa") else recipe.held_out


def _spread(count: int, most: int) -> list[int]:
    """Indices of at most so many of `count` rows, from all over."""
    return (np.arange(min(count, most)) * count // max(1, min(count, most))).tolist()


def names_of(path: str) -> set[str]:
    """What a medium is called elsewhere: its file's name without ending, and the number that ends it, as in COCO's of several
    years (COCO_val2014_000000391895.jpg, 000000391895.jpg).
    """
    stem = PurePosixPath(path).stem
    found = _NUMBER.search(stem)
    return {stem} | ({str(int(found[0]))} if found else set())


def _moved(row: Row, name: str, folder: Path, work: Path) -> Row:
    """The row with its media below media/NAME of the joined dataset, where they are linked."""

    def place(path: str) -> str:
        return f"{MEDIA_FOLDER}/{name}/{path.removeprefix(f'{MEDIA_FOLDER}/')}"

    for _, path in media_in(row.messages):
        _link(folder / path, work / place(path))
    content = row.meta.get("content")
    meta = dict(row.meta)
    if isinstance(content, dict):
        meta["content"] = {place(path): key for path, key in content.items()}
    if not media_in(row.messages) and "caption" not in row.meta:
        meta |= {"task": "plain", "plain": True}  # held to the untouched language model
    messages = map_media(row.messages, lambda _, path: place(path))
    return Row(f"{name}/{row.id}", name, messages, meta)


def _link(path: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(path, target)


def _request(recipe: Recipe, row: Row, rng: np.random.Generator) -> Row:
    """A captioned row as a conversation: the medium is asked for, and made."""
    ((kind, path),) = media_in(row.messages)
    caption = row.meta["caption"]
    wordings: Sequence[str] = recipe.requests[kind]
    text = wordings[int(rng.integers(len(wordings)))].replace("{}", caption)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": [{"type": kind, kind: path, "caption": caption}]},
    ]
    meta = {"task": f"text->{kind}", "content": row.meta.get("content", {})}
    return Row(f"{row.id}/request", f"{row.source}-requests", messages, meta)
