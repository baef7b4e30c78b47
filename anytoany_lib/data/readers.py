"""Readers of the datasets' own files: one function a format, from a source folder to neutral rows.

A reader yields a `Row` for each usable record and tells the `Report` what it dropped and why. Media
stay where they are: rows name them by POSIX paths relative to the source; `building.build` checks and
copies them. Here are formats as published with NExT-GPT (`cc3m.json`, `webvid.json`, `audiocap.json`) and the instruction data of
`instructions`; in `folders` and `published` those of captioned media, and of questions about media.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anytoany_lib.data.formats.captions import files_below, text_of
from anytoany_lib.data.formats.folders import read_folder
from anytoany_lib.data.formats.instructions import conversation_of, embedding_files, located
from anytoany_lib.data.formats.json_files import NoRecords, json_records
from anytoany_lib.data.formats.media_references import Unusable
from anytoany_lib.data.formats.published import (
    read_audiocaps,
    read_clotho,
    read_clotho_aqa,
    read_coco,
    read_msrvtt,
    read_music_avqa,
    read_wavcaps,
)
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, captioned_row, map_media
from anytoany_lib.media.file_types import SUFFIXES

_NO_LIST, _NO_TALK = "no list of records", "no conversation"


def _captioned(
    source: Path, report: Report, file: str, folder: str, kind: str, name_key: str
) -> Iterator[Row]:
    """Rows of `file`: records with a caption and the name of one medium in `folder`."""
    path = source / file
    if not path.is_file():
        held = ", ".join(sorted(p.name for p in source.iterdir())[:8]) or "nothing"
        raise DataError(f"{path}: missing: expected {file} and {folder}/ in {source}, found {held}")
    report.read_file(path)
    for number, record in enumerate(json_records(path)):
        name, unnamed = text_of(record, name_key)
        caption, reason = text_of(record, "caption")
        if unnamed or reason:
            files = [source / folder / name] if name else []
            report.drop(unnamed or reason, name or f"{file}, record {number}", files)
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
    """Every JSON file of a folder of any depth with conversations in a published form (see `instructions`), media beside them."""
    files = [
        path
        for path in files_below(source)
        if path.suffix in (".json", ".jsonl") and not (path.parent != source and _is_mediums(path))
    ]
    if not files:
        raise DataError(f"{source}: expected .json files with conversations in it")
    for path in files:
        report.read_file(path)
        try:
            yield from _conversations(source, path.relative_to(source), report)
        except NoRecords as error:
            report.drop(_NO_LIST, str(error))


def _is_mediums(path: Path) -> bool:
    """Whether a JSON file stands beside a medium of the same name, of which it tells."""
    endings = (ending for endings in SUFFIXES.values() for ending in endings)
    return any(path.with_suffix(ending).exists() for ending in endings)


def _conversations(source: Path, file: Path, report: Report) -> Iterator[Row]:
    """The rows of one JSON file."""
    task = file.with_suffix("").as_posix()
    below = "" if file.parent == Path() else file.parent.as_posix()
    unusable, last = "", None
    for number, record in enumerate(json_records(source / file)):
        if unusable:
            report.drop(unusable, f"{task}-{number - 1}")
        unusable, last = "", (number, record)
        try:
            messages = conversation_of(record)
        except Unusable as reason:
            unusable = str(reason)  # it is counted when it is known whether the file holds any more
            continue
        where = map_media(messages, lambda kind, medium: located(source, kind, medium, below))
        named = embedding_files(record)
        meta = {"task": task} | ({"embeddings": named} if named else {})
        yield Row(f"{task}-{number}", task, where, meta)
    if last and unusable == _NO_TALK and last[0] == 0 and isinstance(last[1], dict):
        keys = ", ".join(f"{key:.40}" for key in list(last[1])[:8])
        report.drop(_NO_LIST, f"{file}: one object with {keys or 'nothing in it'}")
    elif last and unusable:
        report.drop(unusable, f"{task}-{last[0]}")


READERS: dict[str, Callable[[Path, Report], Iterator[Row]]] = {
    "cc3m": read_cc3m,
    "webvid": read_webvid,
    "audiocap": read_audiocap,
    "nextgpt": read_nextgpt,
    "instructions": read_instructions,
    "folder": read_folder,
    "coco": read_coco,
    "clotho": read_clotho,
    "audiocaps": read_audiocaps,
    "wavcaps": read_wavcaps,
    "msrvtt": read_msrvtt,
    "clotho-aqa": read_clotho_aqa,
    "music-avqa": read_music_avqa,
}
