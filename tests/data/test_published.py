"""Datasets as they are published become rows by a reader and nothing else, and their reports add up."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from published_sets import film, picture, png, said, sound, table, write

from anytoany_lib.data.building import build
from anytoany_lib.data.manifests import read_manifest, splits_in
from anytoany_lib.data.rows import DataError, media_in
from anytoany_lib.media import media_files


def sharegpt4v(source: Path) -> None:
    picture(source / "coco/train2017/000000000009.jpg", 1)
    record = {"id": "000000000009", "image": "coco/train2017/000000000009.jpg"}
    gone = record | {"image": "sam/images/sa_1.jpg"}
    turns = {"conversations": said("What do you see happening in this image?\n<image>", "A tray.")}
    write(source / "sharegpt4v_instruct_gpt4-vision_cap100k.json", [record | turns, gone | turns])


def llava_mix(source: Path) -> None:
    picture(source / "coco/train2017/000000033471.jpg", 1)
    shown = {"id": "000000033471", "image": "coco/train2017/000000033471.jpg"}
    shown |= {"conversations": said("<image>\nWhat are the colors?", "White.", "And?", "Red.")}
    spoken = said("Sure, more.", "Use the <video> tag", "It is <video src=x>.")[1:]
    first = {"from": "gpt", "value": "Here is more."}
    turns = [
        first,
        {"from": "human", "value": spoken[0]["value"]},
        {"from": "gpt", "value": "<video>"},
    ]
    text = {
        "id": "wgByO4Y_0",
        "model": "",
        "conversations": [*turns[:2], {"from": "gpt", "value": "It is <video>."}],
    }
    write(source / "llava_v1_5_mix665k.json", [shown, text])


def llava_video(source: Path) -> None:
    film(source / "0_30_s_academic_v0_1/academic_source/Charades/1.mp4")
    record = {
        "id": "1",
        "data_source": "0_30_s_academic_v0_1",
        "video": "academic_source/Charades/1.mp4",
    }
    record |= {"conversations": said("<image>\nPlease describe the video.", "It grows lighter.")}
    write(source / "0_30_s_academic_v0_1/0_30_s_academic_v0_1_cap_processed.json", [record])


def videochat2(source: Path) -> None:
    film(source / "videos/a.mp4")
    picture(source / "images/coco/1.jpg", 1)
    qa = {"QA": [{"i": "Watch.", "q": "What happens?", "a": "It grows lighter."}]}
    records = [{"video": "a.mp4"} | qa, {"video": "a.mp4", "start": 0.5, "end": 1.5} | qa]
    write(source / "video/vqa/tvqa/train.json", records)
    image = [{"image": "coco/1.jpg", "QA": [{"i": "", "q": "What is it?", "a": "A bus."}]}]
    write(source / "image/vqa/vqav2/train.json", image)


def coco(source: Path) -> None:
    pictures = []
    for number, split in enumerate(("train2017", "train2017", "val2017")):
        picture(source / f"{split}/{number:012}.jpg", number)
        pictures.append({"id": number, "file_name": f"{number:012}.jpg", "license": 1})
    for split, some in (("train2017", pictures[:2]), ("val2017", pictures[2:])):
        told = [
            {"id": 9 * p["id"] + n, "image_id": p["id"], "caption": f"{n} {p['id']}"}
            for p in some
            for n in range(2)
        ]
        told.append({"id": 99, "image_id": 77, "caption": "of nothing"})
        whole = {
            "info": {"year": 2017},
            "licenses": [{"id": 1}],
            "images": some,
            "annotations": told,
        }
        write(source / f"annotations/captions_{split}.json", whole)
    write(source / "annotations/instances_train2017.json", {"images": pictures, "categories": []})


def clotho(source: Path) -> None:
    for folder in ("development", "evaluation"):
        rows = []
        for number in range(2):
            name = f"Rain {number}.wav"
            sound(source / folder / name, number + 10 * len(folder))
            rows.append(
                {"file_name": name}
                | {f"caption_{n}": f"rain {folder} {number} {n}" for n in range(1, 6)}
            )
        table(source / f"clotho_captions_{folder}.csv", *rows)
    table(
        source / "clotho_metadata_development.csv", {"file_name": "Rain 0.wav", "keywords": "rain"}
    )


def audiocaps(source: Path) -> None:
    sound(source / "train/r1nicOVtvkQ_130.wav", 1)
    sound(source / "train/Yab-_.flac", 2)
    sound(source / "val/91141.wav", 3)
    columns = ("audiocap_id", "youtube_id", "start_time", "caption")
    told = [
        (91139, "r1nicOVtvkQ", 130, "A woman talks"),
        (91140, "ab-_", 0, "Rain"),
        (5, "gone", 30, "Nothing"),
    ]
    table(source / "dataset/train.csv", *(dict(zip(columns, row, strict=True)) for row in told))
    table(source / "dataset/val.csv", dict(zip(columns, (91141, "zzz", 20, "A dog"), strict=True)))


def wavcaps(source: Path) -> None:
    sound(source / "FreeSound/12.flac", 1)
    sound(source / "SoundBible/12.flac", 2)
    sound(source / "AudioSet_SL/Yb0RFKhbpFJA.flac", 3)
    for name, one in {
        "FreeSound/fsd_final": {"id": "12", "caption": "Free."},
        "SoundBible/sb_final": {"id": "12", "caption": "Bible.", "href": "x"},
        "AudioSet_SL/as_final": {"id": "Yb0RFKhbpFJA.wav", "caption": "Set.", "duration": 10.0},
    }.items():
        write(source / f"json_files/{name}.json", {"num_captions_per_audio": 1, "data": [one]})


def parquet(source: Path) -> None:
    picture(source / "pictures/beside.png", 9)
    noise = io.BytesIO()
    soundfile.write(noise, np.random.default_rng(5).uniform(-0.5, 0.5, 4000), 8000, format="WAV")
    rows = [
        {
            "image": {"bytes": png(1), "path": None},
            "caption": ["a bell", "a red bell"],
            "filename": "77.jpg",
        },
        {
            "image": {"bytes": None, "path": "pictures/beside.png"},
            "caption": ["beside"],
            "filename": "78.jpg",
        },
        {"image": None, "caption": ["nothing"], "filename": None},
    ]
    (source / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), source / "data/train-00000-of-00001.parquet")
    heard = [{"audio": {"bytes": noise.getvalue(), "path": "x.wav"}, "text": "a hiss"}]
    pq.write_table(pa.Table.from_pylist(heard), source / "data/test-00000-of-00001.parquet")
    talks = [{"images": [{"bytes": png(3), "path": "a.png"}, {"bytes": png(4), "path": "b.png"}],
              "messages": [{"role": "user", "content": "<image>or<image>?"}, {"role": "assistant", "content": "The first."}]}]  # fmt: skip
    with pa.OSFile(str(source / "data-00000-of-00001.arrow"), "wb") as file:
        made = pa.Table.from_pylist(talks)
        with pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made)


def msrvtt(source: Path) -> None:
    splits = ("train", "validate", "test")
    for number in range(3):
        film(source / f"TrainValVideo/video{number}.mp4", frames=6 + number)
    clips = [{"video_id": f"video{n}", "split": split} for n, split in enumerate(splits)]
    told = [
        {"sen_id": 2 * n + m, "video_id": f"video{n}", "caption": f"it grows lighter, {m}"}
        for n in (0, 1, 2, 7)
        for m in range(2)
    ]
    write(source / "train_val_videodatainfo.json", {"videos": clips, "sentences": told})


def clotho_aqa(source: Path) -> None:
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        rows = []
        for number in range(count):
            name = f"{split} {number}.wav"
            sound(source / "audio_files" / name, number + 10 * len(split))
            for question, answers in (("Is it loud?", "yes no yes"), ("What is it?", "Rain x y")):
                rows += [
                    {"file_name": name, "QuestionText": question, "answer": a, "confidence": "yes"}
                    for a in answers.split()
                ]
        rows.append(rows[-1] | {"file_name": "gone.wav"})
        table(source / f"clotho_aqa_{split}.csv", *rows)
    metadata = "file_name,keywords\ntrain 0.wav,caf\u00e9\n"
    (source / "clotho_aqa_metadata.csv").write_text(metadata, encoding="latin-1")


def music_avqa(source: Path) -> None:
    records = []
    for number, (asked, values) in enumerate(
        (("How many <Object> are there?", '["ukulele"]'), ("Is it <LR> of <Object>?", '["left"]'))
    ):
        film(source / f"videos/{number:08}.mp4", frames=6 + number)
        records.append({"video_id": f"{number:08}", "question_id": number, "type": '["Visual"]'})
        records[-1] |= {"question_content": asked, "templ_values": values, "anser": "one"}
    sound(source / "audio/00000000.wav", 1)
    records.append(records[0] | {"video_id": "00000001", "question_content": "Is it so?"})
    records[-1] |= {"templ_values": "[]", "anser": "no"}
    write(source / "avqa-train.json", records[:2])
    write(source / "avqa-test.json", records[2:])


# The reader, what makes a source in its published form, and what becomes of it: rows by kinds of their media, drops, splits.
SETS = {
    "ShareGPT4V": ("instructions", sharegpt4v, {"image": 1}, {"missing": 1}),
    "LLaVA mix": ("instructions", llava_mix, {"image": 1, "": 1}, {}),
    "LLaVA-Video": ("instructions", llava_video, {"video": 1}, {}),
    "VideoChat2-IT": ("instructions", videochat2, {"video": 2, "image": 1}, {}),
    "COCO": ("coco", coco, {"image": 6}, {"image_id names no picture": 2}),
    "Clotho": ("clotho", clotho, {"audio": 20}, {}),
    "AudioCaps": ("audiocaps", audiocaps, {"audio": 3}, {"missing": 1}),
    "WavCaps": ("wavcaps", wavcaps, {"audio": 3}, {}),
    "MSR-VTT": ("msrvtt", msrvtt, {"video": 6}, {"video_id names no clip": 2}),
    "Clotho-AQA": ("clotho-aqa", clotho_aqa, {"audio": 8}, {"missing": 3}),
    "MUSIC-AVQA": (
        "music-avqa",
        music_avqa,
        {"video audio": 1, "video": 1},
        {"no clip, question or answer": 1},
    ),
    "Hugging Face": (
        "parquet",
        parquet,
        {"image": 3, "audio": 1, "image image": 1},
        {"no medium": 1},
    ),
}


def rows_of(out: Path) -> list:
    return [row for split in splits_in(out) for row in read_manifest(out, split)]


def adds_up(out: Path, source: Path) -> dict:
    """The report of a build, whose counts add up: of its rows, and of the files that are there."""
    found = json.loads((out / "report.json").read_text())
    assert found["read"] == found["kept"] + sum(found["dropped"].values())
    assert found["kept"] == len(rows_of(out)) == sum(found["rows"]["source"].values())
    files = found["files"]
    assert files["seen"] == files["used"] + files["dropped"] + sum(files["not looked at"].values())
    assert files["seen"] >= sum(path.is_file() for path in source.rglob("*"))
    return found


@pytest.mark.parametrize("name", SETS)
def test_published_sets_are_read_as_they_are(tmp_path: Path, name: str):
    reader, make, kinds, dropped = SETS[name]
    make_source = tmp_path / "source"
    make_source.mkdir()
    make(make_source)
    build(reader, make_source, tmp_path / "out", validation_fraction=0, test_fraction=0)
    report = adds_up(tmp_path / "out", make_source)
    rows = rows_of(tmp_path / "out")
    assert Counter(" ".join(k for k, _ in media_in(row.messages)) for row in rows) == kinds
    assert report["dropped"] == dropped
    for row in rows:
        for _, path in media_in(row.messages):
            assert (tmp_path / "out" / path).is_file()


def built(tmp_path: Path, reader: str, make: Any) -> dict[str, list]:
    (tmp_path / "source").mkdir(exist_ok=True)
    make(tmp_path / "source")
    build(reader, tmp_path / "source", tmp_path / "out", overwrite=True)
    return {
        split: list(read_manifest(tmp_path / "out", split)) for split in splits_in(tmp_path / "out")
    }


def test_splits_that_a_set_states_are_its_splits(tmp_path: Path):
    rows = built(tmp_path, "clotho", clotho)
    # None is called validation: it is drawn from those to train with, whose media are two.
    assert {split: len(some) for split, some in rows.items()} == {
        "train": 5,
        "validation": 5,
        "test": 10,
    }
    assert all("evaluation" in row.meta["caption"] for row in rows["test"])
    rows = built(tmp_path / "b" if (tmp_path / "b").mkdir() is None else tmp_path, "coco", coco)
    assert {row.meta["caption"] for row in rows["validation"]} == {"0 2", "1 2"}


def test_captions_are_those_of_the_medium(tmp_path: Path):
    """WavCaps has two sounds of one number: the folder tells them apart."""
    rows = [row for some in built(tmp_path, "wavcaps", wavcaps).values() for row in some]
    told = {media_in(row.messages)[0][1]: row.meta["caption"] for row in rows}
    assert told == {
        "media/FreeSound/12.flac": "Free.",
        "media/SoundBible/12.flac": "Bible.",
        "media/AudioSet_SL/Yb0RFKhbpFJA.flac": "Set.",
    }


def test_a_segment_is_cut_out_of_its_film(tmp_path: Path):
    film(tmp_path / "source/a.mp4", frames=12, rate=2)  # six seconds
    sound(tmp_path / "source/a.wav", 1, seconds=3)
    turns = {"conversations": said("What happens?", "It grows lighter.")}
    segments = [
        {"video": "a.mp4", "start": 2, "end": 4},
        {"audio": "a.wav", "start": 1, "end": 1.5},
    ]
    late = {"video": "a.mp4", "start": 60, "end": 64}
    records = [one | turns for one in (*segments, segments[0], late, {"video": "a.mp4"})]
    write(tmp_path / "source/film.json", records)
    report = build(
        "instructions",
        tmp_path / "source",
        tmp_path / "out",
        validation_fraction=0,
        test_fraction=0,
    )
    adds_up(tmp_path / "out", tmp_path / "source")
    assert report.dropped == {"duplicate": 1, "empty": 1} and report.kept_rows == 3
    shown = {
        path: kind for row in rows_of(tmp_path / "out") for kind, path in media_in(row.messages)
    }
    cut = next(path for path in shown if path.startswith("media/a_2-4_"))
    frames, _ = media_files.load_video(tmp_path / "out" / cut)
    assert [round(float(frame.mean()) / 20) for frame in frames] == [4, 5, 6, 7]
    samples, rate = media_files.load_audio(
        tmp_path / "out" / next(p for p in shown if p.endswith(".wav"))
    )
    whole, _ = media_files.load_audio(tmp_path / "source/a.wav")
    assert np.allclose(samples, whole[rate : rate + rate // 2], atol=1e-3)
    assert "media/a.mp4" in shown


def test_a_damaged_table_of_parquet_is_named(tmp_path: Path):
    (tmp_path / "source").mkdir()
    parquet(tmp_path / "source")
    broken = tmp_path / "source/data/train-00000-of-00001.parquet"
    whole = broken.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = np.frombuffer(whole, np.uint8).copy()
        at = rng.integers(len(damaged) // 2, len(damaged), 12)
        damaged[at] = rng.integers(0, 255, 12)
        broken.write_bytes(damaged.tobytes())
        try:
            build("parquet", tmp_path / "source", tmp_path / "out", overwrite=True)
        except DataError as error:
            assert broken.name in str(error)


def test_numbers_that_no_float_holds_are_no_times(tmp_path: Path):
    film(tmp_path / "source/a.mp4")
    turns = json.dumps(said("What?", "Light."))
    lines = [f'{{"video": "a.mp4", "start": {start}, "end": {end}, "conversations": {turns}}}'
             for start, end in ((0, "1e400"), ("NaN", 3), (0, 1))]  # fmt: skip
    (tmp_path / "source/a.jsonl").write_text("\n".join(lines))
    report = build("instructions", tmp_path / "source", tmp_path / "out")
    assert report.kept_rows == 1 and math.isinf(float("1e400"))
    assert report.dropped == {"end: no time in seconds": 1, "start: no time in seconds": 1}


def test_reports_of_nextgpts_own_files_add_up(tmp_path: Path):
    source = tmp_path / "source"
    for number in range(3):
        picture(source / f"cc3m/images/{number}.png", number)
        sound(source / f"audiocap/audios/{number}.wav", number)
    told = [{"image_name": f"{n}.png", "caption": ("a bell", "", "a car")[n]} for n in range(3)]
    write(source / "cc3m/cc3m.json", [*told, {"image_name": "gone.png", "caption": "a lake"}, 7])
    heard = [{"audio_name": f"{n}.wav", "caption": "a ring"} for n in range(2)]
    write(source / "audiocap/audiocap.json", heard)
    (source / "audiocap/audios/notes.md").write_text("?")
    for reader, folder in (("nextgpt", source), ("cc3m", source / "cc3m")):
        build(reader, folder, tmp_path / reader)
        report = adds_up(tmp_path / reader, folder)
        dropped = {"caption empty": 1, "image_name missing": 1, "missing": 1}
        assert report["dropped"] == dropped
    assert report["files"] == {"seen": 4, "used": 3, "dropped": 1, "not looked at": {}}
    found = json.loads((tmp_path / "nextgpt/report.json").read_text())["files"]
    assert found["not looked at"] == {".wav": 1, ".md": 1} and found["used"] == 6


def test_questions_are_asked_with_the_answer_that_most_gave(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    clotho_aqa(source)
    build("clotho-aqa", source, tmp_path / "out")
    texts = {
        (
            row.messages[0]["content"][1]["text"].split("\n")[0],
            row.messages[1]["content"][0]["text"],
        )
        for row in rows_of(tmp_path / "out")
    }
    assert texts == {("Is it loud?", "yes"), ("What is it?", "rain")}
    assert {s: len(read_manifest(tmp_path / "out", s)) for s in splits_in(tmp_path / "out")} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }


def test_blanks_of_a_question_are_filled(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    music_avqa(source)
    build("music-avqa", source, tmp_path / "out", validation_fraction=0, test_fraction=0)
    (row,) = read_manifest(tmp_path / "out", "train")
    asked = row.messages[0]["content"][2]["text"].split("\n")[0]
    assert (
        asked == "How many ukulele are there?" and len(read_manifest(tmp_path / "out", "test")) == 1
    )
