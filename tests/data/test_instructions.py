"""Instruction data in every published form, and folders of media with captions, through the command that users run."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from anytoany_lib.config import Profile
from anytoany_lib.data.building import build
from anytoany_lib.data.formats.instructions import conversation_of
from anytoany_lib.data.formats.media_references import Unusable
from anytoany_lib.data.formats.webdataset import unpacked
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "nextgpt"


def human(value: str, **more) -> dict:
    return {"from": "human", "value": value, **more}


def gpt(value: str, **more) -> dict:
    return {"from": "gpt", "value": value, **more}


def flat(messages: list[dict]) -> list[list]:
    """Per message, its texts as they are and its media as (kind, name or told caption)."""
    return [
        [
            p["text"] if p["type"] == "text" else (p["type"], p.get(p["type"]) or p.get("caption"))
            for p in message["content"]
        ]
        for message in messages
    ]


FORMS = {
    "comprehension": (
        {
            "input_audio": "1.wav",
            "conversations": [human("<audio>\nWhat is it about?"), gpt("A train and a horn")],
        },
        [[("audio", "1.wav"), "What is it about?"], ["A train and a horn"]],
    ),
    "generation": (
        {
            "output_video": "7.mp4",
            "video_captions": "Roses in the garden",
            "video_caption_embeddings": "7.mp4.npy",
            "conversations": [human("Display Roses in the garden"), gpt("Sure thing! <video>")],
        },
        [["Display Roses in the garden"], ["Sure thing!", ("video", "Roses in the garden")]],
    ),
    "T2M of v1.5": (
        {
            "audio_captions": ["An engine works"],
            "audio_caption_embeddings": ["3.wav.npy"],
            "conversations": [
                human("I need an engine.", input_modality="text"),
                gpt("Listen: <audio>", caption="An engine works", output_modality="audio"),
            ],
        },
        [["I need an engine."], ["Listen:", ("audio", "An engine works")]],
    ),
    "T2M, legacy": (
        {
            "mm_name": "3.jpg",
            "conversation": [
                human("Show me a lake.", input_modality="text"),
                gpt("Here it is.", caption="a calm lake", output_modality="image"),
            ],
        },
        [["Show me a lake."], ["Here it is.", ("image", "a calm lake")]],
    ),
    "MosIT, raw": (
        {
            "image_list": [
                {"image_name": "in.jpg", "data_source": "x", "caption": "a cat"},
                {"image_name": "out.jpg", "data_source": "x", "caption": "a dog\nrunning"},
            ],
            "audio_list": [{"audio_name": "bark.wav", "data_source": "x", "caption": "a bark"}],
            "conversation": [
                human("Look: <Image>in.jpg</Image> Now a dog, please, and 3 < 4."),
                gpt("This: <Image>out.jpg</Image> and <Audio>bark.wav</Audio> it barks."),
            ],
        },
        [
            ["Look:", ("image", "in.jpg"), "Now a dog, please, and 3 < 4."],
            ["This:", ("image", "a dog running"), "and", ("audio", "a bark"), "it barks."],
        ],
    ),
    "MosIT, processed": (
        {
            "image_captions": ["first", "second"],
            "video_captions": ["a clip"],
            "conversations": [
                human("Two pictures"),
                gpt("<image> and <image>"),
                human("A clip"),
                gpt("<video>"),
            ],
        },
        [
            ["Two pictures"],
            [("image", "first"), "and", ("image", "second")],
            ["A clip"],
            [("video", "a clip")],
        ],
    ),
    "LLaVA": (
        {
            "id": "000",
            "image": "coco/train2017/000.jpg",
            "conversations": [
                human("What is this?\n<image>"),
                gpt("A bus."),
                human("And?"),
                gpt("Red."),
            ],
        },
        [["What is this?", ("image", "coco/train2017/000.jpg")], ["A bus."], ["And?"], ["Red."]],
    ),
    "LLaVA, legacy": (
        {
            "image_name": "000.jpg",
            "output_modality": "text",
            "conversation": [
                human("What is this?", input_modality="image"),
                gpt("A bus.", caption="", output_modality="text"),
            ],
        },
        [[("image", "000.jpg"), "What is this?"], ["A bus."]],
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        [["Add.\n1 and 2"], ["3"]],
    ),
    "Alpaca, legacy": (
        {
            "image_name": "00000000000",
            "output_modality": "text",
            "conversation": [human("Add 1 and 2."), gpt("3")],
        },
        [["Add 1 and 2."], ["3"]],
    ),
    "VideoChat": (
        {
            "video": "k/1.mp4",
            "QA": [
                {"i": "Be brief.", "q": "What happens?", "a": "A jump."},
                {"q": "Who?", "a": "A boy."},
            ],
        },
        [[("video", "k/1.mp4"), "Be brief.\nWhat happens?"], ["A jump."], ["Who?"], ["A boy."]],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_becomes_the_same_conversation(form: str):
    record, expected = FORMS[form]
    messages = conversation_of(record)
    assert flat(messages) == expected
    assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"image": "a.jpg"}, "no conversation"),
        ([], "no record"),
        ({"conversations": [gpt("Hello")]}, "no conversation"),
        ({"conversations": [human("a"), human("b")]}, "no conversation"),
        ({"conversations": [human("<image>"), gpt("Where?")]}, "no image for the mark <image>"),
        ({"conversations": [human("Draw"), gpt("<image>")]}, "no caption for a generated image"),
        ({"conversations": [human("a"), {"from": "gpt", "value": None}]}, "a turn is not text"),
        ({"conversations": [human(" "), gpt("b")]}, "a turn is empty"),
        ({"conversations": [human("only a question")]}, "no conversation"),
        ({"conversations": [human("half \ud83d"), gpt("b")]}, "a turn is not text"),
        ({"image": "\ud83d.png", "conversations": [human("<image>"), gpt("b")]}, "no image"),
    ],
)
def test_what_is_no_conversation_is_dropped_with_the_reason(record, reason: str):
    with pytest.raises(Unusable, match=reason):
        conversation_of(record)


def test_a_folder_of_instructions_becomes_a_dataset(tmp_path: Path):
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(
            np.random.default_rng(ord(name[0])).integers(0, 255, (20, 20, 3), np.uint8)
        ).save(source / "images" / name)
    llava = [
        {"image": name, "conversations": [human("<image>\nWhat?"), gpt(f"It is {name}.")]}
        for name in ("a.jpg", "b.jpg", "c.jpg", "gone.jpg")
    ]
    (source / "llava.json").write_text(json.dumps(llava))
    lines = [FORMS["Alpaca"][0], {"instruction": "Nothing"}]
    (source / "alpaca.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = build("instructions", source, tmp_path / "out", test_fraction=0)
    assert (report.kept_rows, dict(report.dropped)) == (4, {"missing": 1, "no conversation": 1})
    assert report.examples["no conversation"] == ["alpaca-1"]
    rows = [
        row for split in ("train", "validation") for row in read_manifest(tmp_path / "out", split)
    ]
    assert sorted(row.source for row in rows) == ["alpaca", "llava", "llava", "llava"]
    shown = next(row for row in rows if row.source == "llava").messages[0]["content"][0]
    assert shown["image"].startswith("media/images/")


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_a_folder_with_captions_beside_its_media(tmp_path: Path):
    source = tmp_path / "source"
    for number, name in enumerate(("a.jpg", "deep/b.PNG", "c.jpg", "d.jpg")):
        picture(source / name, number)
    soundfile.write(source / "e.wav", np.random.default_rng(9).uniform(-0.5, 0.5, 8000), 16000)
    (source / "a.txt").write_text("a red\nbell\n")
    (source / "deep/b.json").write_text('{"caption": "a blue car"}')
    (source / "c.txt").write_text("  ")
    (source / "e.txt").write_text("a ring")
    report = build("folder", source, tmp_path / "out", validation_fraction=0, test_fraction=0)
    assert dict(report.dropped) == {"caption empty": 1, "caption missing": 1}
    rows = {row.id: row for row in read_manifest(tmp_path / "out")}
    assert {name: row.meta["caption"] for name, row in rows.items()} == {
        "a.jpg": "a red bell",
        "deep/b.PNG": "a blue car",
        "e.wav": "a ring",
    }
    assert rows["e.wav"].meta["kind"] == "audio"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_folder_with_a_table_of_captions(tmp_path: Path, form: str):
    source = tmp_path / "source"
    picture(source / "train/a.jpg", 0)
    told = [("train/a.jpg", 'a bell, "red"'), ("train/gone.jpg", "a car"), ("notes.pdf", "no")]
    if form == "csv":
        lines = ["file_name,text", *(f'{n},"{c.replace(chr(34), chr(34) * 2)}"' for n, c in told)]
    else:
        lines = [json.dumps({"file_name": n, "text": c}) for n, c in told]
    (source / f"metadata.{form}").write_text("\n".join(lines) + "\n")
    report = build("folder", source, tmp_path / "out", validation_fraction=0, test_fraction=0)
    assert dict(report.dropped) == {"missing": 1, "no medium by its name": 1}
    assert read_manifest(tmp_path / "out")[0].meta["caption"] == 'a bell, "red"'


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_webdataset_shards_are_read_and_what_is_wrong_with_them_is_told(tmp_path: Path):
    source = tmp_path / "source"
    pictures = {}
    for number in range(4):
        picture(tmp_path / "p" / f"{number}.jpg", number)
        pictures[number] = (tmp_path / "p" / f"{number}.jpg").read_bytes()
    source.mkdir()
    told = {"caption": "from json", "url": "x", "width": 20}
    shard(
        source / "00000.tar",
        {
            "000.jpg": pictures[0],
            "000.txt": b"a bell",
            "000.json": json.dumps(told).encode(),
            "001.jpg": pictures[1],
            "001.json": json.dumps(told).encode(),
            "001.npy": b"not ours",
            "../evil.jpg": pictures[2],
        },
    )
    shard(source / "00001.tar", {"000.jpg": pictures[3], "000.txt": b"a car"})
    whole = (source / "00001.tar").read_bytes()
    (source / "00002.tar").write_bytes(whole[: len(pictures[3]) // 2])
    report = build("webdataset", source, tmp_path / "out", validation_fraction=0, test_fraction=0)
    rows = {row.id: row.meta["caption"] for row in read_manifest(tmp_path / "out")}
    assert rows == {
        "00000/000.jpg": "a bell",
        "00000/001.jpg": "from json",
        "00001/000.jpg": "a car",
    }
    assert {row.source for row in read_manifest(tmp_path / "out")} == {"source"}
    assert report.dropped["outside the folder"] == 1 and report.dropped["shard cut or damaged"] == 1
    assert not (tmp_path / "evil.jpg").exists()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "media",
        "report.json",
        "train.parquet",
    }


@pytest.mark.parametrize("size, reason", [(2**31 + 1, "too large"), (2**31, "")])
def test_a_member_of_a_shard_may_have_two_gibibytes(tmp_path: Path, size: int, reason: str):
    info = tarfile.TarInfo("000.jpg")
    info.size = size
    (tmp_path / "00000.tar").write_bytes(info.tobuf())  # the head alone: a shard that is cut
    report = Report()
    unpacked(tmp_path, tmp_path / "out", report)
    assert report.dropped["too large"] == bool(reason)
    assert report.dropped["shard cut or damaged"] == 1


def test_empty_folders_say_what_was_expected(tmp_path: Path):
    (tmp_path / "source").mkdir()
    for reader, expected in (
        ("instructions", "conversations"),
        ("folder", "pictures"),
        ("webdataset", "shards"),
    ):
        with pytest.raises(DataError, match=f"expected .*{expected}"):
            build(reader, tmp_path / "source", tmp_path / "out")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no samples of real media beside the repository")
@pytest.mark.parametrize(("folder", "made"), [("cc3m", 20), ("audiocap", 20), ("webvid", 20)])
def test_the_published_sample_files_are_read(tmp_path: Path, folder: str, made: int):
    """All generation rows (they need no media), and the comprehension rows whose media are there."""
    report = build("instructions", SAMPLES / folder, tmp_path / "out", test_fraction=0)
    there = len([p for p in (SAMPLES / folder).rglob("*") if p.suffix in (".jpg", ".wav", ".mp4")])
    assert report.kept_rows == made + there
    assert report.dropped["missing"] == 20 - there and report.dropped["no conversation"] == 20


SPOKEN = {
    "system": "Answer in French.",
    "conversations": [human("Hello"), gpt("Bonjour"), human("Bye"), gpt("Au revoir")],
}


def test_what_a_system_says_is_read_and_not_learnt(model: AnyToAny, tmp_path: Path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/french.json").write_text(json.dumps([SPOKEN]))
    build("instructions", tmp_path / "source", tmp_path / "out")
    (row,) = read_manifest(tmp_path / "out")
    assert [message["role"][0] for message in row.messages] == list("suaua")
    encoder = model.messages
    encoded = encoder.encode(row.messages)
    learnt = [label for label in encoded.labels if label != IGNORED]
    assert "Answer in French." in encoder.tokenizer.decode(encoded.ids)
    said = encoder.tokenizer.decode(learnt)
    assert "Bonjour" in said and "Au revoir" in said and "French" not in said and "Bye" not in said
    # Cut to what is left, the system's word stays.
    kept, dropped = encoder.encode_within(row.messages, len(encoded.ids) - 1)
    assert dropped == 2 and "Answer in French." in encoder.tokenizer.decode(kept.ids)


@pytest.mark.parametrize("name", ["tiny", "nextgpt-7b", "qwen2.5-1.5b", "qwen3-8b"])
def test_every_profile_has_words_for_a_system(model: AnyToAny, name: str):
    template = Profile.load(name).llm.chat_template
    messages = conversation_of(SPOKEN)
    plain = [{"role": m["role"], "content": m["content"][0]["text"]} for m in messages]
    text = model.messages.tokenizer.apply_chat_template(
        plain, chat_template=template, tokenize=False
    )
    places = [text.index(said["content"]) for said in plain]
    assert places == sorted(places)
