"""Readers of the datasets' own files: one function a format, from a source folder to neutral rows.

A reader yields a `Row` for each usable record and tells the `Report` what it dropped and why. Media
stay where they are: rows name them by POSIX paths relative to the source; `data.build` checks and
copies them. Formats as published with NExT-GPT (`cc3m.json`, `webvid.json`, `audiocap.json`), the instruction data of
`instructions`, and folders of media with captions as `imagefolder` has them.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anytoany_lib.containers import MediaError
from anytoany_lib.instructions import (
    MAX_CAPTION,
    Unusable,
    conversation_of,
    embedding_files,
    is_text,
    located,
)
from anytoany_lib.reports import Report
from anytoany_lib.rows import DataError, Row, captioned_row, map_media, media_path

SUFFIXES = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"),
    "video": (".mp4", ".webm", ".mov", ".avi", ".mkv", ".gif"),
}
_SOMETHING = re.compile(r"[^ \t\r\n]")
_JSON = json.JSONDecoder()
_CHUNK = 2**20  # bytes read at a time
_LONGEST_VALUE = 2**26  # characters after which a value that does not end is taken for damage
_NUMBER_GOES_ON = 3  # characters: where reading stops, "1" may be the beginning of "1e-5"


class _Window:
    """The stretch of a file's text that is being read. DataError where the file is not UTF-8 or cannot be read."""

    def __init__(self, path: Path):
        self.text, self.ended = "", False
        self._path, self._decoder = path, codecs.getincrementaldecoder("utf-8")()
        self._before = self._lines = self._bytes = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def __enter__(self) -> _Window:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _read_on(self, at: int) -> None:
        """Forgets what lies before `at`, which is the beginning from now on, and reads as much again."""
        self._before += at
        self._lines += self.text.count("\n", 0, at)
        self.text = self.text[at:]
        found = self._file.read(max(_CHUNK, len(self.text)))
        pending, _ = self._decoder.getstate()
        try:
            more = self._decoder.decode(found, final=not found)
        except UnicodeDecodeError as error:
            place = self._bytes - len(pending) + error.start
            raise DataError(f"{self._path}: not UTF-8 text at byte {place}") from error
        begins = self._bytes == len(pending)
        self.text += more.removeprefix("\ufeff") if begins else more
        self._bytes += len(found)
        self.ended = not found

    def past_blanks(self, at: int) -> int:
        """Where the next thing stands: at the end of the text only if the file ends there."""
        while (found := _SOMETHING.search(self.text, at)) is None and not self.ended:
            self._read_on(len(self.text))
            at = 0
        return found.start() if found else len(self.text)

    def value(self, at: int) -> tuple[Any, int]:
        """The JSON value at a place, and where it ends."""
        while True:
            try:
                value, end = _JSON.raw_decode(self.text, at)
                if self.ended or end + _NUMBER_GOES_ON <= len(self.text):
                    return value, end
            # Beside JSONDecodeError, numbers of thousands of digits and bottomless nesting.
            except (ValueError, RecursionError) as error:
                if self.ended or len(self.text) - at > _LONGEST_VALUE:
                    raise self.damage(getattr(error, "pos", at), str(error)) from error
            self._read_on(at)
            at = 0

    def damage(self, at: int, message: str) -> DataError:
        """An error that names the place."""
        line = self._lines + self.text.count("\n", 0, at) + 1
        of = f" of {self._before + len(self.text)}" if self.ended else ""
        where = f"cut or damaged at line {line}, character {self._before + at}{of}"
        return DataError(f"{self._path}: {where}: {message}; get the file again")


def json_records(path: Path) -> Iterator[Any]:
    """The values of a JSON array, or of JSON lines, one at a time; of the file a few MiB are in memory.

    Raises DataError naming the file and the position where it is cut, damaged or not UTF-8.
    """
    with _Window(path) as window:
        at = window.past_blanks(0)
        array = window.text.startswith("[", at)
        if array:
            at = window.past_blanks(at + 1)
        ended = array and window.text.startswith("]", at)
        while not ended and (array or at < len(window.text)):
            value, at = window.value(at)
            yield value
            at = window.past_blanks(at)
            ended = array and window.text.startswith("]", at)
            if array and not ended:
                if not window.text.startswith(",", at):
                    raise window.damage(at, "expected ',' or ']'")
                at = window.past_blanks(at + 1)
        if ended and (after := window.past_blanks(at + 1)) < len(window.text):
            raise window.damage(after, "text after the closing ']'")


def _text(record: Any, key: str) -> tuple[str, str]:
    """(the text under `key`, "") or ("", the reason there is none)."""
    if not isinstance(record, dict) or key not in record:
        return "", f"{key} missing"
    value = record[key]
    if not is_text(value):
        return "", f"{key} not text"
    if len(value) > MAX_CAPTION:
        return "", f"{key} too long"
    return (value, "") if value.strip() else ("", f"{key} empty")


def _captioned(
    source: Path, report: Report, file: str, folder: str, kind: str, name_key: str
) -> Iterator[Row]:
    """Rows of `file`: records with a caption and the name of one medium in `folder`."""
    path = source / file
    if not path.is_file():
        held = ", ".join(sorted(p.name for p in source.iterdir())[:8]) or "nothing"
        raise DataError(f"{path}: missing: expected {file} and {folder}/ in {source}, found {held}")
    for number, record in enumerate(json_records(path)):
        name, unnamed = _text(record, name_key)
        caption, reason = _text(record, "caption")
        if unnamed or reason:
            report.drop(unnamed or reason, name or f"{file}, record {number}")
            continue
        dataset = Path(file).stem
        yield captioned_row(
            f"{dataset}-{Path(name).stem}", dataset, kind, f"{folder}/{name}", caption
        )


def read_cc3m(source: Path, report: Report) -> Iterator[Row]:
    """Conceptual Captions: `cc3m.json` (caption, id, image_name) and `images/`."""
    return _captioned(source, report, "cc3m.json", "images", "image", "image_name")


def read_webvid(source: Path, report: Report) -> Iterator[Row]:
    """WebVid: `webvid.json` (caption, id, video_name) and `videos/`."""
    return _captioned(source, report, "webvid.json", "videos", "video", "video_name")


def read_audiocap(source: Path, report: Report) -> Iterator[Row]:
    """AudioCaps: `audiocap.json` (caption, audio_id, audio_name) and `audios/`."""
    return _captioned(source, report, "audiocap.json", "audios", "audio", "audio_name")


def read_nextgpt(source: Path, report: Report) -> Iterator[Row]:
    """A folder with any of `cc3m/`, `webvid/` and `audiocap/`, each in its own form."""
    readers = {"cc3m": read_cc3m, "webvid": read_webvid, "audiocap": read_audiocap}
    found = [name for name in readers if (source / name).is_dir()]
    if not found:
        raise DataError(f"{source}: expected a folder with any of {', '.join(readers)} in it")
    for name in found:
        for row in readers[name](source / name, report):
            yield Row(row.id, row.source, _below(name, row.messages), row.meta)


def _below(folder: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages with every medium's path one folder down."""
    return map_media(messages, lambda kind, path: f"{folder}/{path}")


def read_instructions(source: Path, report: Report) -> Iterator[Row]:
    """Every JSON file of a folder with conversations in a published form (see `instructions`), media beside them."""
    files = sorted(path for path in source.glob("*.json*") if path.suffix in (".json", ".jsonl"))
    if not files:
        raise DataError(f"{source}: expected .json files with conversations in it")
    for path in files:
        task = path.stem
        for number, record in enumerate(json_records(path)):
            name = f"{task}-{number}"
            try:
                messages = conversation_of(record)
            except Unusable as reason:
                report.drop(str(reason), name)
                continue
            messages = map_media(messages, lambda kind, medium: located(source, kind, medium))
            named = embedding_files(record)
            meta = {"task": task} | ({"embeddings": named} if named else {})
            yield Row(name, task, messages, meta)


def read_folder(source: Path, report: Report) -> Iterator[Row]:
    """Media with captions: `metadata.csv` or `.jsonl` (file_name and caption or text), else a `.txt` or `.json` (caption)
    of the same name beside each medium, in folders of any depth.
    """
    tables = [source / f"metadata.{form}" for form in ("csv", "jsonl")]
    table = next((path for path in tables if path.is_file()), None)
    number = -1
    for number, record in enumerate(_of_table(table) if table else _beside_media(source)):
        name, unnamed = _text(record, "file_name")
        kind = next((k for k, ends in SUFFIXES.items() if name.lower().endswith(ends)), None)
        text, reason = _text(record, "caption")
        if unnamed or kind is None:
            report.drop(unnamed or "no medium by its name", name or f"row {number}")
        elif reason:
            report.drop(reason, name)
        else:
            yield captioned_row(name, source.resolve().name, kind, name, text)
    if number < 0:
        raise DataError(f"{source}: expected pictures, sounds or clips in it")


def _of_table(path: Path) -> Iterator[dict[str, Any]]:
    """Every row of a metadata table as {"file_name", "caption"}, as far as it has them."""
    for record in _lines_of_csv(path) if path.suffix == ".csv" else json_records(path):
        named = isinstance(record, dict) and record.get("file_name") is not None
        yield {**({"file_name": record["file_name"]} if named else {}), **_told(record)}


def _lines_of_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file by its header; DataError with the line where it is damaged or not UTF-8."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strictly: a quotation mark that is never closed would swallow all rows behind it.
        rows = csv.DictReader(file, strict=True)
        try:
            header = set(rows.fieldnames or ())
            if "file_name" not in header or not header & {"caption", "text"}:
                expected = "expected columns file_name and caption (or text)"
                raise DataError(f"{path}: {expected}, found {sorted(header)}")
            yield from rows
        except csv.Error as error:
            place = f"{path}, behind line {rows.line_num}"
            raise DataError(f"{place}: {error}; mend the row there") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text: {error}; save it as UTF-8") from error


def _files_below(folder: str | Path) -> Iterator[Path]:
    """Every file in a folder of any depth, sorted; one folder's names at a time are in memory."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path)
        elif entry.is_file():
            yield Path(entry.path)


def _beside_media(source: Path) -> Iterator[dict[str, Any]]:
    """{"file_name" (below the source), "caption" if there is one} of every medium in the folder."""
    known = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    for path in _files_below(source):
        if path.name.lower().endswith(known):
            name = path.relative_to(source)
            told = (name.with_suffix(form) for form in (".txt", ".json"))
            beside = next((one for one in told if (source / one).is_file()), None)
            caption = {} if beside is None else _caption_of(source, beside.as_posix())
            yield {"file_name": name.as_posix(), **caption}


def _caption_of(source: Path, name: str) -> dict[str, Any]:
    """{"caption"} of a file beside a medium, which may hold anything; a damaged one holds no text."""
    try:
        path = media_path(source, name)
        if path.suffix == ".txt":
            with path.open(encoding="utf-8-sig") as file:
                return {"caption": file.read(MAX_CAPTION + 1)}
        record = next(json_records(path), None)
    except (MediaError, DataError, UnicodeDecodeError):
        return {"caption": None}
    return _told(record)


def _told(record: Any) -> dict[str, Any]:
    """{"caption"} of a record that calls it caption or text, else {}."""
    held = record if isinstance(record, dict) else {}
    told = [held[key] for key in ("caption", "text") if held.get(key) is not None]
    return {"caption": told[0]} if told else {}


READERS: dict[str, Callable[[Path, Report], Iterator[Row]]] = {
    "cc3m": read_cc3m,
    "webvid": read_webvid,
    "audiocap": read_audiocap,
    "nextgpt": read_nextgpt,
    "instructions": read_instructions,
    "folder": read_folder,
}
