"""Files that appear whole or not at all, and what one process at a time may do; tables for the terminal."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from anytoany_lib.system import terminal
from anytoany_lib.system.files import alone, appearing_file, appearing_whole, read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
HOLDING = """
import sys
from pathlib import Path
from anytoany_lib.system.files import alone

with alone(Path(sys.argv[1]), "holds it"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "run"
    with appearing_whole(target) as work:
        (work / "a").write_text("first")
    with pytest.raises(OSError, match="no space"), appearing_whole(target) as work:
        (work / "a").write_text("second")
        raise OSError("no space left on device")
    assert (target / "a").read_text() == "first"
    with appearing_whole(target) as work:
        (work / "b").write_text("third")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_process_left_of_a_folder_is_not_taken_for_its_contents(tmp_path: Path):
    target = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), appearing_whole(target) as work:
        (work / "half").write_text("")
        raise KeyboardInterrupt
    work.mkdir()
    (work / "half").write_text("")  # as after SIGKILL
    with appearing_whole(target) as work:
        (work / "whole").write_text("")
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "log.json"
    write_json(target, {"steps": [1, 2]})
    with pytest.raises(OSError, match="no space"), appearing_file(target) as beside:
        beside.write_text("{")
        raise OSError("no space left on device")
    assert read_json(target) == {"steps": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["log.json"]


def test_a_file_that_is_no_json_is_named(tmp_path: Path):
    (tmp_path / "cut.json").write_text('{"a":')
    with pytest.raises(ValueError, match=r"cut\.json: .*char 5"):
        read_json(tmp_path / "cut.json")


def test_whoever_comes_second_says_so_and_waits(tmp_path: Path, capsys: pytest.CaptureFixture):
    lock = tmp_path / "deep" / "a.lock"
    command = [sys.executable, "-c", HOLDING, str(lock)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        started = time.monotonic()
        threading.Timer(0.5, other.stdin.close).start()
        with alone(lock, "writes the same folder"):
            waited = time.monotonic() - started
    assert waited >= 0.5
    assert "another process writes the same folder; waiting" in capsys.readouterr().err
    with alone(lock, "writes the same folder"):
        assert capsys.readouterr().err == "", "it was given up"


def test_numbers_stand_on_the_right_of_a_table_and_words_on_the_left():
    rows = [
        {"model": "llm", "gigabytes": 0.27, "from": "a wheel"},
        {"model": "encoder", "gigabytes": 12, "from": None},
        {"model": "image", "gigabytes": None, "from": ""},
    ]
    assert terminal.table(rows).splitlines() == [
        "model    gigabytes  from",
        "llm           0.27  a wheel",
        "encoder         12  –",
        "image            –",
    ]
    assert terminal.table([]) == "no rows"
