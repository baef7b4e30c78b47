"""Manifests and readers: whole round trips, and every kind of row that must not get in."""

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anytoany_lib import cli
from anytoany_lib.data import building
from anytoany_lib.data.building import build
from anytoany_lib.data.formats.json_files import json_records
from anytoany_lib.data.manifests import (
    GROUP_ROWS,
    SPLITS,
    dataset_fingerprint,
    read_manifest,
    splits_in,
    write_manifest,
)
from anytoany_lib.data.reports import Histogram, Measured, Report
from anytoany_lib.data.rows import (
    DESCRIBE,
    PRODUCE,
    DataError,
    Row,
    as_comprehension,
    as_generation,
    media_path,
)
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT.parent / "shared" / "samples" / "nextgpt"
FORMS = {
    "image": ("cc3m", "images", "image_name", ".png"),
    "video": ("webvid", "videos", "video_name", ".mp4"),
    "audio": ("audiocap", "audios", "audio_name", ".wav"),
}


def medium(kind, number):
    """A small medium that differs by number."""
    rng = np.random.default_rng(number)
    if kind == "audio":
        return rng.uniform(-0.5, 0.5, 1600).astype(np.float32), 16000
    frames = rng.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    return Image.fromarray(frames[0]) if kind == "image" else frames


def make_source(folder, kind="image", count=10):
    """A source folder of `count` media as the dataset is published; returns its records."""
    name, sub, key, suffix = FORMS[kind]
    (folder / sub).mkdir(parents=True)
    records = []
    for number in range(count):
        file = f"{number:06}{suffix}"
        media_files.save(kind, folder / sub / file, medium(kind, number))
        records.append({"caption": f"{kind} number {number}", "id": str(number), key: file})
    save_records(folder, records, name)
    return records


def save_records(folder, records, name="cc3m"):
    (folder / f"{name}.json").write_text(json.dumps(records, indent=4))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def every_row(folder):
    return [row for split in splits_in(folder) for row in read_manifest(folder, split)]


def row(number=0, **changes):
    messages = [
        {"role": "user", "content": [{"type": "image", "image": "media/a.png"}]},
        {"role": "assistant", "content": "a bell"},
    ]
    return Row(**{"id": f"r{number}", "source": "toy", "messages": messages, **changes})


def assistant(**part):
    return [
        {"role": "user", "content": "draw"},
        {"role": "assistant", "content": [{"type": "image", **part}]},
    ]


def test_manifest_round_trip_over_several_groups(tmp_path):
    rows = [row(n, meta={"n": n, "word": "größer 🔔"}) for n in range(2 * GROUP_ROWS + 7)]
    assert write_manifest(iter(rows), tmp_path, "train") == len(rows)
    manifest = read_manifest(tmp_path, "train")
    assert len(manifest) == len(rows) and list(manifest) == rows
    assert manifest[-1] == rows[-1] and manifest[3:6] == rows[3:6]
    assert manifest[GROUP_ROWS] == rows[GROUP_ROWS]
    assert pickle.loads(pickle.dumps(manifest))[5] == rows[5]
    with pytest.raises(IndexError):
        manifest[len(rows)]
    assert names_in(tmp_path) == ["train.parquet"]


def test_a_failed_write_leaves_the_old_manifest(tmp_path):
    write_manifest([row()], tmp_path, "train")
    before = (tmp_path / "train.parquet").read_bytes()
    with pytest.raises(DataError, match="twice"):
        write_manifest([row(1), row(1)], tmp_path, "train")
    assert (tmp_path / "train.parquet").read_bytes() == before
    assert names_in(tmp_path) == ["train.parquet"]
    assert write_manifest([], tmp_path, "train") == 0 and names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "type 'smell'"),
        ({"messages": assistant(image="media/a.png")}, "'caption'"),
        ({"messages": assistant(image=7, caption="a bell")}, "must be a path"),
        ({"id": ""}, "id and source"),
        ({"meta": {"x": np.float32(1)}}, "not JSON"),
    ],
)
def test_wrong_rows_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        write_manifest([row(**changes)], tmp_path, "train")


def test_an_assistants_medium_may_be_a_caption_alone(tmp_path):
    write_manifest([row(messages=assistant(caption="a bell"))], tmp_path, "train")
    assert read_manifest(tmp_path)[0].messages == assistant(caption="a bell")


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "b/../../a.png", "C:/a.png", "a\\b", ""]
)
def test_paths_that_leave_the_folder(tmp_path, name):
    with pytest.raises(MediaError) as caught:
        media_path(tmp_path, name)
    assert caught.value.reason == "outside the folder"
    with pytest.raises(ValueError, match="outside the folder"):
        messages = [{"role": "user", "content": [{"type": "image", "image": name}]}]
        write_manifest([row(messages=messages)], tmp_path, "train")
        read_manifest(tmp_path)[0]


def test_links_that_leave_the_folder(tmp_path):
    (tmp_path / "out.png").write_bytes(b"x")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "real.png").write_bytes(b"x")
    (folder / "inner.png").symlink_to(folder / "real.png")
    for name in ("link.png", "up/out.png"):
        with pytest.raises(MediaError, match="outside the folder"):
            media_path(folder, name)
    with pytest.raises(MediaError):
        media_files.load_image(media_path(folder, "loop.png"))
    assert media_path(folder, "inner.png").read_bytes() == b"x"


def test_files_that_are_no_manifest(tmp_path):
    with pytest.raises(DataError, match=r"splits there: none.*02_data"):
        read_manifest(tmp_path, "train")
    with pytest.raises(ValueError, match="'dev' is not one of"):
        read_manifest(tmp_path, "dev")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but cut")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_manifest(tmp_path)
    pq.write_table(pa.table({"id": [1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"expected .* found id: int64"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_build_keeps_every_kind_whole(tmp_path, kind):
    reader = FORMS[kind][0]
    records = make_source(tmp_path / "source", kind)
    report = build(reader, tmp_path / "source", tmp_path / "out")
    assert report.as_dict()["read"] == report.as_dict()["kept"] == 10 and not report.dropped
    assert json.loads((tmp_path / "out" / "report.json").read_text())["kept"] == 10
    assert {s: len(read_manifest(tmp_path / "out", s)) for s in SPLITS} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }
    rows = every_row(tmp_path / "out")
    assert {r.meta["caption"] for r in rows} == {r["caption"] for r in records}
    for split in SPLITS:
        manifest = read_manifest(tmp_path / "out", split)
        for one in manifest:
            part = manifest.resolved(one).messages[0]["content"][0]
            original = (
                tmp_path / "source" / Path(part[kind]).relative_to(tmp_path / "out" / "media")
            )
            assert Path(part[kind]).read_bytes() == original.read_bytes()
            assert [media_files.content_key(kind, part[kind])] == list(one.meta["content"].values())
            assert one.meta["kind"] == kind and one.source == reader
    assert names_in(tmp_path) == ["out", "source"]


def test_bad_rows_are_dropped_counted_and_named(tmp_path):
    source = tmp_path / "source"
    records = make_source(source)
    images = source / "images"
    (tmp_path / "secret.png").write_bytes((images / "000000.png").read_bytes())
    (images / "cut.png").write_bytes((images / "000001.png").read_bytes()[:60])
    (images / "zero.png").touch()
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "again.png").write_bytes((images / "000002.png").read_bytes())
    records += [
        {"caption": "gone", "image_name": "gone.png"},
        {"caption": "cut", "image_name": "cut.png"},
        {"caption": "zero", "image_name": "zero.png"},
        {"caption": "link", "image_name": "link.png"},
        {"caption": "up", "image_name": "../../secret.png"},
        {"caption": "  \n", "image_name": "000003.png"},
        {"caption": ["a list"], "image_name": "000003.png"},
        {"caption": "\ud800", "image_name": "000003.png"},
        {"caption": "no name"},
        "not an object",
        {"caption": "image number 2", "image_name": "again.png"},
        {"caption": "another caption\r\n", "image_name": "000003.png"},
    ]
    save_records(source, records)
    report = build("cc3m", source, tmp_path / "out")
    found = report.as_dict()
    assert found["dropped"] == {
        "missing": 1,
        "unreadable": 1,
        "empty": 1,
        "outside the folder": 2,
        "caption empty": 1,
        "caption not text": 2,
        "image_name missing": 2,
        "duplicate": 1,
    }
    assert found["read"] == len(records) and found["kept"] == 11
    assert found["examples"]["unreadable"] == ["images/cut.png"]
    assert found["examples"]["image_name missing"][1] == "cc3m.json, record 19"
    rows = {r.id: r for r in every_row(tmp_path / "out")}
    assert rows["cc3m-000003#2"].meta["caption"] == "another caption"
    by_split = [
        {m for r in read_manifest(tmp_path / "out", s) for m in r.meta["content"].values()}
        for s in SPLITS
    ]
    assert sum(map(len, by_split)) == len(set.union(*by_split)) == 10
    assert "secret.png" not in {p.name for p in (tmp_path / "out").rglob("*")}


def test_same_seed_same_manifest(tmp_path):
    make_source(tmp_path / "source", count=30)
    options = {"validation_fraction": 0.2, "test_fraction": 0.1}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build("cc3m", tmp_path / "source", tmp_path / name, seed=seed, **options)
    ids = {n: [r.id for r in read_manifest(tmp_path / n, "validation")] for n in "abc"}
    assert ids["a"] == ids["b"] != ids["c"] and len(ids["a"]) == len(ids["c"]) == 6
    prints = {n: dataset_fingerprint(tmp_path / n) for n in "abc"}
    assert prints["a"] == prints["b"] != prints["c"] and len(prints["a"]) == 16


def test_no_validation_no_file(tmp_path):
    make_source(tmp_path / "source", count=2)
    build("cc3m", tmp_path / "source", tmp_path / "a", validation_fraction=0, test_fraction=0)
    assert splits_in(tmp_path / "a") == ["train"]
    build("cc3m", tmp_path / "source", tmp_path / "b", validation_fraction=0.5, test_fraction=0.4)
    assert splits_in(tmp_path / "b") == ["train", "validation"]


def test_links_and_overwriting(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    records = make_source(source)
    build("cc3m", source, out, link=True)
    assert (out / "media/images/000000.png").samefile(source / "images/000000.png")
    with pytest.raises(DataError, match="--overwrite"):
        build("cc3m", source, out)
    save_records(source, records[:4])
    build("cc3m", source, out, overwrite=True)
    assert len(every_row(out)) == 4 and not (out / "media/images/000009.png").exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    for precious in (tmp_path / "precious", source, tmp_path):
        with pytest.raises(DataError, match="choose another OUT"):
            build("cc3m", source, precious, overwrite=True)
    assert names_in(tmp_path) == ["out", "precious", "source"]


def test_nothing_usable_and_cut_files_leave_nothing(tmp_path):
    source = tmp_path / "source"
    records = make_source(source)
    whole = (source / "cc3m.json").read_text()
    (source / "cc3m.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=r"cc3m\.json: cut or damaged at line \d+, character \d+ of"
    ):
        build("cc3m", source, tmp_path / "out")
    save_records(source, [{**one, "image_name": "x" + one["image_name"]} for one in records])
    with pytest.raises(DataError, match=r"nothing could be kept\. 10 rows read, 0 kept\n.*missing"):
        build("cc3m", source, tmp_path / "out")
    with pytest.raises(DataError, match=r"webvid\.json: missing: .* found cc3m\.json, images"):
        build("webvid", source, tmp_path / "out")
    with pytest.raises(DataError, match="any of cc3m, webvid, audiocap"):
        build("nextgpt", source, tmp_path / "out")
    with pytest.raises(DataError, match="unknown reader 'mine'"):
        build("mine", source, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        build("cc3m", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(DataError, match="fractions"):
        build("cc3m", source, tmp_path / "out", validation_fraction=0.6, test_fraction=0.4)
    assert names_in(tmp_path) == ["source"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, capsys):
    make_source(tmp_path / "source")

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(building.shutil, "copyfile", full)
    monkeypatch.setattr(building.signal, "signal", lambda *given: None)
    assert cli.main(["data", "cc3m", str(tmp_path / "source"), str(tmp_path / "out")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert names_in(tmp_path) == ["source"]


def test_a_killed_build_leaves_nothing(tmp_path):
    make_source(tmp_path / "source", count=3000)
    command = [sys.executable, "-m", "anytoany_lib", "data", "cc3m", "source", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    while not (found := list(tmp_path.glob(".out.*/media/images/*.png"))):
        assert process.poll() is None and not (tmp_path / "out").exists()
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=30)
    assert found and process.returncode == 143 and names_in(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[]", []),
        (' [ {"a": 1} , {"a": 2} ]\n', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('\ufeff[{"a": "é"}]', [{"a": "é"}]),
        ("", []),
    ],
)
def test_json_and_json_lines(tmp_path, text, values):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert list(json_records(tmp_path / "a.json")) == values


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b'[{"a": 1},\n {"a": "cut', "line 2, character 18 of 22"),
        (b'[{"a": 1}', "line 1, character 9 of 9"),
        (b'[{"a": 1} {"a": 2}]', "line 1, character 10"),
        (b'[{"a": 1}] [', "after the closing"),
        (b'{"a": 1}\n{"a":', "line 2"),
        (b"[" * 100_000, "cut or damaged at line 1"),
        (b'["\xff"]', "not UTF-8 text at byte 2"),
    ],
)
def test_damaged_json_is_placed(tmp_path, text, place):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DataError, match=place):
        list(json_records(tmp_path / "a.json"))


def test_report_keeps_ten_examples():
    report = Report()
    for number in range(25):
        report.drop("missing", str(number))
    report.kept(row(), [Measured("image", 100, 64)])
    found = report.as_dict()
    assert found["dropped"] == {"missing": 25} and found["examples"]["missing"][-1] == "9"
    assert (found["read"], found["kept"], found["bytes"]) == (26, 1, 100)


def test_histograms_agree_with_a_plain_count():
    edges = (0, 1, 2, 5, 10)
    values = np.random.default_rng(0).uniform(0, 30, 500)
    histogram = Histogram(edges)
    for value in values:
        histogram.add(value)
    found = histogram.as_dict()
    assert found["counts"] == np.histogram(values, [*edges, np.inf])[0].tolist()
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-3) and found["n"] == 500
    assert (found["least"], found["most"]) == pytest.approx((values.min(), values.max()), abs=1e-3)
    assert found["edges"] == list(edges)
    histogram = Histogram(edges)
    histogram.add(2)
    assert histogram.as_dict()["edges"] == [2, 5] and histogram.as_dict()["counts"] == [1]


def test_memory_of_a_report_does_not_grow_with_its_rows():
    report, sizes = Report(), []
    for number in range(2000):
        report.kept(row(number, meta={"kind": "image", "caption": "a " * (number % 90)}), [])
        report.drop("missing", f"{number}.png")
        if number in (200, 1999):
            sizes.append(len(pickle.dumps(report.as_dict())))
    assert sizes[1] < sizes[0] + 200


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_raw_row_is_worded_for_both_stages(kind):
    caption = "a bell {twice} 100 %"
    messages = [{"role": "user", "content": [{"type": kind, kind: "media/a"}]},
                {"role": "assistant", "content": [{"type": "text", "text": caption}]}]  # fmt: skip
    raw = row(messages=messages, meta={"caption": caption, "kind": kind})
    rng = np.random.default_rng(0)
    seen, made = zip(
        *((as_comprehension(raw, rng), as_generation(raw, rng)) for _ in range(40)),
        strict=True,
    )
    assert all(s[1]["content"] == [{"type": "text", "text": caption}] for s in seen)
    part = {"type": kind, kind: "media/a", "caption": caption}
    assert all(m[1]["content"] == [part] and caption in m[0]["content"][0]["text"] for m in made)
    assert len({s[0]["content"][1]["text"] for s in seen}) == len(DESCRIBE[kind])
    assert len({m[0]["content"][0]["text"] for m in made}) == len(PRODUCE[kind])
    json.dumps(seen), json.dumps(made)


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "anytoany_lib", "data", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip


def test_command_line(tmp_path):
    make_source(tmp_path / "source")
    done = run_command("cc3m", tmp_path / "source", tmp_path / "out", "--validation", "0.3")
    assert done.returncode == 0, done.stderr
    assert "10 rows read, 10 kept" in done.stdout
    assert "train 6, validation 3, test 1" in done.stdout
    failed = run_command("cc3m", tmp_path / "source", tmp_path / "out")
    assert failed.returncode == 1 and failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample media lie beside the repository")
def test_real_samples(tmp_path):
    report = build("nextgpt", SAMPLES, tmp_path / "out", validation_fraction=0.1)
    assert (report.read, report.kept_rows, dict(report.dropped)) == (60, 27, {"missing": 33})
    rows = every_row(tmp_path / "out")
    kinds = [r.meta["kind"] for r in rows]
    assert {k: kinds.count(k) for k in FORMS} == {"image": 12, "video": 7, "audio": 8}
    for split in splits_in(tmp_path / "out"):
        manifest = read_manifest(tmp_path / "out", split)
        assert {r.source for r in manifest} == {"cc3m", "webvid", "audiocap"}
        for one in manifest:
            ((name, key),) = one.meta["content"].items()
            assert media_files.content_key(one.meta["kind"], manifest.path(name)) == key
