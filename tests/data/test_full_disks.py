"""Disks that are full, for real: a small disk is mounted, or a process may write no long files. Skipped where neither can be."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from test_folders import shard
from test_published import film, png, said, sound, write

from anytoany_lib import cli
from anytoany_lib.data import building
from anytoany_lib.data.building import build
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.data.rows import Row
from anytoany_lib.features.dataset_features import MediaKeys
from anytoany_lib.media import segments
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.media_files import save_video
from anytoany_lib.system import files
from anytoany_lib.system.files import DiskFull, appearing_file, appearing_whole, room_for, settle
from anytoany_lib.training import checkpoint, trackers
from anytoany_lib.training.checkpoint import runs

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
ROWS = 60


def mounted(place: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    return not subprocess.run(command, check=False, capture_output=True).returncode


def resized(disk: Path, kib: int) -> None:
    assert mounted(disk, f"remount,size={kib}k")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not shutil.which("mount") or not mounted(place, "size=1m"):
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# --- every library that writes ---


def _sqlite(path: Path) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("CREATE TABLE a (b)")
    database.execute("BEGIN")
    try:
        for _ in range(64):
            database.execute("INSERT INTO a VALUES (?)", (os.urandom(MIB // 16),))
        database.execute("COMMIT")
    finally:
        database.close()


def _parquet(path: Path) -> None:
    with pq.ParquetWriter(path, pa.schema([("a", pa.binary())])) as writer:
        for _ in range(40):
            column = pa.array([os.urandom(MIB // 16)])
            writer.write_batch(pa.RecordBatch.from_arrays([column], ["a"]))


def _numpy(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(MIB))


def _clip(path: Path) -> None:
    save_video(path, np.random.default_rng(0).integers(0, 255, (60, 256, 256, 3), np.uint8), 25)


TENSORS = {"a": torch.zeros(MIB)}
WAYS: dict[str, Callable[[Path], object]] = {
    "Python": lambda path: path.write_bytes(bytes(2 * MIB)),
    "safetensors": lambda path: save_file(TENSORS, path),
    "torch": lambda path: torch.save(TENSORS, path),
    "torch, many": lambda path: torch.save({n: torch.zeros(100) for n in range(5000)}, path),
    "SQLite": _sqlite,
    "PyArrow": _parquet,
    "NumPy": _numpy,
    "libsndfile": lambda path: soundfile.write(path, np.zeros(MIB), 16000, format="WAV"),
    "FFmpeg": _clip,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_told_as_one_whatever_library_meets_it(way: str, small_disk: Path):
    with appearing_whole(small_disk / "out") as work:
        (work / "before").write_text("as it was")
    with (
        pytest.raises(DiskFull, match=r"No space left.*disk/out .*as it was\. Make room") as error,
        appearing_whole(small_disk / "out") as work,
    ):
        WAYS[way](work / "x.mp4")
    assert error.value.errno == errno.ENOSPC
    assert (small_disk / "out" / "before").read_text() == "as it was"
    assert [path.name for path in small_disk.iterdir()] == ["out"]
    with (
        pytest.raises(DiskFull, match=r"disk/y\.mp4 .*Make room"),
        appearing_file(small_disk / "y.mp4") as beside,
    ):
        WAYS[way](beside)
    assert [path.name for path in small_disk.iterdir()] == ["out"]


LIMITED = """
import resource, sys
from pathlib import Path
from test_full_disks import MIB, WAYS
from anytoany_lib.system.files import DiskFull, appearing_file

resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
for name, write in WAYS.items():
    try:
        with appearing_file(Path(sys.argv[1]) / "x.mp4") as beside:
            write(beside)
    except DiskFull as error:
        print(name, "|", error)
"""


def test_a_file_longer_than_the_limit_is_told_as_one(tmp_path: Path):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), str(Path(__file__).parent), str(ROOT / "tests" / "support")]
        )
    }
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line.split(" |")[0] for line in lines] == list(WAYS), done.stderr[-3000:]
    assert all("File too large" in line and "ulimit -f" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_what_only_sounds_like_a_full_disk_is_none(tmp_path: Path):
    """Where there is room, damaged media and files are called what they are."""
    for words in (
        RuntimeError("PytorchStreamReader failed reading zip archive: inline_container.cc"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        OSError("1048576 requested and 1 written"),
        sqlite3.OperationalError("disk I/O error"),
        av.error.OSError(errno.ENOSPC, "No space left on device"),
        ValueError("no room is not meant"),
    ):
        with pytest.raises(type(words)) as error, room_for(tmp_path / "x"):
            raise words
        assert error.value is words


def test_a_full_disk_is_found_beneath_other_errors(tmp_path: Path):
    def write_badly() -> None:
        try:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        except OSError as error:
            raise ValueError("something about a header") from error

    with pytest.raises(DiskFull, match="quota exceeded.*Make room") as error, room_for(tmp_path):
        try:
            write_badly()
        finally:
            {}["a cleanup that fails too"]
    assert error.value.errno == errno.EDQUOT


# --- datasets ---


def _webdataset(source: Path) -> None:
    members: dict[str, bytes] = {}
    for n in range(ROWS):
        members |= {f"{n:03d}.png": png(n) + os.urandom(12_000), f"{n:03d}.txt": b"it is %d" % n}
    source.mkdir()
    shard(source / "0.tar", members)


def _tables(source: Path) -> None:
    source.mkdir()
    pictures = [{"bytes": png(n) + os.urandom(12_000), "path": f"{n}.png"} for n in range(ROWS)]
    columns = {"image": pictures, "caption": [f"it is {n}" for n in range(ROWS)]}
    pq.write_table(pa.table(columns), source / "a.parquet")


def _sounds_and_films(source: Path) -> None:
    sound(source / "a.wav", 1, seconds=ROWS)
    film(source / "a.mp4", frames=12, rate=2)
    turns = {"conversations": said("What is there?", "It goes on.")}
    write(
        source / "all.json",
        [{"audio": "a.wav", "start": n, "end": n + 1} | turns for n in range(ROWS - 3)]
        + [{"video": "a.mp4", "start": n, "end": n + 2} | turns for n in range(3)],
    )


@pytest.mark.parametrize(
    ("reader", "make"),
    [("webdataset", _webdataset), ("parquet", _tables), ("instructions", _sounds_and_films)],
)
def test_a_dataset_is_built_whole_or_the_disk_is_said_to_be_full(
    reader: str, make: Callable[[Path], None], tmp_path: Path, small_disk: Path
):
    """A full disk at every stage of a build: rows are never lost to it, nor counted as damaged."""
    make(tmp_path / "source")
    full = 0
    for kib in (16, 24, 40, 64, 128, 512, 1000, 1400, 1800, 2200, 20_000):
        resized(small_disk, kib)
        try:
            report = build(reader, tmp_path / "source", small_disk / "out", overwrite=True)
        except DiskFull as error:
            full += 1
            assert "disk/out could not be written" in str(error) and "Make room" in str(error)
            assert list(small_disk.iterdir()) == []
        else:
            assert report.kept_rows == ROWS and not report.dropped
            assert len(list((small_disk / "out/media").rglob("*.*"))) == ROWS
            shutil.rmtree(small_disk / "out")
    assert 5 < full < 11


def test_the_command_ends_with_an_error_on_a_full_disk(tmp_path: Path, small_disk: Path, capsys):
    _webdataset(tmp_path / "source")
    resized(small_disk, 256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building.signal, "signal", lambda *_: None)
        assert (
            cli.main(["data", "webdataset", str(tmp_path / "source"), str(small_disk / "out")]) == 1
        )
    told = capsys.readouterr().err
    assert "error: [Errno 28] No space left on device: " in told and "run again" in told


def test_a_segment_that_cannot_be_written_is_no_damaged_film(tmp_path: Path, small_disk: Path):
    sound(tmp_path / "a.wav", 1, seconds=3)
    film(tmp_path / "a.mp4", frames=12, rate=2)
    (small_disk / "full").write_bytes(b"")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "full").write_bytes(bytes(2 * MIB))
    for kind, name in (("audio", "a.wav"), ("video", "a.mp4")):
        with pytest.raises(DiskFull, match="No space left"):
            segments.cut(kind, tmp_path / name, 0, 2, small_disk / f"cut-{name}")
        (tmp_path / f"cut-{name}").write_bytes((tmp_path / name).read_bytes()[:600])
        with pytest.raises(MediaError):
            segments.cut(kind, tmp_path / f"cut-{name}", 0, 2, tmp_path / f"never-{name}")
    assert [path.name for path in small_disk.iterdir()] == ["full"]


def test_a_manifest_stays_where_the_disk_has_no_room_for_its_ids(small_disk: Path):
    def rows(count: int, size: int) -> Iterator[Row]:
        for n in range(count):
            text = os.urandom(8).hex()
            yield Row(f"{'i' * size}{n}", "s", [{"role": "user", "content": text}])

    out = small_disk / "out"
    assert write_manifest(rows(3, 1), out, "train") == 3
    with pytest.raises(DiskFull, match=r"out/train\.parquet could not be written.*Make room") as e:
        write_manifest(rows(10_000, 6000), out, "train")
    assert isinstance(e.value.__cause__, sqlite3.OperationalError)
    assert len(read_manifest(out, "train")) == 3
    assert [path.name for path in out.iterdir()] == ["train.parquet"]


# --- features and trainings ---


def test_the_index_of_features_stays(small_disk: Path):
    keys = MediaKeys(small_disk / "media.npy")
    keys.add({"media/a.png": "a"})
    with pytest.raises(DiskFull, match=r"media\.npy could not be written"):
        keys.add({f"media/{n}.png": str(n) for n in range(40_000)})
    assert MediaKeys(small_disk / "media.npy").of(["media/a.png"]) == ["a"]


def test_the_curves_of_a_training_say_where_there_is_no_room(small_disk: Path):
    class Alone:
        is_main_process = True

        def log(self, *_, **__) -> None:
            raise AssertionError("nothing was written that could be told")

    log = trackers.Log(small_disk, Alone(), None, 0, 0.0, [])
    with pytest.raises(OSError, match="No space"):
        (small_disk / "full").write_bytes(bytes(2 * MIB))
    with pytest.raises(DiskFull, match=r"metrics\.jsonl could not be written.*Make room"):
        for step in range(1, 6):
            log.add(step, {"text": 1.0}, 0.1, 10, 1.0)


def test_a_checkpoint_that_does_not_reach_the_disk_has_no_name(tmp_path: Path, monkeypatch, model):
    """Some disks say that they are full only when they are told to keep what was written."""
    monkeypatch.setattr(runs, "write_tensors", lambda work, *_: None)

    class Half(checkpoint.TrainingState):
        def __init__(self, step: int):
            self.step, self.model = step, model

    Half(1)._write(checkpoint.place(tmp_path, 1), {"step": 1})

    def full(handle: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        OSError, match=r"step 2: .*quota exceeded; the last good one is .*000001\. "
    ):
        Half(2)._write(checkpoint.place(tmp_path, 2), {"step": 2})
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["000001"]


def test_weights_are_on_the_disk_before_the_last_checkpoint_goes(
    tmp_path: Path, monkeypatch, model
):
    from anytoany_lib.training import finish

    seen: list[tuple[str, bool]] = []
    real = settle

    def settled(path: Path) -> None:
        real(path)
        seen.append((path.name, (tmp_path / "checkpoint").exists()))

    (tmp_path / "checkpoint/000001").mkdir(parents=True)
    monkeypatch.setattr(finish, "settle", settled)
    finish._write_run(tmp_path, model, {"stage": 1}, None)
    made = {path.name for path in tmp_path.iterdir()}
    assert {name for name, _ in seen} == made and made >= {"trainable.safetensors", "run.json"}
    assert all(there for _, there in seen) and json.loads((tmp_path / "run.json").read_text())
