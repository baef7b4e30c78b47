"""Manifests: every dataset on disk in one form.

A dataset is a folder: `train.parquet`, `validation.parquet`, `test.parquet` (those that exist), media
below it, `report.json`. A parquet row is a conversation: id, source, messages and meta (both JSON),
with media as POSIX paths relative to the folder, and in an assistant turn a medium's `caption`.
Rows are checked on their way in and out; only the groups of rows asked for are decoded (`manifest_files` has the file itself).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anytoany_lib.data.ledger import DiskSet
from anytoany_lib.data.manifest_files import (
    SCHEMA,
    Catalogue,
    RowWriter,
    StoredRow,
    Tally,
    catalogue_of,
    check_row,
    notes_in,
    stored_row,
)
from anytoany_lib.data.rows import DataError, Row, map_media, media_in, media_path
from anytoany_lib.system.files import recover, room_for

SPLITS = ("train", "validation", "test")
CACHED_GROUPS = 16
LARGEST_GROUP = 2**31  # bytes of text that are decoded at once


def write_manifest(rows: Iterable[Row], out: str | Path, split: str) -> int:
    """Write OUT/split.parquet, whole or not at all, and return the number of rows.

    Rows are checked and streamed; ids must differ. No rows, no file: one from before is removed. DiskFull leaves that one.
    """
    _check_split(split)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    work, path = out / f".{split}.{os.getpid()}", out / f"{split}.parquet"
    work.mkdir()
    try:
        with room_for(path), RowWriter(work / "rows") as writer, DiskSet(work / "ids") as ids:
            for row in rows:
                stored = stored_row(row)
                if not ids.add(row.id):
                    raise DataError(f"row {row.id!r}: the id is there twice")
                writer.add(stored)
        if writer.rows:
            (work / "rows").replace(path)
        else:
            path.unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return writer.rows


class Manifest(Sequence[Row]):
    """The rows of one split, read from disk as they are asked for; open with `read_manifest`."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self._path = folder / f"{split}.parquet"
        try:
            self._file = pq.ParquetFile(self._path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self._path}: not a readable parquet file: {error}") from error
        if not self._file.schema_arrow.equals(SCHEMA):
            found = ", ".join(f"{f.name}: {f.type}" for f in self._file.schema_arrow)
            raise DataError(f"{self._path}: expected text columns {SCHEMA.names}, found {found}")
        footer = self._file.metadata
        sizes = (footer.row_group(number).num_rows for number in range(footer.num_row_groups))
        self._starts = [0, *accumulate(sizes)]
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

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
        table, at = self._group(group), index - self._starts[group]
        name, source, messages, meta = (column[at].as_py() for column in table.columns)
        row = check_row(Row(name, source, self._json(messages, index), self._meta(meta, index)))
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

    @cached_property
    def catalogue(self) -> Catalogue:
        """What the rows are, by the notes in the file; a file without them is read through."""
        notes = notes_in(self._file.metadata)
        found = None if notes is None else catalogue_of(notes, len(self))
        if found is None:
            tally = Tally()
            for rows in self._stored_rows():
                tally.add(rows)
            found = catalogue_of(tally.notes(), len(self))
        assert found is not None, "a tally's own notes"
        return found

    def _stored_rows(self) -> Iterator[list[StoredRow]]:
        """All rows as they are stored, group by group."""
        for number, start in enumerate(self._starts[:-1]):
            columns, rows = (column.to_pylist() for column in self._read(number).columns), []
            for index, texts in enumerate(zip(*columns, strict=True), start):
                if None in texts:
                    raise DataError(
                        f"{self._path}, row {index}: expected four texts, found {texts!r:.80}"
                    )
                name, source, messages, meta = texts
                captioned = "caption" in self._meta(meta, index)
                rows.append(StoredRow(name, source, messages, meta, captioned))
            yield rows

    def _json(self, text: str, index: int) -> Any:
        try:
            return json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{self._path}, row {index}: damaged JSON: {error}") from error

    def _meta(self, text: str, index: int) -> dict[str, Any]:
        meta = self._json(text, index)
        if not isinstance(meta, dict):
            raise DataError(
                f"{self._path}, row {index}: expected an object as meta, found {meta!r:.80}"
            )
        return meta

    def _group(self, number: int) -> pa.Table:
        if number not in self._groups:
            self._groups[number] = self._read(number)
            if len(self._groups) > CACHED_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[number]

    def _read(self, number: int) -> pa.Table:
        size = self._file.metadata.row_group(number).total_byte_size
        if size > LARGEST_GROUP:
            raise DataError(
                f"{self._path}: its group {number} has {size:,} bytes, over {LARGEST_GROUP:,}: "
                "write it anew with fewer rows in a group"
            )
        try:
            # Arrow's own threads do not survive the fork of a data loader's worker.
            return self._file.read_row_group(number, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path}: damaged in its group {number}: {error}") from error


def read_manifest(folder: str | Path, split: str = "train") -> Manifest:
    """The rows of a split. DataError if the folder has no such split or the file is not a manifest."""
    folder = Path(folder)
    _check_split(split)
    recover(folder)
    if not (folder / f"{split}.parquet").is_file():
        held = ", ".join(splits_in(folder)) or "none"
        raise DataError(
            f"{folder}: no {split}.parquet (splits there: {held}); "
            "notebook 02_data or `anytoany data` makes it"
        )
    return Manifest(folder, split)


def splits_in(folder: str | Path) -> list[str]:
    """The splits that a manifest folder has."""
    recover(Path(folder))
    return [split for split in SPLITS if (Path(folder) / f"{split}.parquet").is_file()]


def dataset_fingerprint(folder: str | Path) -> str:
    """16 hex digits that name all rows of all splits, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for split in splits_in(folder):
        digest.update(f"{split} {read_manifest(folder, split).catalogue.digest} ".encode())
    return digest.hexdigest()


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
