"""Readers of the datasets' own files: one function a format, from a source folder to neutral rows.

A reader yields a `Row` for each usable record and tells the `Report` what it dropped and why. Media
stay where they are: rows name them by POSIX paths relative to the source; `data.build` checks and
copies them. Formats as published with NExT-GPT (`cc3m.json`, `webvid.json`, `audiocap.json`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXAMPLES_KEPT = 10
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
        caption = " ".join(caption.split())
        messages = [
            {"role": "user", "content": [{"type": kind, kind: f"{folder}/{name}"}]},
            {"role": "assistant", "content": [{"type": "text", "text": caption}]},
        ]
        dataset = Path(file).stem
        meta = {"caption": caption, "kind": kind}
        yield Row(f"{dataset}-{Path(name).stem}", dataset, messages, meta)


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


READERS: dict[str, Callable[[Path, Report], Iterator[Row]]] = {
    "cc3m": read_cc3m,
    "webvid": read_webvid,
    "audiocap": read_audiocap,
    "nextgpt": read_nextgpt,
}
