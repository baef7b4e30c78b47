"""Folders of media with captions, as the imagefolder convention and WebDataset have them.

A table (`metadata.csv`, `.jsonl` or `.parquet`) in any folder tells of the media below it; without one a `.txt` or `.json` of the
same name stands beside each medium. In a shard of WebDataset what belongs together has one key, which ends at the first dot.
Folders called train, validation or test are splits.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anytoany_lib.data.formats.captions import (
    captioned_rows,
    captions_of,
    entries,
    split_of,
    text_of,
)
from anytoany_lib.data.formats.interleaving import MAX_CAPTION
from anytoany_lib.data.formats.json_files import json_records
from anytoany_lib.data.formats.media_references import words_of
from anytoany_lib.data.ledger import is_regular
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, media_path
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.file_types import shown_by_name

TABLES = tuple(f"metadata.{form}" for form in ("csv", "jsonl", "parquet"))
LONGEST_FIELD = 2**24  # characters in a CSV file: more is a quotation mark that is never closed
_FORMS = (".txt", ".caption", ".text", ".json")
_BATCH_ROWS = 256


def read_folder(source: Path, report: Report) -> Iterator[Row]:
    """Media with captions: a metadata table (file_name and caption or text) in a folder, else a `.txt` or `.json` (caption)
    of the same name beside each medium, in folders of any depth.
    """
    source = Path(os.path.realpath(source))
    return _counted(source, _below(source, source, report, _stem, False), report)


def read_shards(source: Path, report: Report) -> Iterator[Row]:
    """Unpacked shards: media whose captions share their key, the name up to its first dot."""
    source = Path(os.path.realpath(source))
    return _counted(source, _below(source, source, report, _key, False), report)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _key(name: str) -> str:
    return name.split(".", 1)[0]


def _counted(source: Path, rows: Iterator[Row], report: Report) -> Iterator[Row]:
    """The rows; DataError if there was nothing to read."""
    before = report.read
    number = 0
    for row in rows:
        number += 1
        yield row
    if not number and report.read == before:
        raise DataError(f"{source}: expected pictures, sounds or clips in it")


def _below(
    source: Path, folder: Path, report: Report, key_of: Callable[[str], str], covered: bool
) -> Iterator[Row]:
    """The rows of a folder and those below it; `covered` if a table further up tells of its media."""
    found = entries(folder)
    files = [entry.name for entry in found if is_regular(entry)]
    table = next((name for name in TABLES if name in files), None)
    if table:
        yield from _of_table(source, folder / table, report)
    elif not covered:
        yield from _beside(source, folder, files, report, key_of)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(source, Path(entry.path), report, key_of, covered or bool(table))


def _of_table(source: Path, path: Path, report: Report) -> Iterator[Row]:
    """The rows of a table; its file names are relative to its folder."""
    report.read_file(path)
    inside = path.parent.relative_to(source).as_posix()
    for number, record in enumerate(records_of_table(path)):
        names, unnamed = _file_names(record)
        if unnamed:
            report.drop(unnamed, f"row {number}" if inside == "." else f"{inside}, row {number}")
            continue
        paths = [name if inside == "." else f"{inside}/{name}" for name in names]
        kind = shown_by_name(paths[0])
        if len(paths) > 1:
            report.drop("several media in one row", paths[0], [source / one for one in paths])
        elif kind is None:
            report.drop("no medium by its name", paths[0], [source / paths[0]])
        else:
            split = split_of(paths[0])
            yield from captioned_rows(report, source, paths[0], kind, captions_of(record), split)


def _file_names(record: Any) -> tuple[list[str], str]:
    """(the names of a table's row, "") or ([], the reason there are none): `file_name`, `image_file_name`, `file_names`."""
    held = record if isinstance(record, dict) else {}
    values = {
        key: one
        for key, one in held.items()
        if isinstance(key, str) and one is not None and is_name_column(key)
    }
    if not values:
        return [], "file_name missing"
    names = []
    for key, one in values.items():
        for name in one if isinstance(one, list) else [one]:
            text, reason = text_of({key: name}, key)
            if reason:
                return [], reason
            names.append(text)
    return (names, "") if names else ([], "file_name empty")


def is_name_column(key: str) -> bool:
    """Whether a column names files: `file_name`, `image_file_names`."""
    return words_of(key)[-2:] in (("file", "name"), ("file", "names"))


def records_of_table(path: Path) -> Iterator[Any]:
    """The rows of a metadata table, one at a time. DataError if it is damaged, or lacks a column."""
    if path.suffix == ".csv":
        return _checked_csv(path)
    return records_of_parquet(path) if path.suffix == ".parquet" else json_records(path)


def _checked_csv(path: Path) -> Iterator[dict[str, Any]]:
    rows = records_of_csv(path)
    for number, row in enumerate(rows):
        if not number and not (
            any(map(is_name_column, row)) and captions_of(dict.fromkeys(row, " "))
        ):
            expected = "expected columns file_name and caption (or text)"
            raise DataError(f"{path}: {expected}, found {sorted(map(str, row))}")
        yield row


def records_of_csv(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file by its header; DataError with the line where it is damaged or not UTF-8."""
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strictly: a quotation mark that is never closed would swallow all rows behind it.
        rows = csv.DictReader(file, strict=True)
        try:
            for row in rows:
                yield {key: value for key, value in row.items() if key is not None}
        except csv.Error as error:
            place = f"{path}, behind line {rows.line_num}"
            raise DataError(f"{place}: {error}; mend the row there") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text: {error}; save it as UTF-8") from error


def records_of_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, some hundred in memory. DataError if it is damaged."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                yield from batch.to_pylist()
    # ArrowInvalid is a ValueError; a footer that lies about its sizes makes OSError or MemoryError.
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: no readable Parquet file: {error}; get it again") from error


def _beside(
    source: Path, folder: Path, files: list[str], report: Report, key_of: Callable[[str], str]
) -> Iterator[Row]:
    """A row for every caption of every medium in one folder."""
    texts: dict[str, list[str]] = {}
    for name in files:
        if name.endswith(_FORMS):
            texts.setdefault(key_of(name), []).append(name)
    for name in files:
        kind = shown_by_name(name)
        if kind is None:
            continue
        path = os.path.relpath(folder / name, source).replace(os.sep, "/")
        beside = min(texts.get(key_of(name), []), key=_preference, default=None)
        captions = []
        if beside is not None:
            captions = _captions_in(source, PurePosixPath(path).with_name(beside).as_posix())
            report.read_file(folder / beside)
        yield from captioned_rows(report, source, path, kind, captions, split_of(path))


def _preference(name: str) -> tuple[int, int, str]:
    """Of several files with one key: `key.txt` before `key.json` before `key.seg.txt`."""
    return name.count("."), _FORMS.index(PurePosixPath(name).suffix), name


def _captions_in(source: Path, name: str) -> list[Any]:
    """The captions in a file beside a medium, which may hold anything; a damaged one holds no text."""
    try:
        path = media_path(source, name)
        if path.suffix != ".json":
            with path.open(encoding="utf-8-sig") as file:
                return [file.read(MAX_CAPTION + 1)]
        record = next(json_records(path), None)
    except (MediaError, DataError, UnicodeDecodeError):
        return [None]
    return captions_of(record)
