"""Readers of the datasets' own files: one function a format, from a source folder to neutral rows.

A reader yields a `Row` for each usable record and tells the `Report` what it dropped and why. Media
stay where they are: rows name them by POSIX paths relative to the source; `data.build` checks and
copies them. Formats as published with NExT-GPT (`cc3m.json`, `webvid.json`, `audiocap.json`), the instruction data of
`instructions`, and folders of media with captions as `imagefolder` has them.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anytoany_lib.instructions import Unusable, conversation_of, embedding_files, located

EXAMPLES_KEPT = 10
SUFFIXES = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"),
    "video": (".mp4", ".webm", ".mov", ".avi", ".mkv", ".gif"),
}
_SPACE = re.compile(r"[ \t\r\n]*")


class DataError(ValueError):
    """A dataset that cannot be read or written; the message names the file, the place and what to do."""


@dataclass(frozen=True)
class Row:
    """One conversation: `messages` as DESIGN's contract has them, `meta` anything that JSON can hold."""

    id: str
    source: str
    messages: list[dict[str, Any]]
    meta: dict[str, Any] = field(default_factory=dict)


class Report:
    """What was read, kept and dropped, with the first names of each reason; counts always add up."""

    def __init__(self) -> None:
        self.kept_rows = 0
        self.bytes = 0
        self.seconds = 0.0
        self.dropped: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def kept(self, size: int = 0) -> None:
        """One more row was kept; `size` is what its media take, in bytes."""
        self.kept_rows += 1
        self.bytes += size

    def drop(self, reason: str, name: str) -> None:
        """One more row was dropped, known by `name`."""
        self.dropped[reason] += 1
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES_KEPT:
            names.append(name)

    @property
    def read(self) -> int:
        """Rows kept and dropped so far."""
        return self.kept_rows + self.dropped.total()

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "read": self.read,
            "kept": self.kept_rows,
            "dropped": dict(sorted(self.dropped.items())),
            "examples": dict(sorted(self.examples.items())),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 2),
        }

    def save(self, path: str | Path) -> None:
        """Write report.json."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        lines = [f"{self.read} rows read, {self.kept_rows} kept"]
        for reason, count in self.dropped.most_common():
            names = self.examples[reason]
            more = ", ..." if count > len(names[:3]) else ""
            lines.append(f"  {count} dropped, {reason}: {', '.join(names[:3])}{more}")
        return "\n".join(lines)


def json_records(path: Path) -> Iterator[Any]:
    """The values of a JSON array, or of JSON lines, one at a time.

    Raises DataError naming the file and the position where it is cut, damaged or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    decoder, at = json.JSONDecoder(), _SPACE.match(text).end()
    array = text.startswith("[", at)
    at = _SPACE.match(text, at + 1 if array else at).end()
    if array and text.startswith("]", at):
        return
    while array or at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        # Beside JSONDecodeError, numbers of thousands of digits and bottomless nesting.
        except (ValueError, RecursionError) as error:
            raise _cut(path, text, getattr(error, "pos", at), str(error)) from error
        yield value
        at = _SPACE.match(text, at).end()
        if array:
            if text.startswith("]", at):
                break
            if not text.startswith(",", at):
                raise _cut(path, text, at, "expected ',' or ']'")
            at = _SPACE.match(text, at + 1).end()
    if array and _SPACE.match(text, at + 1).end() != len(text):
        raise _cut(path, text, at + 1, "text after the closing ']'")


def _cut(path: Path, text: str, at: int, message: str) -> DataError:
    line = text.count("\n", 0, at) + 1
    where = f"cut or damaged at line {line}, character {at} of {len(text)}"
    return DataError(f"{path}: {where}: {message}; get the file again")


def _text(record: Any, key: str) -> tuple[str, str]:
    """(the text under `key`, "") or ("", the reason there is none)."""
    if not isinstance(record, dict) or key not in record:
        return "", f"{key} missing"
    value = record[key]
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        return "", f"{key} not text"
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
        yield _with_caption(
            f"{dataset}-{Path(name).stem}", dataset, kind, f"{folder}/{name}", caption
        )


def _with_caption(name: str, dataset: str, kind: str, path: str, caption: str) -> Row:
    """A medium and its caption as a row; runs of blanks and line ends become single blanks."""
    caption = " ".join(caption.split())
    messages = [
        {"role": "user", "content": [{"type": kind, kind: path}]},
        {"role": "assistant", "content": [{"type": "text", "text": caption}]},
    ]
    return Row(name, dataset, messages, {"caption": caption, "kind": kind})


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


def map_media(
    messages: list[dict[str, Any]], change: Callable[[str, str], Any]
) -> list[dict[str, Any]]:
    """The same messages with `change(kind, medium)` in place of every medium."""

    def part(old: Any) -> Any:
        kind = old["type"]
        return {**old, kind: change(kind, old[kind])} if kind != "text" and kind in old else old

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [part(old) for old in message["content"]]}
        for message in messages
    ]


def read_instructions(source: Path, report: Report) -> Iterator[Row]:
    """Every JSON file of a folder with conversations in a published form (see `instructions`), media beside them."""
    files = sorted(path for path in source.glob("*.json*") if path.suffix in (".json", ".jsonl"))
    if not files:
        raise DataError(f"{source}: expected .json files with conversations in it")
    for path in files:
        for number, record in enumerate(json_records(path)):
            name = f"{path.stem}-{number}"
            try:
                messages = conversation_of(record)
            except Unusable as reason:
                report.drop(str(reason), name)
                continue
            messages = map_media(messages, lambda kind, medium: located(source, kind, medium))
            named = embedding_files(record)
            meta = {"task": path.stem} | ({"embeddings": named} if named else {})
            yield Row(name, path.stem, messages, meta)


def read_folder(source: Path, report: Report) -> Iterator[Row]:
    """Media with captions: `metadata.csv` or `.jsonl` (file_name and caption or text), else a `.txt` or `.json` (caption)
    of the same name beside each medium, in folders of any depth.
    """
    tables = [source / f"metadata.{form}" for form in ("csv", "jsonl")]
    table = next((path for path in tables if path.is_file()), None)
    found = _of_table(table) if table else _beside_media(source)
    empty = True
    for name, caption in found:
        empty = False
        kind = next((k for k, ends in SUFFIXES.items() if name.lower().endswith(ends)), None)
        text, reason = _text({"caption": caption} if caption is not None else {}, "caption")
        if kind is None or reason:
            report.drop(reason if kind else "no medium by its name", name or "a row without a name")
            continue
        yield _with_caption(name, source.name, kind, name, text)
    if empty:
        raise DataError(f"{source}: expected pictures, sounds or clips in it")


def _of_table(path: Path) -> Iterator[tuple[str, Any]]:
    """(file name, caption) of every row of a metadata table."""
    if path.suffix == ".jsonl":
        records: Any = json_records(path)
    else:
        records = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not {"caption", "text"} & set(record):
            raise DataError(f"{path}, row {number}: expected file_name and caption (or text)")
        yield str(record.get("file_name") or ""), record.get("caption", record.get("text"))


def _beside_media(source: Path) -> Iterator[tuple[str, Any]]:
    """(path below the source, caption or None) of every medium in the folder."""
    known = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    for path in sorted(source.rglob("*")):
        if not path.name.lower().endswith(known) or not path.is_file():
            continue
        caption = None
        if path.with_suffix(".txt").is_file():
            caption = path.with_suffix(".txt").read_text(encoding="utf-8", errors="replace")
        elif path.with_suffix(".json").is_file():
            record = next(json_records(path.with_suffix(".json")), None)
            caption = (
                record.get("caption", record.get("text")) if isinstance(record, dict) else None
            )
        yield path.relative_to(source).as_posix(), caption


READERS: dict[str, Callable[[Path, Report], Iterator[Row]]] = {
    "cc3m": read_cc3m,
    "webvid": read_webvid,
    "audiocap": read_audiocap,
    "nextgpt": read_nextgpt,
    "instructions": read_instructions,
    "folder": read_folder,
}
