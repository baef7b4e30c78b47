"""Folders at URLs: only differences travel, and nothing half-copied is taken for whole."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import fsspec
import pytest
from PIL import Image
from resuming import shallow, weights, with_stage

from anytoany_lib import cli, train
from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.data.rows import Row
from anytoany_lib.features import precomputing
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import remote, runs
from anytoany_lib.training.trackers import Log

REPOSITORY = Path(__file__).resolve().parents[2]
STORE = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mirrors below a folder of the test's own."""
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path / "here"))
    yield tmp_path
    if STORE.exists("/bucket"):
        STORE.rm("/bucket", recursive=True)


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://bucket/run" if request.param == "memory" else f"file://{tmp_path}/there/run"


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str = "elsewhere") -> None:
    """Goes on as on another machine."""
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path / name))


def texts(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_is_written_at_a_url_is_read_on_another_machine(url, tmp_path, monkeypatch):
    with remote.published(url) as folder:
        write(folder, run_json="{}", checkpoint__state_pt="1", x_part="half", _hidden="no")
    elsewhere(monkeypatch, tmp_path)
    assert texts(remote.local(url)) == {"run.json": "{}", "checkpoint/state.pt": "1"}


def test_a_second_writer_replaces_adds_and_deletes(url, tmp_path, monkeypatch):
    with remote.published(url) as folder:
        write(folder, a_txt="1", b_txt="1", checkpoint__state_pt="1")
    elsewhere(monkeypatch, tmp_path)
    with remote.published(url) as folder:
        write(folder, a_txt="2", c_txt="2")
        (folder / "checkpoint/state.pt").unlink()
    elsewhere(monkeypatch, tmp_path, "here")
    assert texts(remote.local(url)) == {"a.txt": "2", "b.txt": "1", "c.txt": "2"}


def test_only_differences_travel(url):
    with remote.published(url) as folder:
        write(folder, a_txt="1", b_txt="1")
    assert remote.publish(folder) == 0 and remote.download(url, folder) == 0
    write(folder, a_txt="2")
    assert remote.publish(folder) == 1
    (folder / "b.txt").unlink()
    assert remote.download(url, folder) == 1 and texts(folder) == {"a.txt": "2", "b.txt": "1"}


def test_what_this_machine_wrote_since_the_last_upload_is_kept(url):
    with remote.published(url) as folder:
        write(folder, metrics_jsonl="1\n")
    write(folder, metrics_jsonl="1\n2\n", new_txt="1")
    assert texts(remote.local(url)) == {"metrics.jsonl": "1\n2\n", "new.txt": "1"}


def test_a_folder_that_other_tools_copied_is_read_and_added_to(tmp_path, monkeypatch):
    STORE.pipe({"/bucket/toy/train.parquet": b"rows", "/bucket/toy/media/a.png": b"image"})
    url = "memory://bucket/toy/"
    assert texts(remote.local(url, skip=("media",))) == {"train.parquet": "rows"}
    with remote.published(url, skip=("media",)) as folder:
        write(folder, features__media_npy="1")
    elsewhere(monkeypatch, tmp_path)
    whole = {"train.parquet": "rows", "media/a.png": "image", "features/media.npy": "1"}
    assert texts(remote.local(url)) == whole
    STORE.pipe("/bucket/toy/train.parquet", b"others")
    assert texts(remote.local(url)) == whole | {"train.parquet": "others"}
    with remote.published(url) as folder:
        write(folder, train_parquet="ours")
        (folder / "media/a.png").unlink()
    assert [p for p in STORE.find("/bucket/toy") if not p.startswith("/bucket/toy/objects")] == [
        "/bucket/toy/anytoany.json"
    ]
    elsewhere(monkeypatch, tmp_path, "third")
    assert texts(remote.local(url)) == {"train.parquet": "ours", "features/media.npy": "1"}


def test_a_plain_folder_that_changed_is_copied_anew():
    STORE.pipe("/bucket/toy/train.parquet", b"old")
    remote.local("memory://bucket/toy")
    STORE.pipe("/bucket/toy/train.parquet", b"new")
    assert texts(remote.local("memory://bucket/toy")) == {"train.parquet": "new"}


def test_an_upload_that_was_cut_off_leaves_what_was_there(url, tmp_path, monkeypatch):
    with remote.published(url) as folder:
        write(folder, checkpoint__a_pt="1", checkpoint__b_pt="1")
    driver = type(fsspec.filesystem(url.split(":")[0]))
    put, sent = driver.put_file, []

    def cut_off(self, source, *rest, **options):
        sent.append(source)
        if len(sent) > 1:
            raise OSError("the connection was lost")
        put(self, source, *rest, **options)

    write(folder, checkpoint__a_pt="2", checkpoint__b_pt="2")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the connection was lost"):
        patch.setattr(driver, "put_file", cut_off)
        remote.publish(folder)
    elsewhere(monkeypatch, tmp_path)
    assert set(texts(remote.local(url)).values()) == {"1"}
    elsewhere(monkeypatch, tmp_path, "here")
    assert remote.publish(folder) == 2
    elsewhere(monkeypatch, tmp_path)
    assert set(texts(remote.local(url)).values()) == {"2"}
    files, root = fsspec.core.url_to_fs(url)
    assert len(files.find(root)) == 3, "the objects of the first upload are gone"


def test_a_first_upload_that_was_cut_off_is_nothing(url, monkeypatch):
    def cut_off(*_):
        raise OSError("the connection was lost")

    folder = remote.local(url, new=True)
    write(folder, run_json="{}")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the connection was lost"):
        patch.setattr(remote, "_replace", cut_off)
        remote.publish(folder)
    with pytest.raises(
        FileNotFoundError, match="nothing is there, or its first upload did not end"
    ):
        remote.local(url)
    assert remote.publish(folder) == 1 and texts(remote.local(url)) == {"run.json": "{}"}


def test_a_download_that_was_cut_off_goes_on(url, tmp_path, monkeypatch):
    with remote.published(url) as folder:
        write(folder, a_txt="1", b_txt="1", c_txt="1")
    elsewhere(monkeypatch, tmp_path)
    driver = type(fsspec.filesystem(url.split(":")[0]))
    get = driver.get_file

    def cut_off(self, source, target, **options):
        get(self, source, target, **options)
        if source.endswith("b.txt"):
            Path(target).write_text("")

    mirror = remote.mirror_of(url)
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="changed while it was copied"),
    ):
        patch.setattr(driver, "get_file", cut_off)
        remote.local(url)
    assert "b.txt" not in texts(mirror)
    remote.local(url)
    assert texts(mirror) == {"a.txt": "1", "b.txt": "1", "c.txt": "1"}


def test_damaged_contents_are_refused(url, tmp_path, monkeypatch):
    with remote.published(url) as folder:
        write(folder, run_json="{}")
    files, root = fsspec.core.url_to_fs(url)
    (stored,) = json.loads(files.cat_file(f"{root}/{remote.INDEX}"))["files"].values()
    files.pipe_file(f"{root}/{stored['object']}", b"[]")
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(OSError, match="or other contents"):
        remote.local(url)


def test_a_file_that_is_written_to_while_it_is_uploaded_is_uploaded_again(url, monkeypatch):
    driver = type(fsspec.filesystem(url.split(":")[0]))
    put, lines = driver.put_file, iter(("1\n2\n",))

    def growing(self, source, *rest, **options):
        put(self, source, *rest, **options)
        for line in lines:
            Path(source).write_text(line)

    monkeypatch.setattr(driver, "put_file", growing)
    with remote.published(url) as folder:
        write(folder, metrics_jsonl="1\n")
    assert remote.download(url, folder.with_name("copy")) == 1
    assert texts(folder.with_name("copy")) == {"metrics.jsonl": "1\n2\n"}


def test_names_that_lead_out_of_the_folder_are_refused(url):
    with remote.published(url) as folder:
        write(folder, run_json="{}")
    files, root = fsspec.core.url_to_fs(url)
    index = files.cat_file(f"{root}/{remote.INDEX}").decode().replace("run.json", "../run.json")
    files.pipe_file(f"{root}/{remote.INDEX}", index.encode())
    with pytest.raises(ValueError, match="leads out of the folder"):
        remote.local(url)


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(
        ImportError, match=r"s3://bucket/toy: Install s3fs.*pip install .*\[remote\]"
    ):
        remote.local("s3://bucket/toy")


def test_paths_stay_paths(tmp_path):
    assert remote.local(tmp_path) == tmp_path and remote.publish(tmp_path) == 0
    with remote.published("ckpt/runs/mine") as folder:
        assert folder == tmp_path / "here/ckpt/runs/mine"


def test_the_command_copies_either_way(tmp_path, monkeypatch, capsys):
    write(tmp_path / "toy", train_parquet="rows")
    for source, target in (
        (tmp_path / "toy", "memory://bucket/toy"),
        ("memory://bucket/toy", tmp_path / "copy"),
    ):
        monkeypatch.setattr(sys, "argv", ["remote", str(source), str(target)])
        remote.main()
    assert texts(tmp_path / "copy") == {"train.parquet": "rows"}
    assert {path.name for path in tmp_path.iterdir()} == {"toy", "copy", "here"}
    write(tmp_path / "copy", train_parquet="others")
    assert remote.publish(tmp_path / "copy") == 0, "a copy is not a mirror"
    assert "1 files uploaded" in capsys.readouterr().out


def test_a_manifest_at_a_url_is_read(tmp_path, monkeypatch):
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    with remote.published("memory://bucket/toy") as folder:
        write_manifest([Row("1", "talk", messages, {})], folder, "train")
    elsewhere(monkeypatch, tmp_path)
    assert read_manifest(remote.local("memory://bucket/toy"))[0].id == "1"


def test_a_dataset_is_made_of_one_url_at_another(monkeypatch):
    pixels = io.BytesIO()
    Image.new("RGB", (8, 8)).save(pixels, "PNG")
    STORE.pipe({"/bucket/source/a.png": pixels.getvalue(), "/bucket/source/a.txt": b"A square."})
    asked = [
        "folder",
        "memory://bucket/source",
        "memory://bucket/toy",
        "--validation",
        "0",
        "--test",
        "0",
    ]
    assert cli.main(["data", *asked]) == 0
    out = remote.local("memory://bucket/toy")
    assert read_manifest(out)[0].meta["caption"] == "A square." and (out / "media/a.png").is_file()
    assert any(name.endswith("/train.parquet") for name in STORE.find("/bucket/toy"))
    assert remote.known_as(out) == "memory://bucket/toy"


def test_features_are_looked_up_and_kept_at_a_url(profile: Profile, toy_data: Path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    remote.upload(toy_data, "memory://bucket/toy")
    rows = next(name for name in STORE.find("/bucket/toy") if name.endswith("encoder/00000.npy"))
    assert precomputing.precompute(profile, "memory://bucket/toy") == {"media": 0, "captions": 0}
    mirror = remote.mirror_of("memory://bucket/toy")
    (mirror / "features/encoder/00000.keys").unlink()
    assert precomputing.precompute(profile, "memory://bucket/toy")["media"] == 0, "brought back"
    shutil.rmtree(mirror / "features/encoder")
    remote.publish(mirror)
    assert not STORE.exists(rows)
    assert precomputing.precompute(profile, "memory://bucket/toy")["media"] > 0
    assert STORE.exists(rows)


def test_a_run_at_a_url_is_loaded(profile: Profile, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    remote.upload(REPOSITORY / "ckpt/tiny/run", "memory://bucket/run")
    loaded = AnyToAny.from_pretrained("memory://bucket/run")
    assert loaded.profile.name == profile.name and loaded.adapter is not None


def test_a_training_at_urls_is_stopped_here_and_goes_on_there(
    profile: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "llm").mkdir()
    small = with_stage(shallow(profile, tmp_path / "llm"), 1, batch_size=2)
    remote.upload(toy_data, "memory://bucket/toy")

    def trained(place: str, **how) -> Path:
        return train.train(small, 1, "memory://bucket/toy", place, max_steps=4, **how)

    def stop(line: dict) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    whole = trained(str(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Log, "every", 2)
        trained("memory://bucket/run", on_log=stop)
    elsewhere(monkeypatch, tmp_path)
    run = trained("memory://bucket/run", resume=True)
    assert weights(run) == weights(whole)
    assert not (remote.mirror_of("memory://bucket/toy") / "media").exists()
    assert list(runs.read_record(run)["data"]) == ["memory://bucket/toy"]
    elsewhere(monkeypatch, tmp_path, "a third")
    assert weights(remote.local("memory://bucket/run")) == weights(whole)
