"""Precomputing a dataset's features: killed and resumed, by several processes, with NExT-GPT's files, and what it costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from resuming import started

from anytoany_lib.config import DecoderConfig, Profile
from anytoany_lib.data.building import build
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.data.rows import Row
from anytoany_lib.features import npy_folder, precomputing
from anytoany_lib.features.contents import rows_to_embed
from anytoany_lib.features.costs import estimate_costs
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.frozen_models import FrozenModels

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT.parent / "shared" / "samples" / "nextgpt"


@pytest.fixture
def bare(toy_data: Path, tmp_path: Path) -> Path:
    """The small toy dataset without its features."""
    folder = tmp_path / "data"
    shutil.copytree(toy_data, folder, ignore=shutil.ignore_patterns("features"))
    return folder


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".part")
    }


def command(*before: str, data: Path) -> list[str]:
    options = ("--profile", "tiny", "--data", str(data))
    return [sys.executable, "-m", *before, *options]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def in_its_process(profile: Profile, data: Path) -> None:
    """Precomputes features, of which every batch is saved."""
    torch.set_num_threads(1)
    precomputing.precompute(profile, data, save_every=0)


def test_killed_at_any_moment_it_ends_with_the_features_of_an_unbroken_run(
    profile: Profile, bare: Path, toy_data: Path
):
    """Killed as soon as there is something new on disk, again and again, and once more while nothing is."""
    kills, there = 0, -1
    for wanted in (0, 1, 2, 4, 7):
        process = started(in_its_process, profile, bare)
        while process.is_alive():
            there = len(list((bare / "features").rglob("*.keys")))
            if there >= wanted:
                process.kill()
                process.join()
                kills += process.exitcode == -signal.SIGKILL
            time.sleep(0.01)
    assert kills >= 4
    precomputing.precompute(profile, bare, save_every=0)
    assert bytes_in(bare / "features") == bytes_in(toy_data / "features")


def test_two_processes_write_the_features_of_one(bare: Path, toy_data: Path):
    launched = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    launched += ("--num_machines", "1", "--main_process_port", "0")
    launched += ("--mixed_precision", "no", "--dynamo_backend", "no", "-m")
    both = command(*launched, "anytoany_lib.features", data=bare)
    found = subprocess.run(both, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    assert found.stdout.decode().count('{"media": ') == 1
    assert bytes_in(bare / "features") == bytes_in(toy_data / "features")


def test_two_runs_that_know_nothing_of_each_other_take_turns(bare: Path, toy_data: Path):
    once = command("anytoany_lib.features", data=bare)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(once, cwd=ROOT, env=ENVIRONMENT, **pipes) for _ in range(2)]
    said = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sorted(json.loads(out)["media"] > 0 for out, _ in said) == [False, True]
    assert sum("waiting for it to end" in errors for _, errors in said) == 1
    assert bytes_in(bare / "features") == bytes_in(toy_data / "features")


def captions_of(data: Path, split: str) -> dict[str, str]:
    """File name -> caption of the captioned images of a split."""
    return {
        Path(row.messages[0]["content"][0]["image"]).name: row.meta["caption"]
        for row in read_manifest(data, split)
        if row.meta.get("kind") == "image"
    }


@pytest.fixture
def named(bare: Path) -> dict[str, str]:
    """File name -> caption of the training images that have a name of their own and a caption of their own."""
    others = captions_of(bare, "validation")
    found = captions_of(bare, "train")
    return {n: c for n, c in found.items() if n not in others and c not in others.values()}


def test_npy_files_are_taken_over_and_what_they_lack_is_computed(
    bare: Path, toy_data: Path, profile: Profile, tmp_path: Path, named: dict[str, str]
):
    folder = tmp_path / "embed"
    folder.mkdir()
    chosen = dict(list(named.items())[:3])
    cached = DatasetFeatures(profile, toy_data)
    twice = next(iter(captions_of(bare, "train").keys() & captions_of(bare, "validation").keys()))
    np.save(folder / f"{twice}.npy", np.zeros((16, 128), np.float16))  # of which medium?
    for name, caption in chosen.items():
        # A little longer, so that it shows where a row came from.
        np.save(
            folder / f"{name}.npy", (cached.caption("image", caption) * 1.25).astype(np.float16)
        )
    added = precomputing.precompute(profile, bare, npy=folder)
    assert added["npy"] == 3
    store = DatasetFeatures(profile, bare)
    taken = set(chosen.values())
    for caption in captions_of(bare, "train").values():
        expected = cached.caption("image", caption) * (1.25 if caption in taken else 1)
        np.testing.assert_allclose(store.caption("image", caption), expected, rtol=2e-3)
    assert len(store.captions["image"]) == len(cached.captions["image"])
    assert len(store.captions["video"]) == len(cached.captions["video"])
    assert precomputing.precompute(profile, bare, npy=folder) == {
        "media": 0,
        "captions": 0,
        "npy": 0,
    }


@pytest.mark.parametrize("damage", ["shape", "model", "cut", "names"])
def test_npy_files_of_another_decoder_are_refused(
    bare: Path, profile: Profile, tmp_path: Path, named: dict[str, str], damage: str
):
    folder = tmp_path / "embed"
    folder.mkdir()
    name = next(iter(named))
    rows = np.random.default_rng(0).standard_normal((77, 768) if damage == "shape" else (16, 128))
    file = folder / ("nobody.jpg.npy" if damage == "names" else f"{name}.npy")
    np.save(file, rows.astype(np.float16))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:300])
    expected, message = {
        "shape": (ValueError, r"is \(77, 768\), .*told by \(16, 128\).*another\s+decoder"),
        "model": (ValueError, r"not what the decoder's text encoder gives.*cosine"),
        "cut": (ValueError, "no readable .npy file"),
        "names": (FileNotFoundError, r"found 1 .npy files of other"),
    }[damage]
    with pytest.raises(expected, match=message):
        precomputing.precompute(profile, bare, npy=folder)
    assert not list((bare / "features").rglob("*.npy"))


def test_instruction_data_names_its_embeddings(tmp_path: Path):
    meta = {
        "task": "t2m",
        "embeddings": [["image", "a bell", "7.jpg.npy"], ["audio", "a ring", "8.wav.npy"]],
    }
    np.save(tmp_path / "8.wav.npy", np.zeros(4, np.float16))
    messages = [
        {"role": "user", "content": "Let me hear a ring."},
        {"role": "assistant", "content": [{"type": "audio", "caption": "a ring"}]},
    ]
    found = npy_folder.files_of([Row("t2m-0", "t2m", messages, meta)], tmp_path)
    assert found == {"image": {}, "audio": {"a ring": tmp_path / "8.wav.npy"}, "video": {}}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no samples of real media beside the repository")
def test_the_published_files_are_found_by_captioned_and_by_instruction_data(
    profile: Profile, tmp_path: Path
):
    build("nextgpt", SAMPLES, tmp_path / "captioned")
    build("instructions", SAMPLES / "cc3m", tmp_path / "talks")
    captioned = npy_folder.files_of(rows_to_embed(tmp_path / "captioned"), SAMPLES / "embed")
    files = {path for of_kind in captioned.values() for path in of_kind.values()}
    assert {kind: bool(named) for kind, named in captioned.items()} == dict.fromkeys(
        captioned, True
    )
    assert files <= set((SAMPLES / "embed").iterdir())
    shapes = {"image": (77, 1024), "video": (77, 1024), "audio": (512,)}
    for kind, named in captioned.items():
        assert all(
            npy_folder.read(file, shapes[kind]).dtype == np.float16 for file in named.values()
        )
    talks = npy_folder.files_of(rows_to_embed(tmp_path / "talks"), SAMPLES / "embed")
    assert talks["image"] and not talks["audio"]
    with pytest.raises(ValueError, match=r"is \(\d+.*told by \(16, 128\)|told by \(128,\)"):
        precomputing.precompute(profile, tmp_path / "captioned", npy=SAMPLES / "embed")


def test_the_manifests_own_content_keys_save_reading_the_files(
    profile: Profile, bare: Path, tmp_path: Path
):
    row = next(row for row in read_manifest(bare, "train") if row.meta.get("kind") == "image")
    path = row.messages[0]["content"][0]["image"]
    data = tmp_path / "one"
    (data / path).parent.mkdir(parents=True)
    shutil.copy(bare / path, data / path)
    known = "0123456789abcdef" * 2
    write_manifest(
        [Row(row.id, "toy", row.messages, row.meta | {"content": {path: known}})], data, "train"
    )
    precomputing.precompute(profile, data)
    store = DatasetFeatures(profile, data)
    assert known in store.encoder
    np.testing.assert_array_equal(store.media(path), store.encoder.get([known])[0])


def test_the_plan_counts_bytes_and_measures_seconds_and_changes_nothing(
    profile: Profile, bare: Path, toy_data: Path
):
    found = estimate_costs(profile, bare)
    assert not (bare / "features").exists()
    rows = {row["cache"]: row for row in found.caches}
    assert set(rows) == {f"{kind}{end}" for kind in profile.decoders for end in ("s", " captions")}
    filled = DatasetFeatures(profile, toy_data)
    for kind, cache in filled.captions.items():
        row = rows[f"{kind} captions"]
        assert row["rows"] == row["lacking"]
        if sum(other is cache for other in filled.captions.values()) > 1:
            continue  # decoders that are told alike share it
        assert row["rows"] == len(cache)
        held = sum(file.stat().st_size for file in cache.folder.glob("*.npy"))
        assert float(row["MB on disk"]) == pytest.approx(held / 1e6, abs=0.06)
    assert [row["on the fly"] for row in found.stages] == ["stage 1", "stage 2", "stage 3"]
    assert all(float(row["s a step"]) > 0 for row in found.stages)
    assert "image captions" in str(found) and "s to fill" in str(found)
    assert {row["lacking"] for row in estimate_costs(profile, toy_data).caches} == {0}


def test_captions_for_sounds_read_no_padding(profile: Profile):
    """What the text encoder gives for a caption alone and beside a longer one is the same."""
    models = FrozenModels(profile, torch.device("cpu"))
    texts = [
        "a bell",
        "a bell that rings three times, high and far away, and then a small dog barks",
    ]
    together = models.captions("audio", texts)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(models.captions("audio", [text])[0], row, atol=1e-5)


def test_a_dataset_that_wants_a_decoder_the_profile_lacks_is_refused(profile: Profile, bare: Path):
    decoders: dict[str, DecoderConfig] = {
        kind: config for kind, config in profile.decoders.items() if kind != "video"
    }
    with pytest.raises(ValueError, match="generates video, profile tiny has no decoder for it"):
        precomputing.precompute(profile.model_copy(update={"decoders": decoders}), bare)
