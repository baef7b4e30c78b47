"""URLs: which are read, which a page may name, and that no password of one is written down."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from anytoany_lib.system import remote, urls


@pytest.mark.parametrize(
    "url",
    [
        "zip://run.json::file:///tmp/x.zip",
        "reference://::file:///tmp/refs.json",
        "reference:///x?fo=/etc/passwd",
        "simplecache::s3://bucket/x",
        "filecache::file:///etc",
        "blockcache::file:///etc",
        "dir::file:///etc",
        "local:///etc",
        "ssh://host/x",
        "sftp://host/x",
        "http://host/x",
        "git://x",
        "github://o:r@/x",
        "data://x",
        "jupyter://x",
        "FILE:///etc",
        "s3://bucket/a b",
        "s3://bucket/a\nb",
        "://x",
        "s3:://bucket",
        "s3://bucket/x::file:///etc/passwd",
        "https://host/x.zip::memory://x",
    ],
)
def test_only_plain_stores_are_read(url: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    opened: list[str] = []
    monkeypatch.setattr(remote, "url_to_fs", lambda url, **_: opened.append(url))
    with pytest.raises(ValueError, match="expected a URL"):
        remote.local(url)
    with pytest.raises(ValueError, match="expected a URL"):
        urls.check_page(url)
    assert not opened and not list(tmp_path.rglob("*"))


def test_a_page_names_stores_and_folders_and_not_this_machine_by_a_url():
    for url in ("file:///etc", "memory://x"):
        assert urls.check_url(url) == url
        with pytest.raises(ValueError):
            urls.check_page(url)
    for place in ("s3://bucket/run", "gs://bucket/run", "https://host/run", "ckpt/runs/a", "/x/y"):
        assert urls.check_page(place) == place


def test_a_chain_reads_no_file_of_the_machine(tmp_path: Path, monkeypatch):
    """The attack itself: a list of references by which fsspec reads any file as part of a folder."""
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path / "here"))
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    references = tmp_path / "refs.json"
    references.write_text(
        json.dumps({"version": 1, "refs": {"run/run.json": [f"file://{secret}"]}})
    )
    chain = f"reference://run::file://{references}"
    files, _ = fsspec.core.url_to_fs(f"reference://::file://{references}", remote_protocol="file")
    assert files.cat_file("run/run.json") == b"a secret"  # what fsspec would do
    with pytest.raises(ValueError, match="without :: in it"):
        remote.local(chain)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://key:secret@bucket/run", "s3://bucket/run"),
        ("https://me:secret@host.example/run", "https://host.example/run"),
        ("https://secret@host.example/run", "https://host.example/run"),
        (
            "https://host.example/run?X-Amz-Signature=secret&part=1&sig=secret&AccessToken=secret",
            "https://host.example/run?part=1",
        ),
        ("abfs://container@account.example/run", "abfs://container@account.example/run"),
        ("file:///tmp/x y/ü", "file:///tmp/x y/ü"),
        ("memory://bucket/run", "memory://bucket/run"),
        ("https://[bad", "https://…"),
        ("data/toy", "data/toy"),
    ],
)
def test_a_url_is_told_without_what_is_secret(url: str, told: str):
    assert urls.without_secrets(url) == told


def test_no_password_is_written_and_the_upload_has_it_all_the_same(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    opened: list[str] = []
    real = remote.url_to_fs

    def noted(url: str, **more):
        opened.append(url)
        return real(f"memory://bucket/{url.rpartition('/')[2]}", **more)

    monkeypatch.setattr(remote, "url_to_fs", noted)
    url = "s3://me:pa55word@bucket/secret-run"
    try:
        with remote.published(url) as folder:
            (folder / "run.json").write_text("{}")
            assert remote.known_as(folder) == "s3://bucket/secret-run"
        assert opened == [url, url]
        written = [p for p in tmp_path.rglob("*") if "pa55word" in p.name]
        written += [p for p in tmp_path.rglob("*") if p.is_file() and b"pa55word" in p.read_bytes()]
        assert not written
        with pytest.raises(FileNotFoundError) as said:
            remote.local("s3://me:pa55word@bucket/other")
        assert said.value.args and "pa55word" not in str(said.value)
    finally:
        store = fsspec.filesystem("memory")
        if store.exists("/bucket"):
            store.rm("/bucket", recursive=True)
