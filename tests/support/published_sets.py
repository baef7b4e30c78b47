"""Small data sets in the forms they are published in: media, JSON and CSV files, and a folder for each set of the recipe."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from anytoany_lib.media import media_files


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (20, 20, 3), np.uint8)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)


def sound(path: Path, seed: int, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, int(8000 * seconds))
    soundfile.write(path, noise, 8000)


def film(path: Path, frames: int = 8, rate: float = 4) -> None:
    """A clip whose frame n has the grey n * 20."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shades = np.arange(frames, dtype=np.uint8) * 20
    media_files.save_video(path, np.tile(shades[:, None, None, None], (1, 32, 32, 3)), rate)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def table(path: Path, *rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def png(seed: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels(seed)).save(held, "PNG")
    return held.getvalue()


def jpg(seed: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels(seed)).save(held, "JPEG")
    return held.getvalue()


def said(*turns: str) -> list[dict]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]


# --- the sets of the recipe, eight media each ---

_MEDIA = 8


def cc3m(source: Path) -> None:
    """A shard as img2dataset writes it."""
    source.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source / "cc3m-train-0000.tar", "w") as shard:
        for number in range(_MEDIA):
            for ending, content in (("jpg", jpg(number)), ("txt", f"a bell, {number}".encode())):
                member = tarfile.TarInfo(f"{number:09}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def coco(source: Path) -> None:
    images = []
    for number in range(_MEDIA):
        name = f"{100_000 + number:012}.jpg"
        picture(source / "train2017" / name, 100 + number)
        images.append({"id": number, "file_name": name})
    told = [{"id": n, "image_id": n // 2, "caption": f"a car, {n}"} for n in range(2 * _MEDIA)]
    write(source / "annotations/captions_train2017.json", {"images": images, "annotations": told})


def wavcaps(source: Path) -> None:
    data = []
    for number in range(_MEDIA):
        sound(source / f"AudioSet_SL/Y{number}.flac", number)
        data.append({"id": f"Y{number}.wav", "caption": f"A bell rings, {number}."})
    write(source / "json_files/AudioSet_SL/as_final.json", {"data": data})


def clotho(source: Path) -> None:
    rows = []
    for number in range(_MEDIA):
        name = f"Rain {number}.wav"
        sound(source / "development" / name, 20 + number)
        rows.append(
            {"file_name": name} | {f"caption_{n}": f"rain {number} {n}" for n in range(1, 6)}
        )
    table(source / "clotho_captions_development.csv", *rows)


def msrvtt(source: Path) -> None:
    for number in range(_MEDIA):
        film(source / f"TrainValVideo/video{number}.mp4", frames=6 + number)
    clips = [{"video_id": f"video{n}", "split": "train"} for n in range(_MEDIA - 2)]
    clips += [{"video_id": f"video{_MEDIA - 2}", "split": "validate"}]
    clips += [{"video_id": f"video{_MEDIA - 1}", "split": "test"}]
    told = [{"video_id": f"video{n}", "caption": f"it grows lighter, {n}"} for n in range(_MEDIA)]
    write(source / "train_val_videodatainfo.json", {"videos": clips, "sentences": told})


def llava_instruct(source: Path) -> None:
    records = []
    for number in range(_MEDIA):
        name = f"{100_000 + number:012}.jpg"
        picture(source / "images" / name, 100 + number)
        turns = said("What is this?\n<image>", f"A car, number {number}.")
        records.append({"id": name[:-4], "image": name, "conversations": turns})
    write(source / "llava_instruct_150k.json", records)


def llava_video(source: Path) -> None:
    records = []
    for number in range(_MEDIA):
        name = f"academic_source/Charades/{number}.mp4"
        film(source / name, frames=20 + number)
        turns = said("<image>\nPlease describe the video.", f"It grows lighter, {number}.")
        records.append({"id": str(number), "video": name, "conversations": turns})
    for number, part in enumerate(("v0_1_cap", "mc_v0_1_qa", "oe_v0_1_qa")):
        write(source / f"0_30_s_academic_{part}_processed.json", records[number::3])


def clotho_aqa(source: Path) -> None:
    for split, count in (("train", _MEDIA), ("val", 2), ("test", 2)):
        rows = []
        for number in range(count):
            # A test sound is one of the captioned ones.
            name = f"Rain {number}.wav" if split == "test" else f"{split} {number}.wav"
            sound(source / "audio_files" / name, number + 10 * len(split))
            for answer in ("yes", "no", "yes"):
                asked = {"file_name": name, "QuestionText": "Is it loud?", "answer": answer}
                rows.append(asked | {"confidence": "yes"})
        table(source / f"clotho_aqa_{split}.csv", *rows)


def music_avqa(source: Path) -> None:
    for split, begin, count in (("train", 0, _MEDIA), ("val", 50, 2), ("test", 60, 2)):
        records = []
        for number in range(begin, begin + count):
            film(source / f"videos/{number:08}.mp4", frames=40 + number)
            sound(source / f"videos/{number:08}.wav", 200 + number)
            records.append({"video_id": f"{number:08}", "question_id": number, "anser": "one"})
            records[-1] |= {"question_content": "How many <Object> are there?"}
            records[-1] |= {"templ_values": '["ukulele"]', "type": '["Visual", "Counting"]'}
        write(source / f"avqa-{split}.json", records)


def talk(source: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} and {n}?"},
                {"role": "assistant", "content": f"It is {2 * n}."},
            ],
            "source": "everyday-conversations",
        }
        for n in range(_MEDIA)
    ]
    (source / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), source / "data/train-00000-of-00004.parquet")


def coco_karpathy(source: Path) -> None:
    """Two test pictures, one of which is in `coco` and `llava_instruct` as well."""
    images = []
    for number in (100_000, 200_000):
        name = f"COCO_val2014_{number:012}.jpg"
        picture(source / "val2014" / name, number // 1000)
        told = [{"raw": f"a car, {n}"} for n in range(5)]
        images.append({"filename": name, "filepath": "val2014", "split": "test", "cocoid": number})
        images[-1] |= {"sentences": told}
    write(source / "dataset_coco.json", {"images": images, "dataset": "coco"})


SETS: dict[str, Callable[[Path], None]] = {
    "cc3m": cc3m,
    "coco": coco,
    "wavcaps": wavcaps,
    "clotho": clotho,
    "msrvtt": msrvtt,
    "llava-instruct": llava_instruct,
    "llava-video": llava_video,
    "clotho-aqa": clotho_aqa,
    "music-avqa": music_avqa,
    "talk": talk,
    "coco-karpathy": coco_karpathy,
}
