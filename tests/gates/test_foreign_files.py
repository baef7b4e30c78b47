"""Conversations and datasets of somebody hostile: they are read, or refused in words, whatever stands in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_json import variants, write_anew
from PIL import Image

from anytoany_lib.benchmarks import understanding
from anytoany_lib.benchmarks.annotations import Item
from anytoany_lib.chat.session import CONVERSATION, Session
from anytoany_lib.data import building
from anytoany_lib.data.formats import parquet
from anytoany_lib.data.manifests import (
    SCHEMA,
    StoredRow,
    Tally,
    catalogue_of,
    read_manifest,
    write_manifest,
)
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import Row
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.model import AnyToAny


@pytest.fixture(scope="module")
def talk(model: AnyToAny, tmp_path_factory) -> Path:
    """A saved conversation with media in it, and a secret beside it."""
    folder = tmp_path_factory.mktemp("talks")
    tone = np.sin(np.arange(1600) / 8).astype(np.float32) / 2
    session = Session(model, seed=3)
    session.messages = [
        {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (8, 8))}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Listen:"},
                {"type": "audio", "audio": tone, "sampling_rate": 16_000, "caption": "a tone"},
            ],
        },
    ]
    session._attempts = {0: 1}
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    return session.save(folder / "talk")


def _fuzz_talks(talk: Path, model: AnyToAny, count: int) -> int:
    """Reads so many variants; how many were refused."""
    file, refused = talk / CONVERSATION, 0
    whole = file.read_text()
    try:
        for record in variants(json.loads(whole), count):
            write_anew(file, record)
            try:
                Session.load(talk, model)
            except ValueError:
                refused += 1
    finally:
        file.write_text(whole)
    return refused


def test_what_is_no_conversation_is_refused_in_words(talk: Path, model: AnyToAny):
    assert _fuzz_talks(talk, model, 300) > 100
    assert len(Session.load(talk, model).messages) == 2


def test_ten_thousand_conversations_that_are_none_are_refused_in_words(
    tmp_path: Path, model: AnyToAny
):
    """Without media, whose files take longer to open than all else to check; those with media are tested beside."""
    session = Session(model, seed=3)
    session.messages = [
        {"role": "system", "content": [{"type": "text", "text": "Answer."}]},
        {"role": "user", "content": [{"type": "text", "text": "Draw a bell."}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Here:"}, {"type": "image", "caption": "a bell"}],
        },
    ]
    session.sampling = Sampling(steps=2)
    assert _fuzz_talks(session.save(tmp_path / "talk"), model, 10_000) > 3000


@pytest.mark.long
def test_thousands_of_what_is_no_conversation(talk: Path, model: AnyToAny):
    assert _fuzz_talks(talk, model, 10_000) > 3000


@pytest.mark.parametrize(
    "place",
    ["../secret.png", "/etc/passwd", "media/../../secret.png", "..\\secret.png", "link.png"],
)
def test_a_conversation_shows_nothing_from_outside_its_folder(
    place: str, talk: Path, model: AnyToAny
):
    file = talk / CONVERSATION
    whole = file.read_text()
    record = json.loads(whole)
    record["messages"][0]["content"][0]["image"] = place
    (talk / "link.png").symlink_to(talk.parent / "secret.png")
    try:
        file.write_text(json.dumps(record))
        with pytest.raises(ValueError, match="outside the folder"):
            Session.load(talk, model)
    finally:
        file.write_text(whole)
        (talk / "link.png").unlink()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "",
        "null",
        "[]",
        '{"seed": 1e400, "messages": []}',
        '{"seed": 0, "messages": null}',
        '{"seed": 0, "messages": ""}',
    ],
)
def test_json_that_is_no_conversation(text: str, tmp_path: Path, model: AnyToAny):
    (tmp_path / CONVERSATION).write_text(text)
    with pytest.raises(ValueError, match="is not a saved conversation"):
        Session.load(tmp_path, model)


def test_no_reader_of_a_dataset_leaves_its_folder(tmp_path: Path):
    """Whoever names a file by a row, a table's cell, a segment or a benchmark's item: what lies outside is not touched."""
    outside = tmp_path / "secret.mp4"
    media_files.save_video(
        outside, np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8), 4
    )
    inside, target = tmp_path / "a" / "data", tmp_path / "b" / "c" / "target"
    for folder in (inside, target):
        folder.mkdir(parents=True)
    name = "../../secret.mp4"
    assert (inside / name).is_file()
    row = Row(
        "a", "toy", [{"role": "user", "content": [{"type": "video", "video": f"{name}#t=0,1"}]}]
    )
    found = building._examine(row, inside, target)
    assert isinstance(found, MediaError) and found.reason == "outside the folder"
    assert list(target.iterdir()) == []
    talk = [
        {"role": role, "content": [{"type": "text", "text": "a"}]} for role in ("user", "assistant")
    ]
    write_manifest([Row("a", "toy", talk)], inside, "train")
    for opened in (
        lambda: read_manifest(inside).path(name),
        lambda: understanding.located(inside, Item("a", "video", (name,), [])),
    ):
        with pytest.raises(MediaError, match="outside the folder"):
            opened()
    rows = parquet._Unpacked(inside, target, Report(), Path("table.parquet"), 0)
    rows._bring("video", name)
    assert [path for path in (tmp_path / "b").rglob("*") if path.is_file()] == []


def _fuzz_rows(folder: Path, count: int) -> int:
    """Reads the rows of a manifest of so many variants; how many were refused."""
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "media/a.png"},
                {"type": "text", "text": "What?"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "A bell."},
                {"type": "audio", "caption": "a bell"},
            ],
        },
    ]
    meta = {"caption": "a bell", "kind": "image", "expect": [{"kind": "text", "scene": {"a": 1}}]}
    texts = [json.dumps(one) for one in variants(messages, count)]
    metas = [json.dumps(one) for one in variants(meta, count, seed=1)]
    names = [f"r{n}" for n in range(count)]
    columns = [names, ["toy"] * count, texts, metas]
    table = pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA)
    pq.write_table(table, folder / "train.parquet")
    manifest, refused = read_manifest(folder), 0
    for number in range(count):
        try:
            assert manifest[number].id == names[number]
        except ValueError:
            refused += 1
    return refused


def test_ten_thousand_rows_that_are_none_are_refused_in_words(tmp_path: Path):
    assert _fuzz_rows(tmp_path, 10_000) > 3000


def test_notes_of_a_manifest_that_are_damaged_are_none():
    """What stands in a manifest's footer is only believed if it can be what a tally wrote of these rows."""
    tally = Tally()
    tally.add([StoredRow(f"r{n}", "toy", "[]", "{}", n % 2 == 0) for n in range(5)])
    whole = json.loads(json.dumps(tally.notes()))
    assert catalogue_of(whole, 5) is not None and catalogue_of(whole, 6) is None
    found = [catalogue_of(notes, 5) for notes in variants(whole, 2000)]
    assert found.count(None) > 600
    assert all(len(one.of_row) == 5 and max(one.of_row) < len(one.kinds) for one in found if one)


def test_a_row_that_is_nested_beyond_reason(tmp_path: Path):
    columns = [["a"], ["toy"], ["[" * 100_000], ["{}"]]
    table = pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA)
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="damaged JSON"):
        read_manifest(tmp_path)[0]
