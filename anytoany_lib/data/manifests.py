"""Manifests: every dataset on disk in one form.

A dataset is a folder: `train.parquet`, `validation.parquet`, `test.parquet` (those that exist), media
below it, `report.json`. A parquet row is a conversation: id, source, messages and meta (both JSON),
with media as POSIX paths relative to the folder, and in an assistant turn a medium's `caption`.
Rows are checked on their way in and out; only the groups of rows asked for are decoded.

Notes in a file's footer say what only reading everything would say otherwise: a digest of all rows, and of each row its source
and whether it is a captioned medium. They also say where the rows end in the file, by which notes that were copied along with
other rows are known: such a file, like one without notes, is read through instead.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anytoany_lib.data.ledger import DiskSet
from anytoany_lib.data.rows import DataError, Row, check_row, map_media, media_in, media_path
from anytoany_lib.system.files import recover, room_for

SPLITS = ("train", "validation", "test")
CACHED_GROUPS = 16
LARGEST_GROUP = 2**31  # bytes of text that are decoded at once
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "messages", "meta")])
# What one random access decodes; each group takes some KB while a file is written.
GROUP_ROWS = 1024
_NOTES = b"anytoany"
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True)


class StoredRow(NamedTuple):
    """A row as texts, `messages` and `meta` JSON, and whether it is a captioned medium."""

    id: str
    source: str
    messages: str
    meta: str
    captioned: bool


def stored_row(row: Row) -> StoredRow:
    """A checked row as it is stored. DataError if the row breaks the contract or is not JSON in UTF-8."""
    check_row(row)
    try:
        texts = (row.id, row.source, _JSON.encode(row.messages), _JSON.encode(row.meta))
        "".join(texts).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"row {row.id!r}: not JSON: {error}") from error
    return StoredRow(*texts, "caption" in row.meta)


@dataclass(frozen=True)
class Catalogue:
    """What rows are: `kinds` of (source, captioned), `of_row` (rows,) uint32 their numbers; `digest` of all rows, 32 hex digits."""

    kinds: list[tuple[str, bool]]
    of_row: np.ndarray
    digest: str

    def sources(self) -> list[str]:
        """The names of the sources that the rows are of, sorted."""
        return sorted({source for source, _ in self.kinds})

    def rows_where(self, wanted: Sequence[bool]) -> np.ndarray:
        """Indices (n,) int64, ascending, of the rows of the kinds that are wanted."""
        return np.flatnonzero(np.array(wanted, dtype=bool)[self.of_row])


class Tally:
    """Makes the notes of a file, and so its catalogue, from its rows in order; its memory does not grow with them."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._kinds: dict[tuple[str, bool], int] = {}
        # Rows of a source stand together, so that their numbers shrink to almost nothing.
        self._packer, self._packed = zlib.compressobj(), bytearray()

    def add(self, rows: Sequence[StoredRow]) -> None:
        """Takes in the next rows of the file."""
        texts = []
        for name, source, messages, meta, _ in rows:
            texts.append(f"{len(name)} {len(source)} {len(messages)} {len(meta)} ")
            texts += (name, source, messages, meta)
        self._digest.update("".join(texts).encode())
        kinds = self._kinds
        numbers = [kinds.setdefault((row.source, row.captioned), len(kinds)) for row in rows]
        self._packed += self._packer.compress(np.array(numbers, dtype="<u4").tobytes())

    def notes(self) -> dict[str, Any]:
        """What can be kept as JSON; nothing can be added afterwards."""
        self._packed += self._packer.flush()
        return {
            "digest": self._digest.hexdigest(),
            "kinds": list(self._kinds),
            "of_row": base64.b64encode(self._packed).decode(),
        }


def catalogue_of(notes: dict[str, Any], rows: int) -> Catalogue | None:
    """The catalogue of so many rows that a tally's notes hold; None if they are damaged, or never were a tally's."""
    try:
        # No more is unpacked than there are rows: a few bytes may stand for gigabytes.
        packed = base64.b64decode(notes["of_row"])
        numbers = np.frombuffer(zlib.decompressobj().decompress(packed, 4 * rows + 1), dtype="<u4")
        kinds = [(source, captioned) for source, captioned in notes["kinds"]]
        digest = notes["digest"]
    except (KeyError, TypeError, ValueError, zlib.error):
        return None
    known = all(isinstance(s, str) and isinstance(c, bool) for s, c in kinds)
    fits = len(numbers) == rows and (not rows or int(numbers.max()) < len(kinds))
    named = isinstance(digest, str) and re.fullmatch("[0-9a-f]{32}", digest)
    return Catalogue(kinds, numbers, digest) if known and fits and named else None


class RowWriter(AbstractContextManager):
    """Streams rows into a manifest's parquet file, its notes last; use it in a `with`. `rows` counts them."""

    def __init__(self, path: Path):
        self.rows = 0
        self._group: list[StoredRow] = []
        self._tally = Tally()
        self._file = pa.OSFile(str(path), "wb")
        # Of long texts, dictionaries and smallest and largest values only make the file larger.
        options = {"compression": "zstd", "use_dictionary": ["source"], "write_statistics": False}
        self._writer = pq.ParquetWriter(self._file, SCHEMA, **options)

    def add(self, row: StoredRow) -> None:
        """Writes one more row, with others of its group when that is full."""
        self.rows += 1
        self._group.append(row)
        if len(self._group) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._group, strict=True))[: len(SCHEMA)]
        arrays = [pa.array(column, pa.string()) for column in columns]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self._tally.add(self._group)
        self._group = []

    def __exit__(self, failure, *_) -> None:
        try:
            if failure is None:
                if self._group:
                    self._flush()
                notes = self._tally.notes() | {"rows": self.rows, "end": self._file.tell()}
                self._writer.add_key_value_metadata({_NOTES: json.dumps(notes).encode()})
            self._writer.close()
        finally:
            self._file.close()


def notes_in(footer: pq.FileMetaData) -> dict[str, Any] | None:
    """The notes in the footer of a manifest's file; None if it has none, or some that were made for other rows."""
    text = (footer.metadata or {}).get(_NOTES)
    try:
        notes = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return None
    if not isinstance(notes, dict):
        return None
    fits = (notes.get("rows"), notes.get("end")) == (footer.num_rows, _end_of_rows(footer))
    return notes if fits else None


def _end_of_rows(footer: pq.FileMetaData) -> int:
    """Where in the file the last group of rows ends, in bytes."""
    if not footer.num_row_groups:
        return 0
    group, end = footer.row_group(footer.num_row_groups - 1), 0
    for number in range(group.num_columns):
        column = group.column(number)
        first = column.dictionary_page_offset if column.has_dictionary_page else None
        end = max(end, (first or column.data_page_offset) + column.total_compressed_size)
    return end


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
        """Where a medium of a row lies, by its name there. MediaError if that leads out of the folder."""
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
                    where = f"{self._path}, row {index}"
                    raise DataError(f"{where}: expected four texts, found {texts!r:.80}")
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
            where = f"{self._path}, row {index}"
            raise DataError(f"{where}: expected an object as meta, found {meta!r:.80}")
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
