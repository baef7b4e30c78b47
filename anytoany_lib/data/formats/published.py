"""Sets as they are published: captions of COCO, Clotho, AudioCaps, WavCaps and MSR-VTT, and those that NExT-GPT prepares; questions
of Clotho-AQA and MUSIC-AVQA.

Their tables name media by a file, a number or a part of a file's name; where the file lies is looked up in the whole source.
The names of the tables say which split they hold.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from anytoany_lib.data.formats.folders import (
    captioned_rows,
    captions_of,
    files_below,
    records_of_csv,
    split_of_file,
    text_of,
)
from anytoany_lib.data.formats.json_files import NoRecords, json_members, json_records
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, as_answer, captioned_row
from anytoany_lib.media.file_types import kind_by_name

# What the folder of a table's sounds is called, by the beginning of the table's name.
_WAVCAPS = {"fsd": "freesound", "bbc": "bbc", "sb": "soundbible", "as": "audioset"}
_MSRVTT_SPLITS = {"train": "train", "validate": "validation", "test": "test"}
_BLANK = re.compile(r"<[^<>]*>")  # in MUSIC-AVQA's questions: <Object>, <LR>

# Captioned sets as NExT-GPT prepares them, each a JSON file of its name: the folder of media beside it, their kind, and the
# key of a medium's name.
NEXTGPT = {
    "cc3m": ("images", "image", "image_name"),
    "webvid": ("videos", "video", "video_name"),
    "audiocap": ("audios", "audio", "audio_name"),
}


class _Index:
    """The media of one kind in a folder, by their names without ending: some hundred bytes of memory each."""

    def __init__(self, source: Path, kind: str, report: Report):
        self._source, self._kind, self._report = source.resolve(), kind, report
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

    def rows(
        self,
        names: Sequence[str],
        unnamed: tuple[str, str],
        hints: Iterable[str],
        captions: list[Any],
        split: str = "",
    ) -> Iterator[Row]:
        """A row for each caption of the medium that has one of the names; reports if it is not there, or `unnamed`."""
        if not names:
            self._report.drop(*unnamed)
        elif (found := self.find(names, hints)) is None:
            self._report.drop("missing", names[0])
        else:
            yield from captioned_rows(
                self._report, self._source, found, self._kind, captions, split
            )


def _tables(source: Path, ending: str, what: str) -> list[Path]:
    tables = [path for path in files_below(source) if path.suffix.lower() == ending]
    if not tables:
        raise DataError(f"{source}: expected {what} in it")
    return tables


def _text(value: Any) -> str:
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() if plain else ""


def read_clotho(source: Path, report: Report) -> Iterator[Row]:
    """Clotho: `clotho_captions_*.csv` (file_name, caption_1 to caption_5), and the sounds in folders of any name."""
    what, column = "clotho_captions_*.csv", "file_name"
    return _of_csv(source, report, what, column, lambda record: [_text(record[column])], "caption")


def read_audiocaps(source: Path, report: Report) -> Iterator[Row]:
    """AudioCaps: `train.csv` and the like (audiocap_id, youtube_id, start_time, caption), and the sounds, named by any of them."""
    return _of_csv(source, report, "train.csv", "youtube_id", _names_of_audiocaps)


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
    index, read = _Index(source, "audio", report), 0
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
            unnamed = (f"{column} empty", f"{table}, row {number}")
            yield from index.rows(names, unnamed, hints, captions_of(record), split)
    if not read:
        raise DataError(f"{source}: expected {what} with a column {column} in it")


def _caption(record: dict[str, Any]) -> list[Any]:
    return [record["caption"]] if "caption" in record else []


def read_coco(source: Path, report: Report) -> Iterator[Row]:
    """COCO captions: `captions_*.json` (images with id and file_name, annotations with image_id and caption), and the pictures."""
    index = _Index(source, "image", report)
    for path in _tables(source, ".json", "captions_train2017.json"):
        table = path.relative_to(source).as_posix()
        split = split_of_file(table)
        hints = [path.stem.rpartition("_")[2].lower(), split]
        try:
            pictures = {
                one["id"]: _text(one.get("file_name"))
                for _, one in json_members(path, "images")
                if isinstance(one, dict) and isinstance(one.get("id"), int | str)
            }
            report.read_file(path)
            for number, (_, one) in enumerate(json_members(path, "annotations")):
                record = one if isinstance(one, dict) else {}
                key = record.get("image_id")
                name = pictures.get(key, "") if isinstance(key, int | str) else ""
                unnamed = ("image_id names no picture", f"{table}, annotation {number}")
                names = [name] if name else []
                yield from index.rows(names, unnamed, hints, _caption(record), split)
        except NoRecords as error:
            report.drop("no list of records", str(error))


def read_wavcaps(source: Path, report: Report) -> Iterator[Row]:
    """WavCaps: `*_final.json` (data with id and caption) in folders of any depth, and the sounds, named by their ids."""
    index = _Index(source, "audio", report)
    for path in _tables(source, ".json", "WavCaps' *_final.json"):
        table = path.relative_to(source).as_posix()
        hints = [_WAVCAPS.get(path.stem.partition("_")[0].lower(), path.stem.lower())]
        report.read_file(path)
        try:
            for number, (_, one) in enumerate(json_members(path, "data")):
                record = one if isinstance(one, dict) else {}
                given = [_text(record.get(key)) for key in ("audio", "id")]
                names = [PurePosixPath(name).name for name in given if name]
                unnamed = ("id missing", f"{table}, record {number}")
                yield from index.rows(names, unnamed, hints, _caption(record))
        except NoRecords as error:
            report.drop("no list of records", str(error))


def read_prepared(source: Path, report: Report, dataset: str, below: str = "") -> Iterator[Row]:
    """A set as NExT-GPT prepares it, which lies in the folder `below` of the source, or is the source."""
    folder, kind, name_key = NEXTGPT[dataset]
    here, file = source / below, f"{dataset}.json"
    if not (here / file).is_file():
        held = ", ".join(sorted(p.name for p in here.iterdir())[:8]) or "nothing"
        raise DataError(
            f"{here / file}: missing: expected {file} and {folder}/ in {here}, found {held}"
        )
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
    found = [name for name in NEXTGPT if (source / name).is_dir()]
    if not found:
        raise DataError(f"{source}: expected a folder with any of {', '.join(NEXTGPT)} in it")
    for name in found:
        yield from read_prepared(source, report, name, below=name)


def read_msrvtt(source: Path, report: Report) -> Iterator[Row]:
    """MSR-VTT: `*videodatainfo.json` (videos with video_id and split, sentences with video_id and caption), and the clips."""
    index = _Index(source, "video", report)
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
                record = one if isinstance(one, dict) else {}
                name = _text(record.get("video_id"))
                unnamed = ("video_id names no clip", name or f"{table}, sentence {number}")
                names = [name] if name in splits else []
                yield from index.rows(names, unnamed, (), _caption(record), splits.get(name, ""))
        except NoRecords as error:
            report.drop("no list of records", str(error))


def read_clotho_aqa(source: Path, report: Report) -> Iterator[Row]:
    """Clotho-AQA: `clotho_aqa_train.csv` and the like (file_name, QuestionText, answer; a line for each of three people), and
    the sounds. A row a question, with the answer that most gave; of several, the first.
    """
    index, read = _Index(source, "audio", report), 0
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
    clips, sounds = _Index(source, "video", report), _Index(source, "audio", report)
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
