"""Manifests: every dataset on disk in one form.

A dataset is a folder: `train.parquet`, `validation.parquet`, `test.parquet` (those that exist), media
below it, `report.json`. A parquet row is a conversation: id, source, messages and meta (both JSON),
with media as POSIX paths relative to the folder, and in an assistant turn a medium's `caption`.
Rows are checked on their way in and out; only the groups of rows asked for are decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from anytoany_lib.messages import check
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.rows import DataError, Row, map_media, media_in, media_path

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "messages", "meta")])
GROUP_ROWS = 256  # what one random access decodes
CACHED_GROUPS = 64


def check_row(row: Row) -> Row:
    """`row` itself; DataError unless its messages follow the contract and its media are relative paths."""
    try:
        if not all(isinstance(text, str) and text for text in (row.id, row.source)):
            raise ValueError("id and source must be text")
        for message, parts in zip(row.messages, check(row.messages), strict=True):
            for part in parts if message["role"] == "assistant" else ():
                if part["type"] in MEDIA_KINDS and not isinstance(part.get("caption"), str):
                    raise ValueError(f"the assistant's {part['type']} needs a text under 'caption'")
        for kind, name in media_in(row.messages):
            if not isinstance(name, str):
                raise ValueError(f"{kind} must be a path below the manifest, found {name!r:.80}")
    except ValueError as error:
        raise DataError(f"row {row.id!r}: {error}") from error
    return row


def write_manifest(rows: Iterable[Row], out: str | Path, split: str) -> int:
    """Write OUT/split.parquet, whole or not at all, and return the number of rows.

    Rows are checked and streamed; ids must differ. No rows, no file: one from before is removed.
    """
    _check_split(split)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    beside, path = out / f".{split}.{os.getpid()}", out / f"{split}.parquet"
    try:
        count = write_rows(rows, beside)
        if count:
            beside.replace(path)
        else:
            path.unlink(missing_ok=True)
    finally:
        beside.unlink(missing_ok=True)
    return count


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Stream checked rows of differing ids into a parquet file; their number."""
    seen: set[str] = set()
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        group: list[dict[str, str]] = []
        for row in rows:
            if row.id in seen:
                raise DataError(f"row {row.id!r}: the id is there twice")
            seen.add(row.id)
            group.append(_encoded(check_row(row)))
            if len(group) == GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    return len(seen)


def _encoded(row: Row) -> dict[str, str]:
    try:
        messages, meta = (
            json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
            for value in (row.messages, row.meta)
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"row {row.id!r}: not JSON: {error}") from error
    return {"id": row.id, "source": row.source, "messages": messages, "meta": meta}


class Manifest(Sequence[Row]):
    """The rows of one split, read from disk as they are asked for; open with `read_manifest`."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self._path = folder / f"{split}.parquet"
        try:
            self._file = pq.ParquetFile(self._path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self._path}: not a readable parquet file: {error}") from error
        if not self._file.schema_arrow.equals(SCHEMA):
            found = ", ".join(f"{f.name}: {f.type}" for f in self._file.schema_arrow)
            raise DataError(f"{self._path}: expected text columns {SCHEMA.names}, found {found}")
        groups = self._file.metadata.num_row_groups
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(groups)]
        self._starts = [0, *accumulate(sizes)]
        self._groups: OrderedDict[int, list[dict[str, str]]] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index):
        """A checked Row; a slice gives a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self._path}")
        index %= len(self)
        group = bisect_right(self._starts, index) - 1
        record = self._group(group)[index - self._starts[group]]
        try:
            messages, meta = json.loads(record["messages"]), json.loads(record["meta"])
        except (TypeError, ValueError) as error:
            raise DataError(f"{self._path}, row {index}: damaged JSON: {error}") from error
        row = check_row(Row(record["id"], record["source"], messages, meta))
        for _, name in media_in(row.messages):
            media_path(self.folder, name)
        return row

    def __reduce__(self):
        return read_manifest, (self.folder, self.split)

    def path(self, name: str) -> Path:
        """Where a row's medium lies."""
        return media_path(self.folder, name)

    def resolved(self, row: Row) -> Row:
        """The same row with full paths in its messages, as the model takes them."""
        messages = map_media(row.messages, lambda _, name: str(self.path(name)))
        return Row(row.id, row.source, messages, row.meta)

    def _group(self, number: int) -> list[dict[str, str]]:
        if number not in self._groups:
            # Arrow's own threads do not survive the fork of a data loader's worker.
            table = self._file.read_row_group(number, use_threads=False)
            self._groups[number] = table.to_pylist()
            if len(self._groups) > CACHED_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[number]


def read_manifest(folder: str | Path, split: str = "train") -> Manifest:
    """The rows of a split. DataError if the folder has no such split or the file is not a manifest."""
    folder = Path(folder)
    _check_split(split)
    if not (folder / f"{split}.parquet").is_file():
        held = ", ".join(splits_in(folder)) or "none"
        raise DataError(
            f"{folder}: no {split}.parquet (splits there: {held}); "
            "notebook 02_data or `python -m anytoany_lib.data` makes it"
        )
    return Manifest(folder, split)


def splits_in(folder: str | Path) -> list[str]:
    """The splits that a manifest folder has."""
    return [split for split in SPLITS if (Path(folder) / f"{split}.parquet").is_file()]


def dataset_fingerprint(folder: str | Path) -> str:
    """16 hex digits that name all rows of all splits, whatever library version wrote them."""
    digest = hashlib.blake2b(digest_size=8)
    for split in splits_in(folder):
        digest.update(split.encode())
        for row in read_manifest(folder, split):
            digest.update(json.dumps(_encoded(row)).encode())
    return digest.hexdigest()


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
