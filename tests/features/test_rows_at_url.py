"""Feature shards that stay at their URL: the same rows, one round of requests a batch, bounded memory, told when they change."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
from resuming import shallow, weights, with_stage

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.features import cache, rows_at_url
from anytoany_lib.features.cache import FeatureCache
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.rows_at_url import is_shard
from anytoany_lib.system import remote

REPOSITORY = Path(__file__).resolve().parents[2]
STORE = fsspec.filesystem("memory")
URL, SHAPE, ROWS = "memory://bucket/toy", (3, 4), 20
KEYS = [f"{number:032d}" for number in range(ROWS)]
VALUES = np.random.default_rng(0).standard_normal((ROWS, *SHAPE)).astype(np.float16)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mirrors below a folder of the test's own."""
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path / "here"))
    yield tmp_path
    if STORE.exists("/bucket"):
        STORE.rm("/bucket", recursive=True)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ranges each round of requests asked for."""
    rounds: list[int] = []
    own = type(STORE).cat_ranges

    def counted(self, paths, starts, ends, **options):
        rounds.append(len(paths))
        return own(self, paths, starts, ends, **options)

    monkeypatch.setattr(type(STORE), "cat_ranges", counted)
    return rounds


def opened(folder: Path) -> FeatureCache:
    return FeatureCache(folder / "features" / "encoder", "f", SHAPE)


@pytest.fixture
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mirror of a cache of three shards that stayed at the URL."""
    monkeypatch.setattr(cache, "_SHARD_BYTES", 8 * 2 * 12)
    filled = opened(home / "made")
    filled.fill(zip(KEYS, VALUES, strict=True), np.stack, "rows")
    remote.upload(home / "made", URL)
    return remote.local(URL, leave=is_shard)


def test_rows_are_those_of_the_shards_and_stay_where_they_are(there: Path, requests: list[int]):
    assert not list(there.rglob("*.npy")) and len(list(there.rglob("*.keys"))) == 3
    rows = opened(there)
    assert rows.away and len(rows) == ROWS and rows.lacking([*KEYS, "x"]) == ["x"]
    order = [19, 0, 7, 8, 0]
    found = rows.get([KEYS[n] for n in order])
    assert found.dtype == np.float32 and np.array_equal(found, VALUES[order].astype(np.float32))
    assert requests == [4], "one round for three shards, each row once"
    rows.read_ahead([KEYS[1], KEYS[7], "x"])
    assert requests == [4, 1]
    assert np.array_equal(rows.get([KEYS[1]])[0], VALUES[1]) and requests == [4, 1]
    with pytest.raises(KeyError, match="has no row x"):
        rows.get(["x"])


def test_only_so_many_rows_are_kept(there: Path, requests: list[int], monkeypatch):
    monkeypatch.setattr(rows_at_url, "KEPT_BYTES", 4 * 2 * 12)
    rows = opened(there)
    for n in (0, 1, 2, 3, 0, 4):  # row 1 is the one that was used longest ago
        rows.get([KEYS[n]])
    assert requests == [1] * 5
    rows.get([KEYS[0]])
    assert requests == [1] * 5
    rows.get([KEYS[1]])
    assert requests == [1] * 6
    assert np.array_equal(rows.get(KEYS), VALUES.astype(np.float32)), "more than are kept"


def test_what_is_here_already_is_read_here(there: Path, home: Path, requests: list[int]):
    whole = remote.local(URL)
    assert len(list(whole.rglob("*.npy"))) == 3 and not opened(whole).away
    assert remote.local(URL, leave=is_shard) == whole and not opened(whole).away
    assert np.array_equal(opened(whole).get(KEYS[:2]), VALUES[:2]) and requests == []
    assert remote.left(home / "made" / "features" / "encoder") == {}


def test_a_shard_that_was_replaced_meanwhile_is_told(there: Path, home: Path, monkeypatch):
    rows = opened(there)
    first = next((home / "made").rglob("00000.npy"))
    first.write_bytes(first.read_bytes()[:-24] + bytes(24))
    remote.upload(home / "made", URL)
    with pytest.raises(OSError, match="was written to since this began.*--resume"):
        rows.get(KEYS[:1])
    assert np.array_equal(
        opened(remote.local(URL, leave=is_shard)).get(KEYS[7:8])[0], np.zeros(SHAPE)
    )


def test_a_shard_of_another_length_is_damaged(there: Path, home: Path):
    keys = next(there.rglob("00001.keys"))
    keys.write_text(keys.read_text() + "\nmore")
    with pytest.raises(ValueError, match="expected 344 bytes for 9 rows.*rebuilds it"):
        opened(there)


def test_a_training_reads_its_features_from_the_url(
    profile: Profile, toy_data: Path, tmp_path: Path, monkeypatch, requests: list[int]
):
    """The same weights as from a copy, and no shard of features on this machine."""
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "llm").mkdir()
    small = with_stage(shallow(profile, tmp_path / "llm"), 2, batch_size=4)
    remote.upload(toy_data, URL)

    def trained(data: str | Path, name: str, **how) -> Path:
        return train.train(small, 2, data, tmp_path / name, max_steps=3, **how)

    whole = trained(toy_data, "whole")
    assert requests == []
    streamed = trained(URL, "streamed", stream=True)
    assert weights(streamed) == weights(whole)
    mirror = remote.mirror_of(URL)
    assert not any(is_shard(p.relative_to(mirror).as_posix()) for p in mirror.rglob("*.npy"))
    assert DatasetFeatures(small, mirror).encoder.away and max(requests) > 1
