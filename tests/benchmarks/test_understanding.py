"""Benchmarks: the published file formats, predictions of a real run, and scores that drop nothing."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_run

from anytoany_lib import cli
from anytoany_lib.benchmarks import generation, understanding
from anytoany_lib.benchmarks.annotations import read_items
from anytoany_lib.benchmarks.caption_metrics import caption_scores
from anytoany_lib.benchmarks.understanding import matched, mend, read_predictions, score
from anytoany_lib.benchmarks.vqa import vqa_accuracy
from anytoany_lib.data.rows import DataError
from anytoany_lib.generation.decoding import Draft
from anytoany_lib.media import media_files
from anytoany_lib.toyworld import draw

COCO = {
    "info": {"year": 2014},
    "images": [
        {"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "height": 360},
        {"id": 522418, "file_name": "COCO_val2014_000000522418.jpg", "height": 480},
    ],
    "annotations": [
        {"image_id": 391895, "id": 770337, "caption": "A man with a red helmet."},
        {"image_id": 522418, "id": 681330, "caption": "A woman cuts a cake."},
        {"image_id": 391895, "id": 771687, "caption": "Man riding a motor bike."},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "cocoid": 391895,
         "split": "test", "imgid": 0, "sentids": [1], "sentences": [
             {"tokens": ["a", "man"], "raw": "A man with a red helmet.", "imgid": 0, "sentid": 1}]},
        {"filename": "1000092795.jpg", "split": "train", "imgid": 1, "sentids": [2],
         "sentences": [{"tokens": [], "raw": "Two men.", "imgid": 1, "sentid": 2}]},
        {"filename": "1007129816.jpg", "split": "test", "imgid": 2, "sentids": [3, 4],
         "sentences": [{"raw": "The man."}, {"raw": "A man wears a hat."}]},
    ],
}  # fmt: skip
MSRVTT = {
    "info": {"version": "1.0"},
    "videos": [
        {"video_id": "video0", "split": "train", "category": 9, "url": "x", "id": 0},
        {"video_id": "video7010", "split": "test", "category": 3, "url": "x", "id": 7010},
    ],
    "sentences": [
        {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
        {"caption": "a girl sings", "video_id": "video7010", "sen_id": 1},
        {"caption": "someone is singing", "video_id": "video7010", "sen_id": 2},
    ],
}
QUESTIONS = {
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 262148, "question": "How many people?", "question_id": 262148001},
    ],
}
ANSWERS = {
    "annotations": [
        {"question_id": number, "image_id": 262148, "question_type": "where", "answer_type": kind,
         "multiple_choice_answer": best, "answers": [
             {"answer": best, "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]}
        for number, kind, best in ((262148001, "number", "2"), (262148000, "other", "down"))
    ]
}  # fmt: skip
AUDIOCAPS = """audiocap_id,youtube_id,start_time,caption
103549,7fmOlUlwoNg,20,Constant rattling noise and sharp vibrations
103548,6BJ455B1aAs,0,"A rocket flies by, followed by an explosion"
107201,7fmOlUlwoNg,20,Vibrations and rattling
"""
CLOTHO = """file_name,caption_1,caption_2,caption_3,caption_4,caption_5
Santa Motor.wav,"A machine whines, and squeals",b,c,d,e
"""
TOKENS = (
    "1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo men .\n10002456.jpg#0\tMen work .\n"
)


def _file(folder: Path, name: str, content: str | dict) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _seen(items: list) -> list[tuple]:
    return [(item.id, item.kind, item.names[0], item.references) for item in items]


def test_coco_and_karpathys_split(tmp_path: Path):
    name = "COCO_val2014_000000391895.jpg"
    told = ["A man with a red helmet.", "Man riding a motor bike."]
    items = read_items("coco", _file(tmp_path, "captions_val2014.json", COCO))
    assert _seen(items)[0] == ("391895", "image", name, told)
    assert len(items) == 2
    path = _file(tmp_path, "dataset_coco.json", KARPATHY)
    coco, flickr = read_items("coco-karpathy", path)
    assert _seen([coco]) == [("391895", "image", name, told[:1])]
    assert coco.names[1] == f"val2014/{name}"
    assert _seen([flickr]) == [
        ("1007129816", "image", "1007129816.jpg", ["The man.", "A man wears a hat."])
    ]
    assert [item.id for item in read_items("flickr30k", path, split="train")] == ["1000092795"]


def test_flickr_tokens(tmp_path: Path):
    path = _file(tmp_path, "results_20130124.token", TOKENS)
    assert _seen(read_items("flickr30k-token", path)) == [
        ("1000092795", "image", "1000092795.jpg", ["Two young guys .", "Two men ."]),
        ("10002456", "image", "10002456.jpg", ["Men work ."]),
    ]
    with pytest.raises(DataError, match="line 2: expected name.jpg#number"):
        read_items("flickr30k-token", _file(tmp_path, "bad.token", "a.jpg#0\tx\na.jpg y\n"))


def test_sounds(tmp_path: Path):
    first, second = read_items("audiocaps", _file(tmp_path, "test.csv", AUDIOCAPS))
    assert first.references == [
        "Constant rattling noise and sharp vibrations",
        "Vibrations and rattling",
    ]
    assert second.references == ["A rocket flies by, followed by an explosion"]
    assert {"7fmOlUlwoNg.wav", "Y7fmOlUlwoNg.wav", "7fmOlUlwoNg_20.flac", "107201.mp3"} < set(
        first.names
    )
    assert _seen(read_items("clotho", _file(tmp_path, "clotho.csv", CLOTHO))) == [
        (
            "Santa Motor.wav",
            "audio",
            "Santa Motor.wav",
            ["A machine whines, and squeals", "b", "c", "d", "e"],
        )
    ]


def test_clips(tmp_path: Path):
    path = _file(tmp_path, "videodatainfo.json", MSRVTT)
    told = ["a girl sings", "someone is singing"]
    assert _seen(read_items("msrvtt", path)) == [("video7010", "video", "video7010.mp4", told)]


def test_questions(tmp_path: Path):
    annotations, questions = (
        _file(tmp_path, "a.json", ANSWERS),
        _file(tmp_path, "q.json", QUESTIONS),
    )
    where, count = read_items("vqav2", annotations, questions=questions)
    assert (where.id, where.question, where.answer_type) == (
        "262148000",
        "Where is he looking?",
        "other",
    )
    assert where.references == ["down"] * 10 and count.references == ["2"] * 10
    assert where.names == ("COCO_val2014_000000262148.jpg", "000000262148.jpg")
    with pytest.raises(DataError, match="needs its questions file"):
        read_items("vqav2", annotations)
    more = QUESTIONS["questions"] + [{"image_id": 1, "question": "?", "question_id": 9}]
    with pytest.raises(DataError, match="no answers to question 9"):
        read_items(
            "vqav2",
            annotations,
            questions=_file(tmp_path, "m.json", QUESTIONS | {"questions": more}),
        )


def test_files_that_are_not_what_they_should_be(tmp_path: Path):
    coco = json.dumps(COCO)
    for content, message in (
        (coco[:-40], "cut, damaged or not JSON"),
        (json.dumps(MSRVTT), "not of the form of coco"),
        (json.dumps(COCO | {"annotations": COCO["annotations"][:1]}), "nobody described.*522418"),
        (json.dumps(COCO | {"images": COCO["images"] * 2}), "391895 is there twice"),
        (json.dumps(COCO | {"images": []}), "no items"),
        (coco.replace('"A woman cuts a cake."', "null"), "nobody described.*522418"),
    ):
        with pytest.raises(DataError, match=message):
            read_items("coco", _file(tmp_path, "captions.json", content))
    with pytest.raises(DataError, match="no items in split 'val'"):
        read_items("msrvtt", _file(tmp_path, "v.json", MSRVTT), split="val")
    with pytest.raises(DataError, match="no such file"):
        read_items("coco", tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="unknown benchmark 'imagenet'"):
        read_items("imagenet", tmp_path)
    with pytest.raises(DataError, match="not of the form of clotho"):
        read_items("clotho", _file(tmp_path, "c.csv", AUDIOCAPS))
    (tmp_path / "latin.csv").write_bytes(CLOTHO.replace("whines", "caf\xe9").encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text: .*; save it as UTF-8"):
        read_items("clotho", tmp_path / "latin.csv")
    with pytest.raises(DataError, match="behind line 1"):
        read_items("clotho", _file(tmp_path, "cut.csv", CLOTHO[: CLOTHO.index(", and")]))


@pytest.fixture
def coco(tmp_path: Path) -> list:
    """The two items of the COCO file."""
    return read_items("coco", _file(tmp_path, "captions.json", COCO))


def _lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_predictions_and_items_must_match(coco: list):
    said = {"391895": {"id": "391895", "text": "a man"}}
    with pytest.raises(DataError, match=r"1 of 2 items have no prediction: 522418.*as empty"):
        score(coco, said)
    assert matched(coco, said, missing_as_empty=True) == {"391895": "a man", "522418": ""}
    with pytest.raises(DataError, match="1 predictions for ids that are not there: 7"):
        score(coco, said | {"7": {"id": "7", "text": "x"}}, missing_as_empty=True)


def test_empty_and_failed_predictions_score_nothing_and_are_counted(coco: list):
    said = {"391895": {"text": "A man with a red helmet."}}
    failed = {"522418": {"text": "", "failed": "missing: no such file"}}
    result = score(coco, said | failed)
    assert (result["n"], result["empty"], result["failed"]) == (2, 1, 1)
    assert result["metrics"]["ROUGE-L"] == pytest.approx(0.5)
    by_hand = caption_scores(
        {"391895": "A man with a red helmet.", "522418": ""},
        {item.id: item.references for item in coco},
    )
    assert result["metrics"] == by_hand


def test_a_part_is_scored_by_the_rarity_of_the_whole(coco: list):
    said = {"391895": {"text": "A man with a red helmet."}}
    assert score(coco[:1], said)["metrics"]["CIDEr-D"] == 0
    assert score(coco[:1], said, coco)["metrics"]["CIDEr-D"] > 1


def test_damaged_predictions_are_named(tmp_path: Path):
    for content, message in (
        (_lines({"id": 1, "text": "a"}) + "{\n", "line 2: expected id and text"),
        (_lines({"id": 1, "caption": "a"}), "line 1: expected id and text"),
        (_lines({"id": 1, "text": None}), "line 1: the text is no text"),
        (
            _lines({"id": 1, "text": "a"}, {"id": "1", "text": "b"}),
            "line 2: 1 was predicted before",
        ),
    ):
        with pytest.raises(DataError, match=message):
            read_predictions(_file(tmp_path, "p.jsonl", content))


def test_a_line_cut_by_a_kill_is_taken_away(tmp_path: Path):
    path = _file(tmp_path, "p.jsonl", _lines({"id": 1, "text": "a"}) + '{"id": 2, "te')
    mend(path)
    mend(path)
    assert read_predictions(path) == {"1": {"id": 1, "text": "a"}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Toy-world pictures as a COCO folder and file: four to see, one damaged, one that is not there."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    things = [("bell", "red"), ("car", "blue"), ("boat", "green"), ("bird", "red")]
    for number, (thing, colour) in enumerate(things):
        media_files.save_image(folder / f"{number}.png", draw(thing, colour, rng))
    (folder / "4.png").write_text("no picture")
    told = [f"a {colour} {thing}" for thing, colour in things] + ["a cat", "a clock"]
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(6)],
        "annotations": [{"image_id": n, "id": n, "caption": text} for n, text in enumerate(told)],
    }
    return folder, _file(folder, "captions.json", content)


def _command(command: str, annotations: Path, predictions: Path, *more: str) -> int:
    common = ("--annotations", str(annotations), "--predictions", str(predictions))
    return cli.main(["benchmark", command, "--benchmark", "coco", *common, *more])


def test_a_run_describes_and_is_scored(
    pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder, annotations = pictures
    predictions = tmp_path / "out" / "p.jsonl"
    run = ("--run", str(small_run(tmp_path / "run")), "--media", str(folder), "--batch-size", "2")
    assert _command("predict", annotations, predictions, *run, "--limit", "3") == 0
    begun = predictions.read_text()
    assert begun.count("\n") == 3
    predictions.write_text(begun + '{"id": "3", "te')  # killed in the middle of a line
    assert _command("predict", annotations, predictions, *run) == 0
    assert "3 already there, 1 described, 2 failed" in capsys.readouterr().out
    assert predictions.read_text().startswith(begun)
    said = read_predictions(predictions)
    for number, word in enumerate(("bell", "car", "boat", "bird")):
        assert word in said[str(number)]["text"], said
    assert said["4"]["text"] == "" and said["4"]["failed"].startswith("unreadable")
    assert said["5"] == {"id": "5", "text": "", "failed": "missing: no such file"}
    out = tmp_path / "numbers.json"
    assert _command("score", annotations, predictions, "--out", str(out)) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert (result["n"], result["empty"], result["failed"]) == (6, 2, 2)
    assert result["metrics"]["ROUGE-L"] > 0.3 and "ROUGE-L" in printed
    assert json.loads(printed.splitlines()[-1]) == result
    assert _command("predict", annotations, predictions, *run, "--prompt", "What is it?") == 1
    assert "was begun with prompt: None" in capsys.readouterr().err


def test_a_folder_without_any_medium_is_refused(
    pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture, model
):
    items = read_items("coco", pictures[1])
    with pytest.raises(DataError, match=r"none of the 6 media is there, as 0\.png"):
        understanding.predict(model, items, tmp_path, tmp_path / "p.jsonl")
    _file(tmp_path, "p.jsonl", _lines({"id": "0", "text": "a bell"}))
    assert _command("score", pictures[1], tmp_path / "p.jsonl") == 1
    assert "error: 5 of 6 items have no prediction" in capsys.readouterr().err
    assert _command("score", pictures[1], tmp_path / "p.jsonl", "--missing-as-empty") == 0
    assert _command("score", pictures[1], tmp_path / "nowhere.jsonl") == 1
    assert _command("score", pictures[1], tmp_path / "p.jsonl", "--limit", "0") == 1


def test_a_question_is_asked_with_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    annotations, questions = (
        _file(tmp_path, "a.json", ANSWERS),
        _file(tmp_path, "q.json", QUESTIONS),
    )
    items = read_items("vqav2", annotations, questions=questions)
    media_files.save_image(
        tmp_path / "000000262148.jpg", draw("bell", "red", np.random.default_rng(0))
    )
    asked = []

    def replies(model, conversations, *_):
        asked.extend(conversations)
        return [Draft([{"type": "text", "text": " 2 "}]) for _ in conversations]

    monkeypatch.setattr(understanding, "draw_all", replies)
    predictions = tmp_path / "p.jsonl"
    understanding.predict(None, items, tmp_path, predictions)
    parts = asked[1][0]["content"]
    assert [part["type"] for part in parts] == ["image", "text"]
    assert parts[1]["text"] == f"How many people?\n{understanding.SHORT_ANSWER}"
    result = score(items, read_predictions(predictions))
    assert result["metrics"]["accuracy"] == vqa_accuracy("2", ["2"] * 10) / 2
    assert result["metrics"]["accuracy, number"] == 1


def test_the_commands_of_the_documentation_are_commands():
    document = (Path(__file__).parents[2] / "docs/REPRODUCE.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    commands = [
        shlex.split(line)
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("anytoany benchmark ")
    ]
    modules = {
        "predict": understanding,
        "score": understanding,
        "generate": generation,
        "compare": generation,
    }
    given = [modules[rest[0]]._parser().parse_args(rest) for _, _, *rest in commands]
    assert len(given) == 11 and {one.command for one in given} == {
        "predict",
        "score",
        "generate",
        "compare",
    }
    assert dict(next(one for one in given if one.command == "compare").option) == {
        "return_features": True
    }
