"""Sets as they are published: COCO captions, Clotho, AudioCaps, WavCaps and MSR-VTT, the questions of Clotho-AQA and MUSIC-AVQA.

Each has its media in folders beside.

Their tables name media by a file, a number or a part of a file's name; where the file lies is looked up in the whole source.
The names of the tables say which split they hold.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from anytoany_lib.data.formats.captions import (
    captioned_rows,
    captions_of,
    files_below,
    split_of_file,
)
from anytoany_lib.data.formats.folders import records_of_csv
from anytoany_lib.data.formats.json_files import NoRecords, json_members, json_records
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row
from anytoany_lib.data.wording import as_answer
from anytoany_lib.media.file_types import kind_by_name

# What the folder of a table's sounds is called, by the beginning of the table's name.
_WAVCAPS = {"fsd": "freesound", "bbc": "bbc", "sb": "soundbible", "as": "audioset"}
_MSRVTT_SPLITS = {"train": "train", "validate": "validation", "test": "test"}
_BLANK = re.compile(r"<[^<>]*>")  # in MUSIC-AVQA's questions: <Object>, <LR>


class _Index:
    """The media of one kind in a folder, by their names without ending: some hundred bytes of memory each."""

    def __init__(self, source: Path, kind: str):
        self._paths: dict[str, list[str]] = {}
        for path in files_below(source):
            if kind_by_name(path.name) == kind:
                name = path.relative_to(source).as_posix()
                self._paths.setdefault(path.stem, []).append(name)

    def find(self, names: Iterable[str], hints: Iterable[str] = ()) -> str | None:
        """The path of the first name that is there; of several files of that name one whose folders say one of the hints."""
        for name in names:
            for stem in dict.fromkeys((name, PurePosixPath(name).stem)):
                if found := self._paths.get(stem):
                    hinted = (
                        p for h in hints for p in found if h and h in p.lower().rpartition("/")[0]
                    )
                    return next(hinted, found[0] if len(found) == 1 else None)
        return None


def _tables(source: Path, ending: str, what: str) -> list[Path]:
    tables = [path for path in files_below(source) if path.suffix.lower() == ending]
    if not tables:
        raise DataError(f"{source}: expected {what} in it")
    return tables


def _text(value: Any) -> str:
    return (
        str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    )


def read_clotho(source: Path, report: Report) -> Iterator[Row]:
    """Clotho: `clotho_captions_*.csv` (file_name, caption_1 to caption_5), and the sounds in folders of any name."""
    what = "clotho_captions_*.csv"
    yield from _of_csv(source, report, what, "file_name", _names_of_clotho, "caption")


def read_audiocaps(source: Path, report: Report) -> Iterator[Row]:
    """AudioCaps: `train.csv` and the like (audiocap_id, youtube_id, start_time, caption), and the sounds, named by any of them."""
    yield from _of_csv(source, report, "train.csv", "youtube_id", _names_of_audiocaps)


def _names_of_clotho(record: dict[str, Any]) -> list[str]:
    return [_text(record.get("file_name"))]


def _names_of_audiocaps(record: dict[str, Any]) -> list[str]:
    """What the tools that fetch AudioCaps call a sound."""
    number, film = _text(record.get("audiocap_id")), _text(record.get("youtube_id"))
    start = _text(record.get("start_time"))
    begins = int(start) if start.isdecimal() and len(start) < 9 else 0
    spans = (start, f"{start}_{begins + 10}", f"{begins * 1000}_{begins * 1000 + 10_000}")
    names = [f"{y}{film}{rest}" for y in ("", "Y") for rest in (*(f"_{s}" for s in spans), "")]
    return [*names, number] if film else [number]


def _of_csv(
    source: Path,
    report: Report,
    what: str,
    column: str,
    names_of: Callable[[dict[str, Any]], list[str]],
    called: str = "",
) -> Iterator[Row]:
    """The rows of the CSV files whose names hold `called`, and that have the column."""
    index, read = _Index(source, "audio"), 0
    for path in _tables(source, ".csv", what):
        if called not in path.name.lower():
            continue  # Clotho's metadata, which is not UTF-8
        table = path.relative_to(source).as_posix()
        split = split_of_file(table)
        hints = [path.stem.rpartition("_")[2].lower(), split]
        for number, record in enumerate(records_of_csv(path)):
            if column not in record:
                break  # another table
            report.read_file(path)
            read += 1
            names = [name for name in names_of(record) if name]
            if not names:
                report.drop(f"{column} empty", f"{table}, row {number}")
            elif (found := index.find(names, hints)) is None:
                report.drop("missing", names[0])
            else:
                captions = (
                    [record["caption"]]
                    if record.get("caption") is not None
                    else captions_of(record)
                )
                yield from captioned_rows(report, source.resolve(), found, "audio", captions, split)
    if not read:
        raise DataError(f"{source}: expected {what} with a column {column} in it")


def read_coco(source: Path, report: Report) -> Iterator[Row]:
    """COCO captions: `captions_*.json` (images with id and file_name, annotations with image_id and caption), and the pictures."""
    index = _Index(source, "image")
    for path in _tables(source, ".json", "captions_train2017.json"):
        table = path.relative_to(source).as_posix()
        try:
            names = {
                one["id"]: _text(one.get("file_name"))
                for _, one in json_members(path, "images")
                if isinstance(one, dict) and isinstance(one.get("id"), int | str)
            }
            report.read_file(path)
            hints = [path.stem.rpartition("_")[2].lower(), split_of_file(table)]
            for number, (_, one) in enumerate(json_members(path, "annotations")):
                key = one.get("image_id") if isinstance(one, dict) else None
                name = names.get(key, "") if isinstance(key, int | str) else ""
                found = index.find([name], hints) if name else None
                if not found:
                    reason = "missing" if name else "image_id names no picture"
                    report.drop(reason, name or f"{table}, annotation {number}")
                    continue
                captions = [one["caption"]] if "caption" in one else []
                split = split_of_file(table)
                yield from captioned_rows(report, source.resolve(), found, "image", captions, split)
        except NoRecords as error:
            report.drop("no list of records", str(error))


def read_wavcaps(source: Path, report: Report) -> Iterator[Row]:
    """WavCaps: `*_final.json` (data with id and caption) in folders of any depth, and the sounds, named by their ids."""
    index = _Index(source, "audio")
    for path in _tables(source, ".json", "WavCaps' *_final.json"):
        table = path.relative_to(source).as_posix()
        hints = [_WAVCAPS.get(path.stem.partition("_")[0].lower(), path.stem.lower())]
        report.read_file(path)
        try:
            for number, (_, one) in enumerate(json_members(path, "data")):
                record = one if isinstance(one, dict) else {}
                told_names = [_text(record.get(key)) for key in ("audio", "id")]
                names = [PurePosixPath(name).name for name in told_names if name]
                if not names:
                    report.drop("id missing", f"{table}, record {number}")
                elif (found := index.find(names, hints)) is None:
                    report.drop("missing", names[0])
                else:
                    captions = [record["caption"]] if "caption" in record else []
                    yield from captioned_rows(report, source.resolve(), found, "audio", captions)
        except NoRecords as error:
            report.drop("no list of records", str(error))


def read_msrvtt(source: Path, report: Report) -> Iterator[Row]:
    """MSR-VTT: `*videodatainfo.json` (videos with video_id and split, sentences with video_id and caption), and the clips."""
    index = _Index(source, "video")
    for path in _tables(source, ".json", "MSR-VTT's videodatainfo.json"):
        table = path.relative_to(source).as_posix()
        report.read_file(path)
        try:
            splits = {
                one["video_id"]: _MSRVTT_SPLITS.get(_text(one.get("split")), "")
                for _, one in json_members(path, "videos")
                if isinstance(one, dict) and isinstance(one.get("video_id"), str)
            }
            for number, (_, one) in enumerate(json_members(path, "sentences")):
                name = _text(one.get("video_id")) if isinstance(one, dict) else ""
                if name not in splits:
                    report.drop("video_id names no clip", name or f"{table}, sentence {number}")
                elif (found := index.find([name])) is None:
                    report.drop("missing", name)
                else:
                    captions, split = captions_of(one), splits[name]
                    yield from captioned_rows(
                        report, source.resolve(), found, "video", captions, split
                    )
        except NoRecords as error:
            report.drop("no list of records", str(error))


def read_clotho_aqa(source: Path, report: Report) -> Iterator[Row]:
    """Clotho-AQA: `clotho_aqa_train.csv` and the like (file_name, QuestionText, answer; a line for each of three people), and
    the sounds. A row a question, with the answer that most gave; of several, the first.
    """
    index, read = _Index(source, "audio"), 0
    for path in _tables(source, ".csv", "clotho_aqa_train.csv"):
        table = path.relative_to(source).as_posix()
        if not (split := split_of_file(table)):
            continue  # its metadata
        report.read_file(path)
        answers: dict[tuple[str, str], Counter[str]] = {}
        for record in records_of_csv(path):
            asked = _text(record.get("file_name")), _text(record.get("QuestionText"))
            answers.setdefault(asked, Counter())[_text(record.get("answer")).lower()] += 1
        for number, ((name, question), given) in enumerate(answers.items()):
            read, answer = read + 1, given.most_common(1)[0][0]
            if not (name and question and answer):
                report.drop("no file, question or answer", name or f"{table}, question {number}")
            elif (found := index.find([name])) is None:
                report.drop("missing", name)
            else:
                shown = [("audio", found)]
                yield as_answer(f"{table}-{number}", "clotho-aqa", shown, question, answer, split)
    if not read:
        raise DataError(f"{source}: expected clotho_aqa_train.csv with a column QuestionText in it")


def read_music_avqa(source: Path, report: Report) -> Iterator[Row]:
    """MUSIC-AVQA: `avqa-train.json` and the like (video_id, question_content, templ_values, anser, as it is spelt there), the
    clips by their numbers, and beside each its sound, if there is a file of it (`00000093.wav`).
    """
    clips, sounds = _Index(source, "video"), _Index(source, "audio")
    for path in _tables(source, ".json", "MUSIC-AVQA's avqa-train.json"):
        table = path.relative_to(source).as_posix()
        report.read_file(path)
        try:
            for number, one in enumerate(json_records(path)):
                record = one if isinstance(one, dict) else {}
                name, answer = _text(record.get("video_id")), _text(record.get("anser"))
                question = _filled(_text(record.get("question_content")), record)
                if not (name and question and answer):
                    report.drop("no clip, question or answer", f"{table}, record {number}")
                elif (clip := clips.find([name])) is None:
                    report.drop("missing", name)
                else:
                    sound = sounds.find([name])
                    shown = [("video", clip), *([("audio", sound)] if sound else [])]
                    where = f"{table}-{number}", "music-avqa"
                    split = split_of_file(table)
                    yield as_answer(*where, shown, question, answer, split)
        except NoRecords as error:
            report.drop("no list of records", str(error))


def _filled(question: str, record: dict[str, Any]) -> str:
    """A question with its values in place of its blanks; "" if they do not go together."""
    try:
        values = json.loads(_text(record.get("templ_values")) or "[]")
    except ValueError:
        return ""
    blanks = _BLANK.findall(question)
    if not isinstance(values, list) or len(values) != len(blanks):
        return ""
    for blank, value in zip(blanks, values, strict=True):
        question = question.replace(blank, _text(value), 1)
    return question
