"""Readers of the datasets' own files: one function a format, from a source folder to neutral rows.

A reader yields a `Row` for each usable record and tells the `Report` what it dropped and why. Media
stay where they are: rows name them by POSIX paths relative to the source; `building.build` checks and
copies them. Here are formats as published with NExT-GPT (`cc3m.json`, `webvid.json`, `audiocap.json`) and the instruction data of
`instructions`; in `folders` and `published` those of captioned media.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from anytoany_lib.data.formats.folders import files_below, read_folder, text_of
from anytoany_lib.data.formats.instructions import conversation_of, embedding_files, located
from anytoany_lib.data.formats.json_files import NoRecords, json_records
from anytoany_lib.data.formats.media_references import Unusable
from anytoany_lib.data.formats.published import read_audiocaps, read_clotho, read_coco, read_wavcaps
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, captioned_row, map_media
from anytoany_lib.media.file_types import MIME_OF

_NO_LIST, _NO_TALK = "no list of records", "no conversation"


# Captioned sets as NExT-GPT prepares them, each a JSON file of its name: the folder of media beside it, their kind, and the
# key of a medium's name.
_NEXTGPT = {
    "cc3m": ("images", "image", "image_name"),
    "webvid": ("videos", "video", "video_name"),
    "audiocap": ("audios", "audio", "audio_name"),
}


def _captioned(source: Path, report: Report, dataset: str, below: str = "") -> Iterator[Row]:
    """The rows of one of them, which lies in the folder `below` of the source, or is the source."""
    folder, kind, name_key = _NEXTGPT[dataset]
    here, file = source / below, f"{dataset}.json"
    if not (here / file).is_file():
        held = ", ".join(sorted(p.name for p in here.iterdir())[:8]) or "nothing"
        expected = f"expected {file} and {folder}/ in {here}"
        raise DataError(f"{here / file}: missing: {expected}, found {held}")
    report.read_file(here / file)
    for number, record in enumerate(json_records(here / file)):
        name, unnamed = text_of(record, name_key)
        caption, reason = text_of(record, "caption")
        if unnamed or reason:
            files = [here / folder / name] if name else []
            report.drop(unnamed or reason, name or f"{file}, record {number}", files)
            continue
        path = f"{below}/{folder}/{name}" if below else f"{folder}/{name}"
        yield captioned_row(f"{dataset}-{Path(name).stem}", dataset, kind, path, caption)


def read_nextgpt(source: Path, report: Report) -> Iterator[Row]:
    """A folder with any of `cc3m/`, `webvid/` and `audiocap/`, each in its own form."""
    found = [name for name in _NEXTGPT if (source / name).is_dir()]
    if not found:
        raise DataError(f"{source}: expected a folder with any of {', '.join(_NEXTGPT)} in it")
    for name in found:
        yield from _captioned(source, report, name, below=name)


def read_instructions(source: Path, report: Report) -> Iterator[Row]:
    """Every JSON file of a folder of any depth with conversations in a published form (see `instructions`), media beside them."""
    files = [
        path
        for path in files_below(source)
        if path.suffix in (".json", ".jsonl")
        # Below the source, not one that tells of the medium of its name beside it.
        and not (path.parent != source and any(path.with_suffix(e).exists() for e in MIME_OF))
    ]
    if not files:
        raise DataError(f"{source}: expected .json files with conversations in it")
    for path in files:
        report.read_file(path)
        try:
            yield from _conversations(source, path.relative_to(source), report)
        except NoRecords as error:
            report.drop(_NO_LIST, str(error))


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
    **{name: partial(_captioned, dataset=name) for name in _NEXTGPT},
    "nextgpt": read_nextgpt,
    "instructions": read_instructions,
    "folder": read_folder,
    "coco": read_coco,
    "clotho": read_clotho,
    "audiocaps": read_audiocaps,
    "wavcaps": read_wavcaps,
}
