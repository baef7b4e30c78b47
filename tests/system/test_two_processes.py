"""Two processes that meet in one folder, kills between two names, and checkpoints that are cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from anytoany_lib.chat import export
from anytoany_lib.chat.session import Session
from anytoany_lib.evaluation import stored_replies
from anytoany_lib.system import files, runs
from anytoany_lib.system.files import Busy, appearing_whole, held
from anytoany_lib.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def another(code: str) -> Iterator[subprocess.Popen]:
    """A process that runs this code and then waits for its end, begun when it has printed a line."""
    whole = f"from pathlib import Path\nfrom anytoany_lib.system.files import *\n{code}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", whole], stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        assert process.stdout and process.stdout.readline() == "there\n"
        yield process
    finally:
        process.kill()
        process.wait()


WRITING = """
with appearing_whole(Path({0!r})) as work:
    (work / "theirs").write_text("half")
    print("there", flush=True); input()
"""
HOLDING = """
with held(Path({0!r}), "trains in it"):
    print("there", flush=True); import time; time.sleep(600)
"""


def test_two_builds_of_one_folder_and_the_second_names_the_first(tmp_path: Path):
    out = tmp_path / "out"
    code = WRITING.format(str(out)).replace("input()", "import time; time.sleep(600)")
    with another(code) as other:
        with (
            pytest.raises(Busy, match=rf"process {other.pid} \(.*\) writes .*out"),
            appearing_whole(out),
        ):
            pass
        assert (tmp_path / ".out.part" / "theirs").exists()
    with appearing_whole(out) as work:  # who was killed holds nothing, and leaves nothing
        assert list(work.iterdir()) == []
        (work / "ours").write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and [p.name for p in out.iterdir()] == [
        "ours"
    ]


def test_a_training_in_a_run_that_another_trains_in_is_refused(tmp_path: Path):
    with (
        another(HOLDING.format(str(tmp_path))) as other,
        pytest.raises(Busy, match=f"process {other.pid} .*trains in it.*another folder"),
        held(tmp_path, "trains in it"),
    ):
        pass
    with held(tmp_path, "trains in it"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_train_and_evaluate_hold_the_run_folder():
    """Where the gates stand: taken out, two trainings of one run would overwrite each other in silence."""
    for module, line in (
        ("train.py", 'held(job.run, "trains in it")'),
        ("evaluation/matrix.py", "held(run, "),
    ):
        assert line in (ROOT / "anytoany_lib" / module).read_text()


def test_conversations_of_one_minute_are_kept_apart():
    assert len({export.new_folder() for _ in range(20)}) == 20


def test_a_reader_in_another_process_never_finds_nothing(tmp_path: Path):
    """Old and new change places at once: there is no moment in which the folder is not there."""
    out = tmp_path / "out"
    with appearing_whole(out) as work:
        (work / "n").write_text("0")
    code = f"""
print("there", flush=True)
missing = 0
for _ in range(20000):
    missing += not Path({str(out / "n")!r}).exists()
print(missing, flush=True)
"""
    with another(code) as other:
        for n in range(200):
            with appearing_whole(out) as work:
                (work / "n").write_text(str(n))
        assert other.stdout and other.stdout.readline() == "0\n"


def test_a_kill_between_two_names_is_mended_by_who_reads_or_writes_next(tmp_path: Path, model):
    record = (ROOT / "ckpt" / "tiny" / "run" / "run.json").read_text()
    (tmp_path / ".run.old").mkdir()
    (tmp_path / ".run.old" / "run.json").write_text(record)
    assert runs.read_record(tmp_path / "run")["stage"] == 3
    session = Session(model)
    saved = session.save(tmp_path / "talk")
    saved.rename(tmp_path / ".talk.old")
    assert Session.load(tmp_path / "talk", model).messages == []
    (tmp_path / "talk").rename(tmp_path / ".talk.old")
    with pytest.raises(OSError, match="stopped"), appearing_whole(tmp_path / "talk"):
        raise OSError("stopped")
    assert (tmp_path / "talk" / "messages.json").is_file()


def test_without_an_exchange_of_names_two_renames_do(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    for n in range(2):
        with appearing_whole(tmp_path / "out") as work:
            (work / "n").write_text(str(n))
    assert (tmp_path / "out" / "n").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def standing(folder: Path, step: int) -> Path:
    """A checkpoint's folder."""
    made = checkpoint.place(folder, step)
    made.mkdir(parents=True)
    torch.save({"record": {}, "step": step}, made / "state.pt")
    return made


def test_a_cut_state_names_itself_and_the_checkpoint_before(tmp_path: Path):
    before, last = standing(tmp_path, 100), standing(tmp_path, 200)
    whole = (last / "state.pt").read_bytes()
    for cut in (b"", whole[:10], whole[: len(whole) // 2], b"no checkpoint" * 50):
        (last / "state.pt").write_bytes(cut)
        with pytest.raises(
            ValueError, match=rf"{last / 'state.pt'} is cut or damaged.*go on from {before}"
        ):
            checkpoint._read_state(last)
    assert checkpoint._read_state(before)["step"] == 100


def test_the_checkpoint_before_stays_and_the_new_one_is_on_the_disk_first(
    tmp_path: Path, monkeypatch, model
):
    seen: list[tuple[str, int]] = []
    real = files.settle

    def settled(folder: Path) -> None:
        real(folder)
        seen.append((folder.name, len(list(folder.parent.glob("[0-9]*")))))

    monkeypatch.setattr(checkpoint, "settle", settled)
    monkeypatch.setattr(runs, "write_tensors", lambda work, *_: (work / "x").write_text("x"))

    class Half(checkpoint.TrainingState):
        def __init__(self):
            self.step, self.model = 0, model

    half = Half()
    for half.step in (1, 2, 3, 4):
        half._write(checkpoint.place(tmp_path, half.step), {"step": half.step})
    assert [p.name for p in sorted((tmp_path / "checkpoint").iterdir())] == ["000003", "000004"]
    named, unnamed = seen[1::2], seen[::2]  # once before it has its name, and once with it
    assert named == [("000001", 1), ("000002", 2), ("000003", 3), ("000004", 3)]
    assert unnamed == [(f".{name}.part", there - 1) for name, there in named]


def test_replies_of_a_run_that_cannot_be_written_are_kept_elsewhere(tmp_path: Path):
    with stored_replies.replies_folder(tmp_path) as place:
        assert place == tmp_path / ".evaluation"
    tmp_path.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:  # to whom every folder is open
            os.seteuid(65534)
        with stored_replies.replies_folder(tmp_path) as place:
            assert not place.is_relative_to(tmp_path)
            stored_replies.open_folder(place, {"a": "b"})
            assert json.loads((place / "key.json").read_text()) == {"a": "b"}
    finally:
        if user == 0:
            os.seteuid(0)
        tmp_path.chmod(0o755)
    assert not place.exists()


def test_conversations_are_for_their_owner_alone(tmp_path: Path, model):
    session = Session(model)
    folder = session.save(tmp_path / "talk")
    page = export.write_page([{"role": "user", "content": "Hello"}], tmp_path / "page.html")
    assert [oct(p.stat().st_mode & 0o777) for p in (folder, folder / "messages.json", page)] == [
        "0o700",
        "0o600",
        "0o600",
    ]
