"""Folders of Hugging Face datasets: Parquet, or Arrow as `save_to_disk` writes it, with Image, Audio and Video features.

A feature is {"bytes", "path"}: the medium itself, or where it lies beside the table. Either becomes a file, and the row what its
columns say: a conversation, or a medium and its captions.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from anytoany_lib.data.formats.folders import (
    captioned_rows,
    captions_of,
    files_below,
    records_of_parquet,
    split_of_file,
)
from anytoany_lib.data.formats.instructions import conversation_of, is_file, located
from anytoany_lib.data.formats.media_references import DEEPEST, Unusable, kind_of_key, references_in
from anytoany_lib.data.formats.turns import turns_of
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, map_media, media_in, media_path
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.file_types import kind_by_name
from anytoany_lib.system.files import copy_or_link

ENDINGS = (".parquet", ".arrow")
_SLICE = 64  # rows in memory


def read_parquet(source: Path, target: Path, report: Report) -> Iterator[Row]:
    """The rows of every Parquet and Arrow file below a folder, their media written below `target`; DataError if none or damaged."""
    tables = [path for path in files_below(source) if path.suffix.lower() in ENDINGS]
    if not tables:
        raise DataError(f"{source}: expected .parquet or .arrow files in it")
    for path in tables:
        report.read_file(path)
        table = path.relative_to(source)
        rows = records_of_parquet(path) if path.suffix == ".parquet" else _rows_of_arrow(path)
        for number, record in enumerate(rows):
            yield from _Unpacked(source, target, report, table, number).rows(record)


def _rows_of_arrow(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                for start in range(0, batch.num_rows, _SLICE):
                    yield from batch.slice(start, _SLICE).to_pylist()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: no readable Arrow stream: {error}; get it again") from error


class _Unpacked:
    """One row of a table, with its media as files below `target`."""

    def __init__(self, source: Path, target: Path, report: Report, table: Path, number: int):
        self._source, self._target, self._report = source, target, report
        self._below = "" if table.parent == Path() else table.parent.as_posix()
        self._split = split_of_file(table.as_posix())
        self._name = f"{table.with_suffix('').as_posix()}-{number}"
        self._written: list[str] = []

    def rows(self, record: dict[str, Any]) -> Iterator[Row]:
        """The rows that a record gives; what cannot be used is reported."""
        try:
            plain = self._plain(record, "", None, 0)
            kinds = {kind_by_name(name) for name in self._written}
            # What a medium that is there was once called names no second one.
            plain = {
                key: one
                for key, one in plain.items()
                if kind_of_key(key) or not isinstance(one, str) or kind_by_name(one) not in kinds
            }
            if _talks(plain):
                messages = map_media(conversation_of(plain), self._found)
                stated = {"split": self._split} if self._split else {}
                meta = {"task": self._target.name} | stated
                rows: Iterator[Row] = iter([Row(self._name, self._target.name, messages, meta)])
            else:
                rows = self._captioned(plain)
            for row in rows:
                for kind, name in media_in(row.messages):
                    self._bring(kind, name)
                yield row
        except Unusable as reason:
            self._report.drop(str(reason), self._name)

    def _captioned(self, record: dict[str, Any]) -> Iterator[Row]:
        references = references_in(record)
        sure = [one for one in references.media if one.sure] or references.media
        if len(sure) != 1:
            claimed = f" ({references.claims[0][1]})" if references.claims else ""
            raise Unusable("several media in one row" if sure else f"no medium{claimed}")
        name = self._found(sure[0].kind, sure[0].name)
        return captioned_rows(
            self._report, self._target, name, sure[0].kind, captions_of(record), self._split
        )

    def _plain(self, value: Any, key: str, kind: str | None, depth: int) -> Any:
        """The same with the path of a file in place of every medium; `kind` is what the keys around it say."""
        if depth > DEEPEST:
            raise Unusable("nested too deep")
        kind = kind_of_key(key) or kind
        if isinstance(value, bytes):
            kind = kind or kind_by_name(f".{key}") or kind_by_name(f"a.{key}")
            return {"path": self._write(value, "", kind)} if kind and value else None
        if isinstance(value, list):
            return [self._plain(one, key, kind, depth + 1) for one in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("bytes"), bytes):
            path = value["path"] if isinstance(value.get("path"), str) else ""
            ending = kind_by_name(path)
            return {"path": self._write(value["bytes"], path, ending or kind or "image")}
        return {name: self._plain(one, name, kind, depth + 1) for name, one in value.items()}

    def _write(self, content: bytes, path: str, kind: str) -> str:
        ending = (
            PurePosixPath(path).suffix.lower() if kind_by_name(path) else media_files.SUFFIX[kind]
        )
        name = f"{self._name}-{len(self._written)}{ending}"
        file = self._target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self._written.append(name)
        return name

    def _found(self, kind: str, name: str) -> str:
        """Where a medium lies: below the target if it was written, or will be."""
        return name if name in self._written else located(self._source, kind, name, self._below)

    def _bring(self, kind: str, name: str) -> None:
        """Puts a file beside the table to those that were in it."""
        path = name.partition("#t=")[0]
        if name in self._written or is_file(self._target / path):
            return
        try:
            file = media_path(self._source, path)
        except MediaError:
            return  # the row says so when it is looked at
        if is_file(file):
            self._report.read_file(file)
            copy_or_link(file, self._target / path, link=True)


def _talks(record: dict[str, Any]) -> bool:
    """Whether a record is a conversation, of whatever use."""
    try:
        return bool(turns_of(record))
    except Unusable as reason:
        return str(reason) != "no conversation"
