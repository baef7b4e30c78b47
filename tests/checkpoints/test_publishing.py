"""Runs that go to a hub and come back: equal bit for bit, from the cache without a network, and what each thing that can go wrong says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback_hub import NOWHERE, Hub, point, writable_hub
from safetensors.torch import save_file
from small_runs import SHIPPED, small_llama_run

from anytoany_lib.chat import access
from anytoany_lib.checkpoints import publishing
from anytoany_lib.checkpoints.publishing import fetch_run, push, run_folder, run_to_measure
from anytoany_lib.config import Profile
from anytoany_lib.data.rows import DataError
from anytoany_lib.evaluation import matrix, spoken
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs

NAME = "me/bells"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A hub of its own with an empty cache, and the token of an account that may write."""
    with writable_hub(monkeypatch, tmp_path) as found:
        yield found


@pytest.fixture
def light(tmp_path: Path) -> Path:
    """A run folder whose weights are a few numbers: it travels, and no model fits it."""
    folder = tmp_path / "light"
    (folder / runs.ADAPTER).mkdir(parents=True)
    shutil.copy(SHIPPED / runs.RECORD, folder)
    (folder / runs.METRICS).write_text(json.dumps({"matrix": {}}))
    (folder / runs.ADAPTER / "adapter_config.json").write_text("{}")
    for size, file in enumerate((runs.TENSORS, f"{runs.ADAPTER}/{runs.ADAPTER_TENSORS}"), 1000):
        save_file({"some": torch.arange(size)}, folder / file)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_model_that_was_pushed_is_loaded_elsewhere_bit_for_bit(
    served: Hub, four_bits: Profile, tmp_path: Path
):
    run = small_llama_run(tmp_path / "made", four_bits, tied=False)
    model = AnyToAny.from_pretrained(run)
    assert model.push_to_hub(NAME, private=True) == f"{served.url}/{NAME}"
    assert sorted(name for _, name in served.commits) == sorted([*_contents(run), "README.md"])
    assert served.private == {NAME}
    again = AnyToAny.from_pretrained(NAME)
    assert again.run is not None and again.run.is_relative_to(tmp_path / "cache")
    assert _contents(again.run) == _contents(run)
    expected = model.state_dict()
    assert expected.keys() == again.state_dict().keys()
    assert all(torch.equal(expected[key], value) for key, value in again.state_dict().items())


def test_without_a_network_it_comes_from_the_cache(served: Hub, light: Path, monkeypatch):
    push(light, NAME)
    fetched = run_folder(NAME)
    assert _contents(fetched) == _contents(light)
    served.asked.clear()
    assert run_folder(NAME, "main") == fetched
    assert run_folder(NAME, served.commit(NAME)) == fetched
    assert served.asked == []
    point(monkeypatch, NOWHERE)
    assert run_folder(NAME) == fetched
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run_folder(NAME) == fetched
    with pytest.raises(ConnectionError, match=r"o/n is no folder here.*cannot be reached.*connect"):
        run_folder("o/n")
    (fetched / runs.RECORD).unlink()
    with pytest.raises(ConnectionError, match="the cache does not have it whole"):
        run_folder(NAME)


def test_what_a_later_run_does_not_have_goes_and_other_files_stay(served: Hub, light: Path):
    push(light, NAME)
    (served.repositories[NAME] / "mine.txt").write_text("mine")
    shutil.rmtree(light / runs.ADAPTER)
    served.commits.clear()
    push(light, NAME)
    gone = {f"-{name}" for name in (*publishing._ADAPTER,)}
    assert gone <= {name for _, name in served.commits}
    there = _contents(served.repositories[NAME]).keys()
    assert there == {*_contents(light), "README.md", "mine.txt"}


def test_of_a_repository_only_the_files_of_a_run_come(served: Hub, light: Path):
    push(light, NAME)
    for name in ("evil.py", "pytorch_model.bin", "adapter/evil.py"):
        (served.repositories[NAME] / name).write_text("raise SystemExit")
    assert _contents(run_folder(NAME)) == _contents(light)


def test_a_private_run_is_there_for_who_may_read_it(served: Hub, light: Path, monkeypatch):
    push(light, NAME, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    with pytest.raises(FileNotFoundError, match=f"no folder {NAME} here.*private.*hf auth login"):
        run_folder(NAME)


@pytest.mark.parametrize("token", ["hf_reads", None])
def test_a_token_that_may_not_write_is_said(served: Hub, light: Path, token, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermissionError, match=f"{NAME} on the hub may not be written.*log in"):
        push(light, NAME)
    assert served.commits == []


def test_no_network_is_said(served: Hub, light: Path, monkeypatch):
    point(monkeypatch, NOWHERE)
    with pytest.raises(ConnectionError, match=f"{NAME} could not be published.*push again"):
        push(light, NAME)


@pytest.mark.parametrize(
    "name",
    [
        "bells",
        "../me/bells",
        "me/..",
        "me/../bells",
        "/me/bells",
        "me/bells/more",
        "me/be lls",
        "",
        "me/bells.git",
        "-me/x",
    ],
)
def test_a_name_is_owner_and_name(name: str, light: Path):
    for called in (lambda: push(light, name), lambda: fetch_run(name)):
        with pytest.raises(ValueError, match=r"expected the name of a repository.*OWNER/NAME"):
            called()


def test_a_folder_goes_before_a_repository(served: Hub, light: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(light, tmp_path / NAME)
    push(light, "me/other")
    assert run_folder(NAME) == Path(NAME)
    # Somebody may have the name of a folder here: a path that is mistyped is not asked for on the hub.
    assert run_folder("me/other") != fetch_run("me/other")
    assert run_folder("me/other", "main") == fetch_run("me/other")
    assert run_folder(Path("they/other")).name == "other"
    with pytest.raises(
        ValueError, match=f"{NAME} is a folder or a URL, which has no revision 'v1'"
    ):
        run_folder(NAME, "v1")


def test_what_is_measured_is_written_into_a_copy(
    served: Hub, light: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    push(light, NAME)
    copy = run_to_measure(NAME)
    assert copy == tmp_path / "ckpt/runs/hub" / NAME and _contents(copy) == _contents(light)
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    (copy / runs.METRICS).write_text("mine")
    assert run_to_measure(NAME) == copy and (copy / runs.METRICS).read_text() == "mine"
    assert _contents(run_folder(NAME)) == _contents(light)
    record = json.loads((light / runs.RECORD).read_text()) | {"steps": 7}
    (light / runs.RECORD).write_text(json.dumps(record))
    push(light, NAME)  # another run by that name
    assert _contents(run_to_measure(NAME)) == _contents(light)
    assert run_to_measure(light) == light


@pytest.mark.parametrize("measure", [matrix.evaluate, spoken.evaluate])
def test_a_run_is_measured_by_its_name(
    measure, served: Hub, light: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    push(light, NAME)
    with pytest.raises(DataError, match="no test.parquet"):  # the run is there
        measure(NAME, tmp_path / "empty")
    assert _contents(tmp_path / "ckpt/runs/hub" / NAME) == _contents(light)


def test_a_chat_takes_the_name_of_a_run_on_the_hub(served: Hub, light: Path):
    push(light, NAME)
    found = access.run_named(NAME)
    assert _contents(found) == _contents(light) and access.shown_name(found) == NAME
    with pytest.raises(FileNotFoundError, match="no repository o/n on the hub"):
        access.run_named("o/n")
    with pytest.raises(FileNotFoundError, match=r"no run in .*me/\.\./bells"):
        access.run_named("me/../bells")


def test_what_is_no_run_is_said(served: Hub, light: Path):
    push(light, NAME)
    with pytest.raises(FileNotFoundError, match=f"{NAME} has no revision v9"):
        run_folder(NAME, "v9")
    with pytest.raises(FileNotFoundError, match="no repository o/n on the hub"):
        run_folder("o/n")
    (served.repositories[NAME] / runs.RECORD).unlink()
    with pytest.raises(FileNotFoundError, match=r"no run of this kit: expected run.json, found"):
        run_folder(NAME)
    with pytest.raises(FileNotFoundError, match=r"no run in .*expected run.json"):
        push(light / runs.ADAPTER, NAME)
    (light / runs.TENSORS).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {runs.TENSORS}"):
        push(light, NAME)


def test_a_file_that_is_not_as_the_list_says_is_refused_and_asked_for_again(
    served: Hub, light: Path
):
    push(light, NAME)
    served.spoilt.add(runs.TENSORS)
    with pytest.raises(
        ValueError, match=f"{runs.TENSORS} of {NAME}: expected sha256 .*thrown away"
    ):
        run_folder(NAME)
    served.spoilt.clear()
    assert _contents(run_folder(NAME)) == _contents(light)


@pytest.mark.parametrize("file", [runs.TENSORS, runs.RECORD])
def test_a_hub_that_lies_about_sizes_is_refused(file: str, served: Hub, light: Path):
    push(light, NAME)
    served.sizes[file] = 7
    with pytest.raises((ValueError, ConnectionError), match="expected|should be"):
        run_folder(NAME)


def test_weights_that_are_cut_go_nowhere(served: Hub, light: Path):
    push(light, NAME)
    cut = (light / runs.TENSORS).read_bytes()[:-5]
    (served.repositories[NAME] / runs.TENSORS).write_bytes(cut)
    with pytest.raises(ValueError, match=rf"{NAME}: .*{runs.TENSORS}: expected .* bytes, found"):
        run_folder(NAME)
    (light / runs.TENSORS).write_bytes(cut)
    with pytest.raises(ValueError, match="bytes, found"):
        push(light, "me/cut")
    assert "me/cut" not in served.repositories


def test_a_model_that_comes_from_no_run_is_not_pushed():
    with pytest.raises(ValueError, match="was not loaded from a run"):
        push(None, NAME)
