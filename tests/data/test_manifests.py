"""Manifests of any size: what a build keeps on disk, what a file's footer says of its rows, and JSON read in pieces."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anytoany_lib.data.building import build
from anytoany_lib.data.formats import json_files
from anytoany_lib.data.formats.json_files import json_records
from anytoany_lib.data.ledger import DiskSet, Splits
from anytoany_lib.data.manifests import (
    GROUP_ROWS,
    SCHEMA,
    dataset_fingerprint,
    read_manifest,
    splits_in,
    write_manifest,
)
from anytoany_lib.data.rows import DataError, Row


def talk(number: int, source: str = "talks", **meta) -> Row:
    said = [
        {"role": "user", "content": f"{number}?"},
        {"role": "assistant", "content": "größer 🔔"},
    ]
    return Row(f"{source}-{number}", source, said, meta)


def mixed(count: int) -> list[Row]:
    """Talks of two sources and captioned rows of a third."""
    return [
        talk(n, ("talks", "more", "cc3m")[n % 3], **({"caption": "a bell"} if n % 3 == 2 else {}))
        for n in range(count)
    ]


def test_a_set_on_disk_knows_its_keys(tmp_path: Path):
    rng = np.random.default_rng(0)
    keys = [str(n) for n in rng.integers(0, 500, 2000)] + [bytes([n % 7]) for n in range(20)]
    met: set[str | bytes] = set()
    with DiskSet(tmp_path / "keys") as keys_met:
        for key in keys:
            assert keys_met.add(key) == (key not in met)
            met.add(key)


def drawn(media: list[tuple[str, str]], path: Path, seed: int, *parts: float) -> list[str]:
    with Splits(path, seed) as splits:
        places = [splits.add(*medium) for medium in media]
        splits.choose(*parts)
        return [splits.of(*place) for place in places]


def test_splits_take_their_part_of_every_source_and_keep_equal_content_together(tmp_path: Path):
    media = [("large", f"a{n}") for n in range(200)] + [("small", f"b{n}") for n in range(3)]
    media += [("two", "c0"), ("two", "c1"), ("one", "d")]
    media += [("late", f"a{n}") for n in range(100)] + [("late", "e0"), ("late", "e1")]
    chosen = drawn(media, tmp_path / "a", 1, 0.1, 0.05)
    counts = {
        source: Counter(split for (s, _), split in zip(media, chosen, strict=True) if s == source)
        for source, _ in media
    }
    assert counts["large"] == {"train": 170, "validation": 20, "test": 10}
    assert counts["small"] == {"train": 1, "validation": 1, "test": 1}
    assert counts["two"] == {"train": 1, "validation": 1} and counts["one"] == {"train": 1}
    of_content: dict[str, set[str]] = {}
    for (_, content), split in zip(media, chosen, strict=True):
        of_content.setdefault(content, set()).add(split)
    assert all(len(found) == 1 for found in of_content.values())
    assert {split for (_, c), split in zip(media, chosen, strict=True) if c[0] == "e"} == {
        "train",
        "validation",
    }
    assert drawn(media, tmp_path / "b", 1, 0.1, 0.05) == chosen
    assert drawn(media, tmp_path / "c", 2, 0.1, 0.05) != chosen
    # A medium's split depends on its source's media alone, not on their order or on other sources.
    again = dict(
        zip(media[199::-1], drawn(media[199::-1], tmp_path / "d", 1, 0.1, 0.05), strict=True)
    )
    assert [again[medium] for medium in media[:200]] == chosen[:200]
    assert set(drawn(media, tmp_path / "e", 1, 0, 0)) == {"train"}


def test_the_footer_tells_what_the_rows_are(tmp_path: Path):
    rows = mixed(2 * GROUP_ROWS + 5)
    write_manifest(rows, tmp_path, "train")
    catalogue = read_manifest(tmp_path).catalogue
    told = [catalogue.kinds[number] for number in catalogue.of_row]
    assert told == [(row.source, "caption" in row.meta) for row in rows]
    assert catalogue.sources() == ["cc3m", "more", "talks"]
    captioned = catalogue.rows_where([with_caption for _, with_caption in catalogue.kinds])
    assert captioned.tolist() == list(range(2, len(rows), 3))


def test_the_fingerprint_names_rows_order_and_splits(tmp_path: Path):
    rows = mixed(30)

    def fingerprint(name: str, train: list[Row], validation: list[Row]) -> str:
        write_manifest(train, tmp_path / name, "train")
        write_manifest(validation, tmp_path / name, "validation")
        return dataset_fingerprint(tmp_path / name)

    first = fingerprint("a", rows[:20], rows[20:])
    assert first == fingerprint("b", iter(rows[:20]), rows[20:]) and len(first) == 16
    changed = [*rows[:19], Row(rows[19].id, rows[19].source, rows[19].messages, {"n": 1})]
    others = [
        fingerprint("c", changed, rows[20:]),
        fingerprint("d", rows[19::-1], rows[20:]),
        fingerprint("e", rows[:21], rows[21:]),
        fingerprint("f", rows[20:], rows[:20]),
    ]
    assert len({first, *others}) == 5


def test_a_manifest_from_before_opens_and_is_told_apart_by_its_rows(tmp_path: Path):
    rows = mixed(GROUP_ROWS + 40)
    write_manifest(rows, tmp_path / "new", "train")
    texts = pq.read_table(tmp_path / "new/train.parquet").replace_schema_metadata(None)
    (tmp_path / "old").mkdir()
    pq.write_table(texts, tmp_path / "old/train.parquet", row_group_size=100)
    new, old = read_manifest(tmp_path / "new"), read_manifest(tmp_path / "old")
    assert list(old) == rows
    assert (
        old.catalogue.kinds == new.catalogue.kinds and old.catalogue.digest == new.catalogue.digest
    )
    assert (old.catalogue.of_row == new.catalogue.of_row).all()
    assert dataset_fingerprint(tmp_path / "old") == dataset_fingerprint(tmp_path / "new")


@pytest.mark.parametrize("change", ["fewer", "other"])
def test_notes_that_were_copied_with_other_rows_do_not_count(tmp_path: Path, change: str):
    rows = mixed(60)
    write_manifest(rows, tmp_path / "a", "train")
    file = pq.ParquetFile(tmp_path / "a/train.parquet")
    notes = {b"anytoany": file.metadata.metadata[b"anytoany"]}
    table = file.read().replace_schema_metadata(notes)
    if change == "fewer":
        other = table.slice(30)
    else:
        texts = [text.replace("bell", "drum and a bell") for text in table["meta"].to_pylist()]
        other = table.set_column(3, "meta", pa.array(texts))
    (tmp_path / "b").mkdir()
    pq.write_table(other, tmp_path / "b/train.parquet", compression="zstd")
    assert pq.read_metadata(tmp_path / "b/train.parquet").metadata.items() >= notes.items()
    assert len(read_manifest(tmp_path / "b").catalogue.of_row) == other.num_rows
    assert dataset_fingerprint(tmp_path / "b") != dataset_fingerprint(tmp_path / "a")


def test_a_file_with_holes_is_refused_with_the_place(tmp_path: Path):
    for name, meta in (("none", None), ("cut", '{"caption')):
        (tmp_path / name).mkdir()
        texts = {"id": ["a", "b"], "source": ["s", "s"], "messages": ["[]", "[]"]}
        table = pa.table(texts | {"meta": ["{}", meta]}, SCHEMA)
        pq.write_table(table, tmp_path / name / "train.parquet")
    with pytest.raises(DataError, match=r"row 1: expected four texts"):
        dataset_fingerprint(tmp_path / "none")
    with pytest.raises(DataError, match=r"row 1: damaged JSON"):
        dataset_fingerprint(tmp_path / "cut")


def test_talks_become_a_dataset_with_every_row_in_one_split(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    asked = [{"instruction": f"Tell me of {n}.", "output": "Well."} for n in range(3000)]
    (source / "lines.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (source / "array.json").write_text(json.dumps([*asked[:10], asked[0] | {"output": "No."}]))
    report = build("instructions", source, tmp_path / "out", seed=3)
    # `array` comes first by name, so it is the lines that say the same again.
    assert (report.kept_rows, dict(report.dropped)) == (3001, {"duplicate": 10})
    rows = [
        r for split in splits_in(tmp_path / "out") for r in read_manifest(tmp_path / "out", split)
    ]
    assert len({row.id for row in rows}) == 3001
    assert Counter(row.source for row in rows) == {"array": 11, "lines": 2990}
    held = read_manifest(tmp_path / "out", "test")
    assert Counter(row.source for row in held) == {"array": 1, "lines": 150}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "report.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


VALUES = [{"a": [1, -2.5e-3, "x]y}"], "é🔔": None}, 12345, -1.5e10, '\\" \u2028', [], True, {}]


@pytest.mark.parametrize("form", ["array", "lines"])
@pytest.mark.parametrize("chunk", range(1, 9))
def test_json_is_read_the_same_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, chunk: int
):
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    texts = [json.dumps(value, ensure_ascii=False) for value in VALUES]
    text = " [ " + " ,\r\n".join(texts) + " ] \n" if form == "array" else "\n\n".join(texts) + "\n"
    (tmp_path / "a.json").write_text("\ufeff" + text, encoding="utf-8")
    assert list(json_records(tmp_path / "a.json")) == VALUES


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b'[{"a": 1},\n {"a": "cut', "line 2, character 18 of 22"),
        (b'{"a": 1}\n\n{"a": 1e}\n', "line 3, character"),
        (b"[1, 2", "line 1, character 5 of 5"),
        (b"[1] 2", "character 4.*: text after the closing"),
        ("é\xa0".encode() + b"\xc3", "not UTF-8 text at byte 4"),
    ],
)
def test_damage_is_placed_in_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, place: str
):
    (tmp_path / "a.json").write_bytes(text)
    for chunk in (3, 2**20):
        monkeypatch.setattr(json_files, "_CHUNK", chunk)
        with pytest.raises(DataError, match=place):
            list(json_records(tmp_path / "a.json"))


def test_damage_early_in_a_large_file_does_not_bring_it_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(json_files, "_LONGEST_VALUE", 1000)
    monkeypatch.setattr(json_files, "_CHUNK", 100)
    (tmp_path / "a.json").write_text('[{"n": 1},\n {"n": 2, "cut: 3},\n' + "4, " * 50_000)
    rows = json_records(tmp_path / "a.json")
    assert list(islice(rows, 1)) == [{"n": 1}]
    with pytest.raises(DataError, match=r"line 2, character \d\d: "):
        next(rows)
