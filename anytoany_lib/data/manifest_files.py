"""A manifest's parquet file: four texts a row, and notes in the file's footer.

The notes say what only reading everything would say otherwise: a digest of all rows, and of each row its source and whether
it is a captioned medium. They also say where the rows end in the file, by which notes that were copied along with other rows
are known: such a file, like one without notes, is read through instead.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anytoany_lib.data.rows import DataError, Row, check_row

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
    """What the rows of a file are: `kinds` of (source, captioned), `of_row` (rows,) uint32 [number of its kind].

    `digest` names all rows, in order: 32 hex digits.
    """

    kinds: list[tuple[str, bool]]
    of_row: np.ndarray
    digest: str

    def sources(self) -> list[str]:
        """The sources there are, sorted."""
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
        """Counts some more rows."""
        texts = []
        for name, source, messages, meta, _ in rows:
            texts.append(f"{len(name)} {len(source)} {len(messages)} {len(meta)} ")
            texts += (name, source, messages, meta)
        self._digest.update("".join(texts).encode())
        kinds = ((row.source, row.captioned) for row in rows)
        numbers = [self._kinds.setdefault(kind, len(self._kinds)) for kind in kinds]
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


class RowWriter:
    """Streams rows into a manifest's parquet file, its notes last; use it in a `with`. `rows` counts them."""

    def __init__(self, path: Path):
        self.rows = 0
        self._group: list[StoredRow] = []
        self._tally = Tally()
        self._file = pa.OSFile(str(path), "wb")
        # Of long texts, dictionaries and smallest and largest values only make the file larger.
        self._writer = pq.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            use_dictionary=["source"],
            write_statistics=False,
        )

    def add(self, row: StoredRow) -> None:
        """Writes one more row."""
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

    def __enter__(self) -> RowWriter:
        return self

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
