"""Fingerprints of models: every byte counts, and a file is read once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anytoany_lib.features import dataset_features
from anytoany_lib.system import digests


@pytest.fixture(autouse=True)
def own_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    monkeypatch.setattr(digests, "_KNOWN", {})
    (tmp_path / "data").mkdir()


def weights(folder: Path) -> Path:
    """Eight MiB of weights."""
    file = folder / "model.safetensors"
    file.write_bytes(bytes(range(256)) * 4096 * 8)
    return file


def test_a_change_in_the_middle_is_noticed(tmp_path: Path):
    file = weights(tmp_path)
    before = dataset_features.fingerprint([file])
    with file.open("r+b") as stream:
        stream.seek(4 * 2**20)
        stream.write(b"\0" * 64)
    assert dataset_features.fingerprint([file]) != before


def test_a_change_that_keeps_size_and_time_is_noticed_too(tmp_path: Path):
    file = weights(tmp_path)
    before, found = digests.digest_of(file), file.stat()
    file.write_bytes(b"\0" * found.st_size)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert digests.digest_of(file) != before


def test_a_file_is_read_once_by_all_processes(tmp_path: Path, monkeypatch):
    file = weights(tmp_path)
    before = digests.digest_of(file)
    monkeypatch.setattr(digests, "_KNOWN", {})  # as another process has it
    monkeypatch.setattr(digests, "read_digest", None)  # with which nothing can be read
    assert digests.digest_of(file) == before
    memory = tmp_path / digests.MEMORY
    assert oct(memory.stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "[" * 100_000])
def test_a_memory_that_is_none_is_forgotten(text: str, tmp_path: Path):
    file = weights(tmp_path)
    (tmp_path / digests.MEMORY).write_text(text)
    assert len(digests.digest_of(file)) == 32
    assert (tmp_path / digests.MEMORY).read_text() != text
