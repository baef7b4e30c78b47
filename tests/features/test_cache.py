"""The cache of rows: what it gives back, what it refuses, and what a full disk or a damaged shard does to it."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from anytoany_lib.features import cache
from anytoany_lib.features.cache import FeatureCache

ROWS = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float16)


def filled(folder: Path, numbers, embed=lambda batch: ROWS[batch]) -> FeatureCache:
    """The cache in a folder, with these rows of ROWS under the keys k0, k1, ..."""
    there = FeatureCache(folder, "model", (3,))
    there.fill([(f"k{n}", n) for n in numbers], embed, "rows")
    return there


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_cache_gives_back_what_was_put_in_and_computes_nothing_twice(tmp_path: Path):
    calls = []

    def embed(batch):
        calls.append(len(batch))
        return ROWS[batch]

    assert len(filled(tmp_path, range(20), embed)) == 20
    assert len(filled(tmp_path, range(300), embed)) == 300
    assert sum(calls) == 300 and max(calls) == cache.BATCH
    order = [299, 0, 21, 5, 5, 19, 20]
    reopened = FeatureCache(tmp_path, "model", (3,))
    found = reopened.get([f"k{n}" for n in order])
    np.testing.assert_array_equal(found, ROWS[order].astype(np.float32))
    assert found.dtype == np.float32 and "k7" in reopened and "k300" not in reopened
    assert reopened.get([]).shape == (0, 3)


def test_items_are_prepared_ahead_and_stay_in_order(tmp_path: Path):
    there = FeatureCache(tmp_path, "model", (3,))
    items = [(f"k{n}", n) for n in range(100)]
    there.fill(items, np.stack, "rows", prepare=lambda number: ROWS[number])
    np.testing.assert_array_equal(there.get(["k3", "k99"]), ROWS[[3, 99]].astype(np.float32))


def test_an_item_that_cannot_be_read_costs_nothing_that_was_computed_before(tmp_path: Path):
    def prepare(number: int) -> np.ndarray:
        if number == 70:
            raise OSError("k70 is damaged")
        return ROWS[number]

    items = [(f"k{n}", n) for n in range(100)]
    with pytest.raises(OSError, match="k70 is damaged"):
        FeatureCache(tmp_path, "model", (3,)).fill(items, np.stack, "rows", prepare)
    assert len(FeatureCache(tmp_path, "model", (3,))) == 2 * cache.BATCH


def test_shards_are_the_same_however_the_work_was_broken_up(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cache, "_SHARD_BYTES", 100 * 3 * 2)
    filled(tmp_path / "whole", range(300))
    assert sorted(bytes_in(tmp_path / "whole")) == [
        *(f"0000{n}.{end}" for n in range(3) for end in ("keys", "npy")),
        "cache.json",
    ]

    def stops(left):
        def embed(batch):
            if not left.pop():
                raise KeyboardInterrupt
            return ROWS[batch]

        return embed

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            there = FeatureCache(tmp_path / "broken", "model", (3,))
            items = [(f"k{n}", n) for n in range(300)]
            there.fill(items, stops([False, True, True]), "rows", save_every=0)
    assert len(FeatureCache(tmp_path / "broken", "model", (3,))) == 3 * 2 * cache.BATCH
    filled(tmp_path / "broken", range(300))
    assert bytes_in(tmp_path / "broken") == bytes_in(tmp_path / "whole")


def test_a_merge_that_was_killed_is_finished_by_the_next_fill_of_its_items(
    tmp_path: Path, monkeypatch
):
    filled(tmp_path / "whole", range(300))
    monkeypatch.setattr(cache, "_SHARD_BYTES", 100 * 3 * 2)
    real, written = FeatureCache._write, []

    def dies(self, path, keys, blocks):
        written.append(path.name)
        if path.name == "00001":
            raise KeyboardInterrupt
        real(self, path, keys, blocks)

    monkeypatch.setattr(FeatureCache, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "broken", range(300))
    monkeypatch.setattr(FeatureCache, "_write", real)
    assert (tmp_path / "broken/00000.keys").is_file() and (tmp_path / "broken/parts").is_dir()
    names = [f"k{n}" for n in range(300)]
    for look in (
        lambda folder: FeatureCache(folder, "model", (3,)),
        lambda folder: filled(folder, []),
    ):
        there = look(tmp_path / "broken")
        assert len(there) == 300
        np.testing.assert_array_equal(there.get(names), ROWS.astype(np.float32))
        assert (tmp_path / "broken/parts").is_dir()  # it waits for its own items
    there = filled(tmp_path / "broken", range(300))
    np.testing.assert_array_equal(there.get(names), ROWS.astype(np.float32))
    assert not (tmp_path / "broken/parts").exists()


def test_a_shard_without_its_keys_was_never_written(tmp_path: Path):
    filled(tmp_path, [0])
    np.save(tmp_path / "00001.npy", np.zeros((5, 3), np.float16))  # killed before the keys
    assert len(FeatureCache(tmp_path, "model", (3,))) == 1
    filled(tmp_path, [1])
    there = FeatureCache(tmp_path, "model", (3,))
    np.testing.assert_array_equal(there.get(["k0", "k1"]), ROWS[:2].astype(np.float32))


def test_a_cache_of_another_model_is_refused(tmp_path: Path):
    filled(tmp_path, [0])
    with pytest.raises(
        ValueError, match=r"made by another model.*\[5\].*\[3\].*with anytoany features"
    ):
        FeatureCache(tmp_path, "model", (5,))
    with pytest.raises(ValueError, match="'two'"):
        FeatureCache(tmp_path, "two", (3,))


@pytest.mark.parametrize("damage", ["deleted", "truncated", "empty", "keys cut"])
def test_a_damaged_shard_is_named_and_made_anew(tmp_path: Path, damage: str):
    filled(tmp_path, range(50))
    whole = bytes_in(tmp_path)
    shard, keys = tmp_path / "00000.npy", tmp_path / "00000.keys"
    if damage == "deleted":
        shard.unlink()
    elif damage == "keys cut":
        keys.write_text("\n".join(keys.read_text().split()[:9]))
    else:
        shard.write_bytes(shard.read_bytes()[: 200 if damage == "truncated" else 0])
    with pytest.raises(ValueError, match=r"00000.npy: expected .*\d+, 3.*make it rebuilds it"):
        FeatureCache(tmp_path, "model", (3,), rebuild="make it")
    there = FeatureCache(tmp_path, "model", (3,), repair=True)
    assert len(there) == 0
    there.fill([(f"k{n}", n) for n in range(50)], lambda batch: ROWS[batch], "rows")
    assert bytes_in(tmp_path) == whole


def test_rows_of_a_shard_that_is_gone_are_missed_by_name(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cache, "_SHARD_BYTES", 30 * 3 * 2)
    filled(tmp_path, range(90))
    for end in ("npy", "keys"):
        (tmp_path / f"00001.{end}").unlink()
    there = FeatureCache(tmp_path, "model", (3,), rebuild="make it")
    with pytest.raises(KeyError, match="no row k40.*run make it again"):
        there.get(["k1", "k40"])
    filled(tmp_path, range(90))
    there = FeatureCache(tmp_path, "model", (3,))
    names = [f"k{n}" for n in range(90)]
    np.testing.assert_array_equal(there.get(names), ROWS[:90].astype(np.float32))


def test_a_full_disk_leaves_the_cache_as_it_was(tmp_path: Path):
    filled(tmp_path, range(10))
    before, limits = bytes_in(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))  # no file may grow beyond
    try:
        with pytest.raises(
            OSError, match=r"npy takes 0.0 MiB; nothing that was there is lost.*run"
        ):
            filled(tmp_path, range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: held for name, held in bytes_in(tmp_path).items() if held} == before
    assert len(filled(tmp_path, range(300))) == 300


def test_rows_that_fp16_cannot_hold_are_refused(tmp_path: Path):
    there = FeatureCache(tmp_path, "model", (3,))
    for wrong in (np.nan, 1e6):
        with pytest.raises(ValueError, match="not finite in fp16"):
            there.fill([("a", 0)], lambda batch, wrong=wrong: np.full((1, 3), wrong), "rows")
