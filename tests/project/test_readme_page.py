"""The README is one screen or two: short, its commands exist and run, and every page is two clicks away."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from anytoany_lib import cli
from anytoany_lib.config import Profile

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
WORDS, WORDS_OF_A_READERS_PAGE = 1000, 400
READERS = ("researchers", "students", "contributors", "operators")
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of docs by its name."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shell_blocks(text: str) -> list[list[str]]:
    """The lines of each fenced block without a language, comments and empty lines left out."""
    bodies = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [[line.partition("  #")[0].strip() for line in body.splitlines()] for body in bodies]
    return [[line for line in block if line] for block in lines]


def is_ours(line: str) -> bool:
    """Whether a command line is a make target or an `anytoany` command that exists."""
    program, name, *_ = [*shlex.split(line), ""]
    if program == "make":
        return name in TARGETS
    return Path(program).name == "anytoany" and name in cli.COMMANDS


# --- length ---


def test_the_readme_has_at_most_a_thousand_words():
    assert len(read(README).split()) <= WORDS  # tables, code and marks are counted


@pytest.mark.parametrize("reader", READERS)
def test_a_readers_page_is_short(reader: str):
    assert len(read(DOCS / f"for_{reader}.md").split()) <= WORDS_OF_A_READERS_PAGE


# --- links ---


def linked(page: Path) -> set[Path]:
    """The markdown pages of the repository that a page links to."""
    links = re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", read(page))
    paths = ((page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link))
    return {path for path in paths if path.is_file()}


def test_every_document_is_two_clicks_from_the_readme():
    reached = {README}
    for _ in range(2):
        reached |= {there for page in reached for there in linked(page)}
    assert [page.name for page in DOCS.glob("*.md") if page not in reached] == []


def test_every_readers_page_is_one_click_from_the_readme():
    assert {DOCS / f"for_{reader}.md" for reader in READERS} <= linked(README)


# --- commands ---


def test_every_shell_block_is_of_commands_that_exist():
    blocks = shell_blocks(read(README))
    assert len(blocks) >= 4
    for block in blocks:
        assert any(map(is_ours, block)), block
        others = [line for line in block if not is_ours(line)]
        assert all(line.startswith(("git clone ", "cd ")) for line in others), others


def test_commands_that_do_not_exist_are_seen():
    lines = ["make lab", ".venv/bin/anytoany chat hello", "make tset", "anytoany tarin", "ls"]
    assert list(map(is_ours, lines)) == [True, True, False, False, False]
    assert shell_blocks("```\nmake lab  # why\n\n```\n```python\nx\n```\n") == [["make lab"]]


def test_make_knows_what_to_do_for_every_line():
    lines = [line for block in shell_blocks(read(README)) for line in block if "make " in line]
    for line in lines:
        dry = subprocess.run([*shlex.split(line), "-n"], cwd=REPOSITORY, capture_output=True)
        assert dry.returncode == 0, dry.stderr


def pasted(line: str, folder: Path) -> str:
    """What a line prints that begins with `.venv/bin/anytoany`, run by this Python in a folder."""
    words = shlex.split(line)[1:]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "anytoany_lib", *words]
    ended = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_lines_that_neither_train_nor_fetch_run_as_pasted(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture
):
    lines = [line for block in shell_blocks(read(README)) for line in block]
    (talk,) = [line for line in lines if "anytoany chat" in line]
    (plan,) = [line for line in lines if "anytoany memory" in line]
    # The newest run may be one that somebody trained a moment ago: here it is the one that ships.
    assert "bell" in pasted(f"{talk} --run ckpt/tiny/run", tmp_path)
    saved = {path.name for path in (tmp_path / "out/chat").iterdir()}
    assert saved == {"image-1.png", "image-1-as-made.png"}
    assert cli.main(shlex.split(plan)[1:]) == 0
    assert "all phases fit a card of 16 GB" in capsys.readouterr().out


# --- what the scripts write ---


def test_the_recorded_chat_is_shown_once_there_is_one(script, monkeypatch, tmp_path: Path):
    start = script("readme_start")
    monkeypatch.setattr(start, "ROOT", tmp_path)
    assert start.DRAWING in start.picture() and (REPOSITORY / start.DRAWING).is_file()
    (tmp_path / start.CHAT).parent.mkdir(parents=True)
    (tmp_path / start.CHAT).write_bytes(b"GIF89a")
    assert start.CHAT in start.picture() and start.DRAWING not in start.picture()


def test_the_address_is_that_of_pyproject(script, monkeypatch, tmp_path: Path):
    start = script("readme_start")
    monkeypatch.setattr(script("make_address"), "REPOSITORY", tmp_path)
    settings = tmp_path / "pyproject.toml"
    settings.write_text('[project]\nname = "anytoany"\n')
    assert "git clone URL anytoany" in start.start()
    settings.write_text('[project.urls]\nRepository = "https://example.org/a/anytoany"\n')
    assert "git clone https://example.org/a/anytoany anytoany\n" in start.start()


def test_minutes_are_those_of_fresh_machines_and_not_said_without(script, monkeypatch, tmp_path):
    start, results = script("readme_start"), script("readme_results")
    monkeypatch.setattr(results, "DEMO", tmp_path)
    assert "minutes" not in start.paths() and "took" not in start.start()
    of = {"3.11": {"make lab": {"seconds": 93}}, "3.13": {"make lab": {"seconds": 121}}}
    (tmp_path / results.FRESH).write_text(json.dumps({"python": of}), encoding="utf-8")
    assert "Talk to it now: 3 minutes." in start.paths() and "a laptop.**" in start.paths()
    assert "took 1 min 33 s to 2 min 01 s" in start.start()


def test_links_are_written_as_from_the_page_they_stand_on(script, monkeypatch):
    make = script("make_readme")
    text = (
        "[a](docs/README.md#what-is-where) [b](LICENSE) [c](https://example.org/x) [d](#here)\n"
        '<img src="docs/demo/examples.png"> <a href="ckpt/README.md">'
    )
    for page in ("README.md", "docs/peers.md"):
        monkeypatch.setitem(make.PAGES, page, {"x": lambda: text})
    assert text in make.part("README.md", "x")
    moved = make.part("docs/peers.md", "x")
    assert (
        "[a](README.md#what-is-where) [b](../LICENSE) [c](https://example.org/x) [d](#here)"
        in moved
    )
    assert '<img src="demo/examples.png"> <a href="../ckpt/README.md">' in moved


def test_the_short_conversation_has_every_kind_that_the_whole_one_has(script):
    conversation = script("readme_conversation")
    short, whole = conversation.short(), conversation.table()
    for shown in ("image", "audio", "video"):
        for by in ("shown to the model", "made by the model"):
            assert (f"{shown} {by}" in short) == (f"{shown} {by}" in whole)
    assert short.count("\n| ") <= whole.count("\n| ")


@pytest.fixture
def metrics(script, monkeypatch, tmp_path: Path) -> dict:
    """The shipped run's metrics with an edit, a task without rates, known answers and an author, in their place."""
    results = script("readme_results")
    found = results.shipped_metrics()
    found["more"] |= {
        "edit": {"n": 24, "modality": 1.0, "asked": 0.875, "kept": 0.75, "colour": 0.9},
        "plain": {"n": 15, "modality": 1.0},
        "known answers": {"n": 200, "modality": 0.99, "answers": 0.71},
    }
    found["baselines"]["known answers"] = {"untouched": {"n": 200, "modality": 1, "answers": 0.74}}
    found["authors"] = {
        "author_05": {
            "n": 40,
            "modality": 0.975,
            "right": 0.9,
            "cells": {
                "text->image": {"n": 30, "modality": 1.0, "right": 1.0},
                "yes or no": {"n": 10, "modality": 0.9, "right": 0.6},
            },
        }
    }
    (tmp_path / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    (tmp_path / "run.json").write_text(json.dumps({"steps": 10}), encoding="utf-8")
    monkeypatch.setattr(results, "SHIPPED", tmp_path)
    return found


def test_what_is_measured_beyond_the_matrix_is_shown(script, metrics: dict):
    lines = script("readme_results").shipped().splitlines()
    assert "| edit | 24 | 100 | asked 88, kept 75, colour 90 |" in lines
    assert "| plain | 15 | 100 | – |" in lines
    before = "untouched language model: answers 74"
    assert f"| known answers | 200 | 99 | answers 71 ({before}) |" in lines
    assert "| author 05 | 40 | 98 | 90 | yes or no (60 of 10) |" in lines


def test_the_small_matrix_has_the_lowest_rate_of_each_direction(script, metrics: dict):
    results = script("readme_results")
    cell = {"n": 24, "modality": 0.1, "unseen_pairs": 0.2, "thing": 1.0, "count": 0.86}
    metrics["matrix"]["video->audio"] = cell
    (results.SHIPPED / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (row,) = [line for line in results.matrix().splitlines() if line.startswith("| **video**")]
    assert row.split(" | ")[3] == "86"


def test_records_without_authors_or_several_media_have_no_such_tables(script, metrics: dict):
    results = script("readme_results")
    old = {name: of for name, of in metrics.items() if name not in ("authors", "combinations")}
    (results.SHIPPED / "metrics.json").write_text(json.dumps(old), encoding="utf-8")
    assert "worded by" not in results.shipped() and "several media" not in results.shipped()


def test_every_system_answers_every_question_and_says_when_it_was_read(script):
    peers = script("readme_peers")
    record = peers.yaml.safe_load(read(peers.PEERS))
    systems = record["systems"]
    assert sorted(name for names in record["groups"].values() for name in names) == sorted(systems)
    for name, system in systems.items():
        assert record["rows"].keys() <= system.keys(), name
        assert name == "anytoany" or {"repository", "commit", "date", "checked"} <= system.keys()
    ours = [answer[1] for answer in systems["anytoany"].values() if isinstance(answer, list)]
    assert [path for path in ours if not (REPOSITORY / path).exists()] == []


def test_of_the_records_of_a_bench_the_newest_is_taken_then_the_larger_machine(
    script, monkeypatch, tmp_path: Path
):
    measured = script("readme_measured")
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    for name, date, machine in (
        ("a", "2026-11-24", "Intel(R) Xeon(R) Processor x1"),
        ("b", "2026-11-24", "AMD EPYC x2"),
        ("c", "2026-11-20", "AMD EPYC x64"),
    ):
        record = {"date": date, "machine": machine}
        (tmp_path / f"chat-{name}.json").write_text(json.dumps(record), encoding="utf-8")
    assert measured.newest("chat")["machine"] == "AMD EPYC x2"
