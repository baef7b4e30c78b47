"""Benchmarks in the files they are published in: COCO captions, Flickr30k, AudioCaps, Clotho, MSR-VTT and VQAv2.

`read_items` gives one `Item` a medium (VQAv2: a question) with what people said of it. Nothing is dropped: a test set with
a hole gives other numbers, so a file that is cut or of another form is a DataError that says where.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytoany_lib.data.formats.folders import records_of_csv
from anytoany_lib.data.rows import DataError


@dataclass(frozen=True)
class Item:
    """One medium to describe, or one question about it.

    `names` are the file names it may have in a folder of media, the published one first; `references` the captions or, with
    a `question`, the answers that people gave; `answer_type` VQAv2's ("yes/no", "number", "other").
    """

    id: str
    kind: str
    names: tuple[str, ...]
    references: list[str]
    question: str = ""
    answer_type: str = ""


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is read: `read(annotations, split, questions)`; `split` is the published test split, "" if files are.

    One without `questions` of its own is given its annotations in their place.
    """

    read: Callable[[Path, str, Path], Iterator[Item]]
    split: str = ""
    questions: bool = False


def _json(path: Path) -> Any:
    """The content of a JSON file. DataError where it is cut or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: cut, damaged or not JSON: {error}; get the file again") from error


def read_coco(path: Path, split: str, questions: Path) -> Iterator[Item]:
    """COCO's `captions_val2014.json` and the like: `images` (id, file_name), `annotations` (image_id, caption)."""
    content = _json(path)
    told: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        told.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in content["images"]:
        captions = told.get(image["id"], [])
        yield Item(str(image["id"]), "image", (image["file_name"],), captions)


def read_karpathy(path: Path, split: str, questions: Path) -> Iterator[Item]:
    """Karpathy's `dataset_coco.json`, `dataset_flickr30k.json`: `images` with filename, split and sentences (raw).

    Ids are COCO's own, else the file names without their suffix. `restval` is what COCO adds to its train split.
    """
    for image in _json(path)["images"]:
        if image["split"] == split:
            name = image["filename"]
            own = str(image.get("cocoid", Path(name).stem))
            names = (name, f"{image['filepath']}/{name}") if "filepath" in image else (name,)
            yield Item(own, "image", names, [one["raw"] for one in image["sentences"]])


def read_tokens(path: Path, split: str, questions: Path) -> Iterator[Item]:
    """Flickr30k's `results_20130124.token`: lines of `name.jpg#number`, a tab and the caption; the file has no splits."""
    told: dict[str, list[str]] = {}
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(filter(str.strip, lines), 1):
            name, tab, caption = line.rstrip("\n").partition("\t")
            if not tab or "#" not in name:
                expected = "expected name.jpg#number, a tab, a caption"
                raise DataError(f"{path}, line {number}: {expected}")
            told.setdefault(name.rpartition("#")[0], []).append(caption)
    for name, captions in told.items():
        yield Item(Path(name).stem, "image", (name,), captions)


def read_audiocaps(path: Path, split: str, questions: Path) -> Iterator[Item]:
    """AudioCaps' `test.csv` and the like: audiocap_id, youtube_id, start_time, caption; five rows a sound in val and test.

    The sounds are named by who downloads them: by the clip's id, also with a Y before it or the start behind.
    """
    told: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for row in records_of_csv(path):
        clip = row["youtube_id"]
        told.setdefault(clip, []).append(row["caption"])
        stems = names.setdefault(clip, [clip, f"Y{clip}", f"{clip}_{row['start_time']}"])
        stems.append(row["audiocap_id"])
    for clip, captions in told.items():
        files = tuple(f"{stem}{end}" for stem in names[clip] for end in (".wav", ".flac", ".mp3"))
        yield Item(clip, "audio", files, captions)


def read_clotho(path: Path, split: str, questions: Path) -> Iterator[Item]:
    """Clotho's `clotho_captions_evaluation.csv`: file_name, caption_1 to caption_5."""
    for row in records_of_csv(path):
        name = row["file_name"]
        yield Item(name, "audio", (name,), [row[f"caption_{number}"] for number in range(1, 6)])


def read_msrvtt(path: Path, split: str, questions: Path) -> Iterator[Item]:
    """MSR-VTT's `videodatainfo.json`: `videos` (video_id, split: train, validate, test), `sentences` (video_id, caption)."""
    content = _json(path)
    told: dict[str, list[str]] = {}
    for sentence in content["sentences"]:
        told.setdefault(sentence["video_id"], []).append(sentence["caption"])
    for video in content["videos"]:
        if video["split"] == split:
            name = video["video_id"]
            yield Item(name, "video", (f"{name}.mp4",), told.get(name, []))


def read_vqa(path: Path, split: str, questions: Path) -> Iterator[Item]:
    """VQAv2: annotations (question_id, answer_type, ten answers) and the questions file (question_id, image_id, question)."""
    asked = _json(questions)
    told = {record["question_id"]: record for record in _json(path)["annotations"]}
    for record in asked["questions"]:
        own = told.get(record["question_id"])
        name = str(record["question_id"])
        if own is None:
            raise DataError(f"{path}: no answers to question {name} of {questions}")
        picture = f"{record['image_id']:012d}.jpg"
        names = (f"COCO_{asked['data_subtype']}_{picture}", picture)
        answers = [answer["answer"] for answer in own["answers"]]
        yield Item(name, "image", names, answers, record["question"], own["answer_type"])


BENCHMARKS = {
    "coco": Benchmark(read_coco),
    "coco-karpathy": Benchmark(read_karpathy, "test"),
    "flickr30k": Benchmark(read_karpathy, "test"),
    "flickr30k-token": Benchmark(read_tokens),
    "audiocaps": Benchmark(read_audiocaps),
    "clotho": Benchmark(read_clotho),
    "msrvtt": Benchmark(read_msrvtt, "test"),
    "vqav2": Benchmark(read_vqa, questions=True),
}


def read_items(
    name: str,
    annotations: str | Path,
    split: str | None = None,
    questions: str | Path | None = None,
) -> list[Item]:
    """The items of a benchmark's split (the published test split if none is named), in the order of its file.

    DataError for an unknown benchmark, a file that is absent, cut or of another form, a split without items, an item that
    nobody described, and for ids that occur twice.
    """
    if name not in BENCHMARKS:
        raise DataError(f"unknown benchmark {name!r}: expected one of {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    if benchmark.questions and questions is None:
        raise DataError(f"{name} needs its questions file as well (--questions)")
    files = [Path(annotations)]
    if benchmark.questions and questions:
        files.append(Path(questions))
    for file in files:
        if not file.is_file():
            advice = f"docs/REPRODUCE.md says where {name} is to be had"
            raise DataError(f"{file}: no such file; {advice}")
    split = benchmark.split if split is None else split
    try:
        items = list(benchmark.read(files[0], split, files[-1]))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        form = (benchmark.read.__doc__ or "").partition("\n")[0]
        raise DataError(f"{annotations}: not of the form of {name} ({error!r}). {form}") from error
    _check(items, annotations, split)
    return items


def _check(items: list[Item], annotations: str | Path, split: str) -> None:
    """DataError if there are no items, one has no references, or two have one id."""
    if not items:
        raise DataError(f"{annotations}: no items" + (f" in split {split!r}" if split else ""))
    seen: set[str] = set()
    for item in items:
        if not item.references or not all(isinstance(text, str) for text in item.references):
            raise DataError(f"{annotations}: nobody described or answered {item.id}")
        if item.id in seen:
            raise DataError(f"{annotations}: {item.id} is there twice")
        seen.add(item.id)
