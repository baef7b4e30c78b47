"""Folders of media with captions, as the imagefolder convention and WebDataset have them, and what all captioned records share.

A record with a list of captions gives a row for each of them. A table (`metadata.csv`, `.jsonl` or `.parquet`) in any folder tells of the media below it; without one a `.txt` or `.json` of the
same name stands beside each medium. In a shard of WebDataset what belongs together has one key, which ends at the first dot.
Folders called train, validation or test are splits.
"""

import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anytoany_lib.data.formats.interleaving import MAX_CAPTION
from anytoany_lib.data.formats.json_files import json_records
from anytoany_lib.data.formats.media_references import is_text, words_of
from anytoany_lib.data.ledger import is_hidden, is_regular
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, captioned_row, media_path
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.file_types import shown_by_name

CAPTION_KEYS = ("caption", "text", "captions", "texts", "description", "prompt")
_NUMBERED = re.compile(r"captions?[_ -]?\d{1,3}")
_SPLIT_NAMES = {
    "train": "train training development",
    "validation": "validation valid val dev",
    "test": "test testing eval evaluation",
}
_SPLIT_OF = {name: split for split, names in _SPLIT_NAMES.items() for name in names.split()}
TABLES = tuple(f"metadata.{form}" for form in ("csv", "jsonl", "parquet"))
LONGEST_FIELD = 2**24  # characters in a CSV file: more is a quotation mark that is never closed
_FORMS = (".txt", ".caption", ".text", ".json")
_BATCH_ROWS = 256


def text_of(record: Any, key: str) -> tuple[str, str]:
    """(the text under `key`, "") or ("", the reason there is none)."""
    if not isinstance(record, dict) or key not in record:
        return "", f"{key} missing"
    return checked_text(record[key], key)


def checked_text(value: Any, key: str) -> tuple[str, str]:
    """(the text, "") or ("", what is wrong with it)."""
    if not is_text(value):
        return "", f"{key} not text"
    if len(value) > MAX_CAPTION:
        return "", f"{key} too long"
    return (value, "") if value.strip() else ("", f"{key} empty")


def captions_of(record: Any) -> list[Any]:
    """The captions of a record, as they stand: one, those of a list, or of `caption_1`, `caption_2` and so on."""
    held = record if isinstance(record, dict) else {}
    for key in CAPTION_KEYS:
        if held.get(key) is not None:
            return list(held[key]) if isinstance(held[key], list | tuple) else [held[key]]
    numbered = [key for key in held if isinstance(key, str) and _NUMBERED.fullmatch(key.lower())]
    return [held[key] for key in numbered if held[key] not in (None, "")]


def captioned_rows(
    report: Report, source: Path, name: str, kind: str, captions: list[Any], split: str = ""
) -> Iterator[Row]:
    """A row for each caption of the medium `name` in a folder, which is also its id; what is wrong with one is reported."""
    if not captions:
        report.drop("caption missing", name, [source / name])
    for caption in captions:
        text, reason = checked_text(caption, "caption")
        if reason:
            report.drop(reason, name, [source / name])
            continue
        row = captioned_row(name, source.name, kind, name, text)
        yield Row(row.id, row.source, row.messages, row.meta | ({"split": split} if split else {}))


def split_of(name: str) -> str:
    """The split that a path says it belongs to, by the name of a folder: `val/a.jpg`; "" if it says none."""
    folders = PurePosixPath(name).parts[:-1]
    return next((_SPLIT_OF[f.lower()] for f in folders if f.lower() in _SPLIT_OF), "")


def split_of_file(name: str) -> str:
    """The split that a table's path says it holds: `data/train-00000-of-00002.parquet`, `captions_val2017.json`; "" if none."""
    words = re.split("[^a-z]+", PurePosixPath(name).name.lower())
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), split_of(name))


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder and is data, sorted by name; one folder's names are in memory."""
    with os.scandir(folder) as found:
        return sorted((e for e in found if not is_hidden(e.name)), key=lambda entry: entry.name)


def files_below(folder: str | Path) -> Iterator[Path]:
    """Every file of data in a folder of any depth, sorted; hidden ones are none, and links to folders are not followed."""
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path)
        elif is_regular(entry):
            yield Path(entry.path)


def read_folder(source: Path, report: Report) -> Iterator[Row]:
    """Media with captions: a metadata table (file_name and caption or text) in a folder, else a `.txt` or `.json` (caption)
    of the same name beside each medium, in folders of any depth.
    """
    return _all_rows(source, report, lambda name: PurePosixPath(name).stem)


def read_shards(source: Path, report: Report) -> Iterator[Row]:
    """Unpacked shards: media whose captions share their key, the name up to its first dot."""
    return _all_rows(source, report, lambda name: name.split(".", 1)[0])


def _all_rows(source: Path, report: Report, key_of: Callable[[str], str]) -> Iterator[Row]:
    """The rows of a folder; DataError if there was nothing to read."""
    source, before, empty = Path(os.path.realpath(source)), report.read, True
    for row in _below(source, source, report, key_of, False):
        empty = False
        yield row
    if empty and report.read == before:
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
    columns = [k for k in held if isinstance(k, str) and is_name_column(k) and held[k] is not None]
    if not columns:
        return [], "file_name missing"
    names = []
    for key in columns:
        for name in held[key] if isinstance(held[key], list) else [held[key]]:
            text, reason = checked_text(name, key)
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
    for number, row in enumerate(records_of_csv(path)):
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
