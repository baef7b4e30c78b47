"""Everything in a folder is accounted for: tables, captions, shards, endings that nobody reads, hidden files, and what breaks them."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_published import adds_up, film, picture, png, rows_of, said, sound, write

from anytoany_lib.data import building
from anytoany_lib.data.building import build
from anytoany_lib.data.formats import json_files
from anytoany_lib.data.formats.json_files import NoRecords, json_members, json_records
from anytoany_lib.data.manifests import (
    RowWriter,
    StoredRow,
    catalogue_of,
    notes_in,
    read_manifest,
    splits_in,
    write_manifest,
)
from anytoany_lib.data.reports import MOST_REASONS, OTHER_REASONS, Report
from anytoany_lib.data.rows import DataError, Row
from anytoany_lib.media.file_types import SUFFIXES


def built(tmp_path: Path, reader: str = "folder") -> tuple[dict, dict[str, str]]:
    """The report of the source beside, and what is told of each row."""
    build(
        reader,
        tmp_path / "source",
        tmp_path / "out",
        validation_fraction=0,
        test_fraction=0,
        overwrite=True,
    )
    told = {row.id: row.meta["caption"] for row in rows_of(tmp_path / "out")}
    return adds_up(tmp_path / "out", tmp_path / "source"), told


def test_what_media_reads_is_taken_and_all_else_is_counted(tmp_path: Path):
    source = tmp_path / "source"
    for number, name in enumerate(("a.jpg", "b.TIFF", "c.jfif", "d.bmp")):
        picture(source / name, number)
    sound(source / "e.wav", 5)
    film(source / "f.mp4")
    (source / "g.m4v").write_bytes((source / "f.mp4").read_bytes())
    for path in list(source.iterdir()):
        path.with_suffix(".txt").write_text(f"it is {path.stem}")
    for name in ("h.heic", "i.psd", "j.PSD", "Makefile", "README.md", "alone.txt"):
        (source / name).write_text("?")
    (source / ".ipynb_checkpoints").mkdir()
    picture(source / ".ipynb_checkpoints/a-checkpoint.jpg", 9)
    picture(source / "__MACOSX/._a.jpg", 9)
    (source / "loop.jpg").symlink_to(source / "loop.jpg")
    picture(source / "untold.png", 8)
    report, told = built(tmp_path)
    assert sorted(told) == ["a.jpg", "b.TIFF", "c.jfif", "d.bmp", "e.wav", "f.mp4", "g.m4v"]
    assert report["dropped"] == {"caption missing": 1}
    assert report["files"] == {
        "seen": 24, "used": 14, "dropped": 1,
        "not looked at": {"hidden": 2, ".psd": 2, ".heic": 1, "no ending": 1, ".md": 1, ".txt": 1, "no regular file": 1},
    }  # fmt: skip
    assert "9 of 24 files not looked at" in build("folder", source, tmp_path / "b").__str__()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_in_each_folder_tells_of_the_media_below_it(tmp_path: Path, form: str):
    source = tmp_path / "source"
    rows = {
        "train": [("a.jpg", "one"), ("deep/b.jpg", "two")],
        "test": [("c.jpg", "three"), ("gone.jpg", "four")],
    }
    for folder, told in rows.items():
        for number, (name, _) in enumerate(told[:2]):
            if name != "gone.jpg":
                picture(source / folder / name, number + len(folder) * 10)
        table = source / folder / f"metadata.{form}"
        if form == "csv":
            table.write_text("file_name,text\n" + "".join(f"{n},{t}\n" for n, t in told))
        elif form == "jsonl":
            table.write_text(
                "".join(json.dumps({"image_file_name": n, "text": t}) + "\n" for n, t in told)
            )
        else:
            pq.write_table(
                pa.Table.from_pylist([{"file_name": n, "caption": t} for n, t in told]), table
            )
    picture(source / "train/untold.jpg", 7)
    report, told = built(tmp_path)
    assert told == {"train/a.jpg": "one", "train/deep/b.jpg": "two", "test/c.jpg": "three"}
    assert report["dropped"] == {"missing": 1} and report["rows"]["split"] == {
        "train": 2,
        "validation": 0,
        "test": 1,
    }
    assert report["files"]["not looked at"] == {".jpg": 1}


def test_splits_by_folder_are_kept_and_only_others_drawn(tmp_path: Path):
    for number in range(40):
        folder = "val" if number < 10 else "train"
        picture(tmp_path / f"source/{folder}/{number}.png", number)
        (tmp_path / f"source/{folder}/{number}.txt").write_text("a bell")
    build(
        "folder", tmp_path / "source", tmp_path / "out", validation_fraction=0.2, test_fraction=0.2
    )
    splits = {
        s: [row.id for row in read_manifest(tmp_path / "out", s)]
        for s in splits_in(tmp_path / "out")
    }
    assert {s: len(ids) for s, ids in splits.items()} == {"train": 24, "validation": 10, "test": 6}
    assert all(name.startswith("val/") for name in splits["validation"])


def test_a_field_that_is_too_long_is_one_dropped_row(tmp_path: Path):
    for name in ("a", "b", "c"):
        picture(tmp_path / f"source/{name}.jpg", ord(name))
    long = tmp_path / "source/metadata.csv"
    long.write_text(
        f"file_name,text\na.jpg,{'x' * 200_000}\nb.jpg,a bell\n{'n' * 5000}.jpg,a car\nc.jpg,a,surplus\n"
    )
    report, told = built(tmp_path)
    assert told == {"b.jpg": "a bell", "c.jpg": "a"}
    assert report["dropped"] == {"caption too long": 1, "file_name too long": 1}


def test_several_media_in_one_row_of_a_table_are_no_caption_of_one(tmp_path: Path):
    for name in ("a", "b"):
        picture(tmp_path / f"source/{name}.jpg", ord(name))
    rows = [
        {"file_names": ["a.jpg", "b.jpg"], "text": "two"},
        {"file_names": ["a.jpg"], "text": ["one", "first", 3]},
    ]
    (tmp_path / "source/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report, told = built(tmp_path)
    assert set(told.values()) == {"one", "first"}
    assert report["dropped"] == {"several media in one row": 1, "caption not text": 1}
    assert report["files"] == {"seen": 3, "used": 2, "dropped": 1, "not looked at": {}}


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_keys_of_shards_end_at_the_first_dot_and_captions_may_be_lists(tmp_path: Path):
    shard(
        tmp_path / "source/train.v2/00.tar.gz",
        {
            "a/000.left.png": png(1), "a/000.right.png": png(2), "a/000.txt": b"both",
            "a/001.jpg": png(3), "a/001.json": json.dumps({"caption": ["one", "two"]}).encode(),
            "002.tiff": png(4), "002.caption.txt": b"a caption", "003.jpg": png(5), "003.cls": b"7",
            "b/000.png": png(6), "b/000.txt": b"other", "__MACOSX/000.png": png(7), "n" * 300 + ".png": png(8),
            "002.txt/x.txt": b"?", "004.png": png(9), "004.txt": b"first",
        },
        "w:gz",
    )  # fmt: skip
    with tarfile.open(tmp_path / "source/01.tar", "w") as archive:
        for content in (b"first", b"second"):
            info = tarfile.TarInfo("000.txt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    report, told = built(tmp_path, "webdataset")
    assert {name.rpartition("/")[2].split("#")[0]: text for name, text in told.items()} == {
        "000.left.png": "both", "000.right.png": "both", "001.jpg": "two", "002.tiff": "a caption",
        "000.png": "other", "004.png": "first",
    } and "one" in told.values()  # fmt: skip
    assert report["dropped"] == {"caption missing": 1, "name too long": 1, "name there twice": 1}
    assert report["files"]["not looked at"][".cls"] == 1


@pytest.mark.parametrize("cut", [0, 100, 511, 512, 1024])
def test_a_shard_that_is_cut_at_a_members_head_is_cut(tmp_path: Path, cut: int):
    shard(
        tmp_path / "source/0.tar",
        {"0.png": png(1), "0.txt": b"a bell", "1.png": png(2), "1.txt": b"a car"},
    )
    whole = (tmp_path / "source/0.tar").read_bytes()
    with tarfile.open(tmp_path / "source/0.tar") as archive:
        begins = archive.getmember("1.png").offset
    (tmp_path / "source/0.tar").write_bytes(whole[: begins + cut])
    report, told = built(tmp_path, "webdataset")
    assert told == {"0/0.png": "a bell"} and report["dropped"] == {"shard cut or damaged": 1}


def test_a_sparse_member_is_not_written_out(tmp_path: Path):
    hole = tmp_path / "hole.png"
    with hole.open("wb") as file:
        file.truncate(2**30)
    path = tmp_path / "source/0.tar"
    shard(path, {"1.png": png(1), "1.txt": b"a bell"})
    info = tarfile.TarInfo("0.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[483:495] = b"%011o\0" % 2**30
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    path.write_bytes(bytes(head) + path.read_bytes())
    report, told = built(tmp_path, "webdataset")
    assert told == {"0/1.png": "a bell"} and report["dropped"] == {"sparse member": 1}


def test_a_full_disk_is_no_damaged_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shard(tmp_path / "source/0.tar", {"0.png": png(1), "0.txt": b"a bell"})

    def full(path: Path, *given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        build("webdataset", tmp_path / "source", tmp_path / "out")


def test_a_file_that_is_no_list_of_records_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "source"
    write(source / "good.json", [{"conversations": said("a", "b")}])
    write(source / "deep/one.json", {"conversations": said("c", "d")})
    write(source / "instances.json", {"info": {}, "images": [{"id": 1}], "annotations": []})
    write(source / "words.json", ["a", "b"])
    picture(source / "sam/sa_1.jpg", 1)
    write(source / "sam/sa_1.json", {"annotations": []})
    build("instructions", source, tmp_path / "out", test_fraction=0)
    report = adds_up(tmp_path / "out", source)
    assert report["dropped"] == {"no record": 2, "no list of records": 1} and report["kept"] == 2
    (named,) = report["examples"]["no list of records"]
    assert "instances.json: one object with info, images, annotations" in named
    monkeypatch.setattr(json_files, "_LONGEST_VALUE", 4000)
    monkeypatch.setattr(json_files, "_CHUNK", 500)
    write(
        source / "instances.json", {"info": {"year": 1}, "images": [{"id": n} for n in range(5000)]}
    )
    with pytest.raises(
        NoRecords, match=r"one object of over 4,000 characters, with info, images: expected a list"
    ):
        list(json_records(source / "instances.json"))
    build("instructions", source, tmp_path / "out", test_fraction=0, overwrite=True)
    assert adds_up(tmp_path / "out", source)["dropped"]["no list of records"] == 1


@pytest.mark.parametrize("chunk", [1, 3, 7, 2**20])
def test_members_of_one_object_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(
        ' { "info" : {"a": [1]}, "data": [ {"n": 1} , 2 ], "x": 1e5 , "other": [3], "data2": [] } '
    )
    assert list(json_members(path, "data", "other")) == [
        ("data", {"n": 1}),
        ("data", 2),
        ("other", 3),
    ]
    for text, message in (
        ('{"data": [1, 2', "cut or damaged"),
        ('{"data" [1]}', "expected a key"),
        ('{"a": 1 "b": 2}', "expected ','"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            list(json_members(path, "data"))
    path.write_text("[]")
    with pytest.raises(NoRecords, match="expected one object with data"):
        list(json_members(path, "data"))


def test_names_that_no_disk_holds_drop_one_record(tmp_path: Path):
    picture(tmp_path / "source/a.jpg", 1)
    names = ["a.jpg", "n" * 5000 + ".jpg", "n/" * 3000 + "a.jpg", "nul\0.jpg", "loop/../a.jpg"]
    write(
        tmp_path / "source/t.json",
        [{"image": n, "conversations": said(f"<image>{k}", "b")} for k, n in enumerate(names)],
    )
    build("instructions", tmp_path / "source", tmp_path / "out")
    report = adds_up(tmp_path / "out", tmp_path / "source")
    assert report["kept"] == 1 and sum(report["dropped"].values()) == 4


def test_nesting_without_end_is_an_error_with_the_place(tmp_path: Path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.json").write_text('[{"a": ' + "[" * 200_000)
    with pytest.raises(DataError, match="cut or damaged at line 1"):
        build("instructions", tmp_path / "source", tmp_path / "out")
    deep = {"conversations": said("a", "b"), "x": json.loads("[" * 500 + '"a.jpg"' + "]" * 500)}
    write(tmp_path / "source/a.json", [deep, {"conversations": said("c", "d")}])
    report = build("instructions", tmp_path / "source", tmp_path / "out")
    assert report.dropped == {"nested too deep": 1} and report.kept_rows == 1


def test_reasons_without_end_are_counted_together():
    report = Report()
    for number in range(MOST_REASONS + 50):
        report.drop(f"role {number} is none", str(number))
    assert len(report.dropped) == MOST_REASONS + 1 and report.dropped[OTHER_REASONS] == 50
    assert report.examples[OTHER_REASONS][0] == f"{MOST_REASONS}: role {MOST_REASONS} is none"


def some_rows(count: int = 5) -> list[Row]:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return [Row(f"r{n}", "toy", messages) for n in range(count)]


@pytest.mark.parametrize(
    "change",
    [
        lambda notes: notes | {"of_row": "?"},
        lambda notes: notes | {"of_row": building.json.dumps([1])},
        lambda notes: notes | {"kinds": [["toy"]]},
        lambda notes: notes | {"kinds": []},
        lambda notes: notes | {"digest": 7},
        lambda notes: {key: notes[key] for key in ("rows", "end")},
    ],
)
def test_notes_that_are_no_tallys_are_not_believed(tmp_path: Path, change):
    write_manifest(some_rows(), tmp_path, "train")
    notes = notes_in(pq.read_metadata(tmp_path / "train.parquet"))
    assert catalogue_of(notes, 5) is not None and catalogue_of(change(notes), 5) is None


def test_notes_that_unpack_without_end_are_not_unpacked(tmp_path: Path):
    import base64

    write_manifest(some_rows(), tmp_path, "train")
    notes = notes_in(pq.read_metadata(tmp_path / "train.parquet"))
    bomb = base64.b64encode(zlib.compress(bytes(2**28))).decode()
    assert catalogue_of(notes | {"of_row": bomb}, 5) is None


@pytest.mark.parametrize("meta", ["[]", "3", "[" * 100_000, '{"caption": 1e400}'])
def test_texts_that_are_no_meta_are_named(tmp_path: Path, meta: str):
    messages = json.dumps(some_rows(1)[0].messages)
    with RowWriter(tmp_path / "train.parquet") as writer:
        writer.add(StoredRow("a", "toy", messages, meta, False))
    rows = read_manifest(tmp_path)
    if "1e400" in meta:
        assert rows[0].meta["caption"] == float("inf")
        return
    with pytest.raises(DataError, match="row 0"):
        rows[0]


def test_every_ending_that_media_reads_is_taken():
    from anytoany_lib.data.formats.webdataset import _KEPT

    assert set(_KEPT) >= {ending for endings in SUFFIXES.values() for ending in endings}
