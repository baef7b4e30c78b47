"""Caches and the three stages on a small toy world: what is trained, what is refused, what a resumed run becomes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from resuming import shallow
from safetensors.torch import load_file, save_file

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.features import precomputing
from anytoany_lib.features.dataset_features import DatasetFeatures, LiveFeatures, caption_key
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.training import stage_data
from anytoany_lib.training.stage_data import StageData


@pytest.fixture(scope="module")
def small(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The tiny profile with the first layers of its language model and batches of 4: a step takes no second."""
    profile = shallow(profile, tmp_path_factory.mktemp("llm"))
    stages = {n: stage.model_copy(update={"batch_size": 4}) for n, stage in profile.stages.items()}
    return profile.model_copy(update={"stages": stages})


@pytest.fixture(scope="module")
def stage_runs(
    small: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Two steps of every stage, each from the one before."""
    folder, made = tmp_path_factory.mktemp("runs"), []
    for stage in (1, 2, 3):
        init = made[-1] if made else None
        made.append(
            train.train(small, stage, toy_data, folder / f"stage{stage}", init, max_steps=2)
        )
    return made


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / runs.TENSORS)


def changed(before: dict, after: dict) -> set[str]:
    return {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}


def test_each_stage_trains_its_parts_and_nothing_else(small: Profile, stage_runs: list[Path]):
    start = runs.trainable_tensors(AnyToAny.from_profile(small, seed=0).bridges())
    first, second, third = map(tensors, stage_runs)
    assert changed(start, first) == {"input_projection", "token_rows"}
    assert changed(first, second) == {"output_projections", "token_rows"}
    assert changed(second, third) == {"input_projection", "output_projections", "token_rows"}
    assert [(run / runs.ADAPTER).is_dir() for run in stage_runs] == [False, False, True]
    lora = load_file(stage_runs[2] / runs.ADAPTER / "adapter_model.safetensors")
    assert any("lora_B" in key and tensor.abs().sum() > 0 for key, tensor in lora.items())


def test_a_run_folder_says_how_it_was_made(small: Profile, stage_runs: list[Path], toy_data: Path):
    record = runs.read_record(stage_runs[2])
    assert (record["stage"], record["steps"], record["seed"]) == (3, 2, 0)
    assert record["data"].keys() == {str(toy_data)}
    assert record["versions"]["torch"] == torch.__version__
    assert record["peak_memory_bytes"]["host"] > 1e8
    assert all(np.isfinite(loss) for loss in record["validation"].values())
    assert runs.profile_of(record, stage_runs[2]) == small
    frozen = [key for key in tensors(stage_runs[2]) if "llm" in key]
    assert frozen == []


def test_a_trained_run_loads_as_it_was_saved(stage_runs: list[Path]):
    model = AnyToAny.from_pretrained(stage_runs[2])
    saved = tensors(stage_runs[2])
    for key, tensor in runs.trainable_tensors(model.bridges()).items():
        assert torch.equal(tensor, saved[key]), key
    reply = model.chat([{"role": "user", "content": "Hello!"}])
    assert reply["role"] == "assistant"


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(
    small: Profile, toy_data: Path, tmp_path: Path
):
    stage = small.stages[2].model_copy(
        update={"learning_rates": {"output_projections": 1e30}, "clip": 1e30}
    )
    wild = small.model_copy(update={"stages": small.stages | {2: stage}})
    with pytest.raises(
        RuntimeError,
        match=r"stage 2, step \d+: the loss is .* on rows train-\w+-\d+.*learning rates",
    ):
        train.train(wild, 2, toy_data, tmp_path / "run", max_steps=8)
    assert not (tmp_path / "run" / runs.RECORD).exists()


def test_a_folder_of_another_stage_is_not_overwritten(
    small: Profile, toy_data: Path, stage_runs: list[Path]
):
    with pytest.raises(ValueError, match="holds stage 1 of profile tiny, not stage 2"):
        train.train(small, 2, toy_data, stage_runs[0], max_steps=1)


def test_a_run_of_another_profile_is_no_start(
    small: Profile, toy_data: Path, stage_runs: list[Path], tmp_path: Path
):
    lora = small.lora.model_copy(update={"rank": 4})
    other = small.model_copy(update={"name": "other", "lora": lora})
    with pytest.raises(ValueError, match="trained with profile tiny, not other"):
        train.train(other, 2, toy_data, tmp_path / "run", init=stage_runs[0], max_steps=1)


def test_epochs_are_counted_in_steps_that_lose_no_row(small: Profile):
    stage = small.stages[1].model_copy(update={"steps": None, "epochs": 1.5, "batch_size": 4})
    assert stage.steps_of(rows=100) == 38
    assert stage.model_copy(update={"accumulation": 2}).steps_of(rows=100) == 20
    ragged = stage.model_copy(update={"epochs": 2.1})
    assert ragged.steps_of(rows=10) == 7 and ragged.steps_of(rows=40) == 21
    assert small.stages[1].steps_of(rows=100) == small.stages[1].steps
    settings = small.model_dump()
    settings["stages"][1]["epochs"] = 1
    with pytest.raises(ValueError, match="stages.1.*give steps or epochs, one of the two"):
        Profile.parse(settings, "test")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card can have it")
def test_the_8_bit_optimiser_wants_a_card(small: Profile, toy_data: Path, tmp_path: Path):
    stage = small.stages[1].model_copy(update={"optimiser": "paged-adamw-8bit"})
    profile = small.model_copy(update={"stages": {1: stage}})
    with pytest.raises(ValueError, match="paged-adamw-8bit needs a CUDA card.*optimiser: adamw"):
        train.train(profile, 1, toy_data, tmp_path / "run", max_steps=1)


def test_no_room_on_the_disk_is_said_before_training(small, toy_data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="10 MiB of disk are free"):
        train.train(small, 1, toy_data, tmp_path / "run", max_steps=1)


def test_nothing_to_resume_is_an_error(small: Profile, toy_data: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train.train(small, 1, toy_data, tmp_path / "run", resume=True)


@pytest.mark.parametrize("damage", ["missing", "surplus", "shape"])
def test_weights_that_do_not_fit_are_named_and_not_loaded(
    model: AnyToAny, stage_runs, tmp_path: Path, damage: str
):
    state = tensors(stage_runs[0])
    if damage == "missing":
        del state["token_rows.input"]
    elif damage == "surplus":
        state["token_rows.inputs"] = torch.zeros(1)
    else:
        state["token_rows.input"] = torch.zeros(3, 576)
    save_file(state, tmp_path / runs.TENSORS)
    before = model.token_rows.input.clone()
    with pytest.raises(ValueError, match="token_rows.input"):
        model.load(tmp_path)
    assert torch.equal(model.token_rows.input, before)


def test_every_row_is_read_once_an_epoch_and_batches_hold_like_lengths(
    small, toy_data, model: AnyToAny
):
    store = DatasetFeatures(small, toy_data)
    data = StageData(toy_data, "train", "instructions", model.messages, store, seed=3)
    batches = data.batches(4)
    names, padding = [], 0.0
    while len(names) < len(data):
        ids, batch = next(batches)
        names += ids
        padding += 1 - batch.mask.float().mean().item()
    assert sorted(names) == sorted(
        row.id for row in read_manifest(toy_data, "train") if "caption" not in row.meta
    )
    assert padding / (len(names) / 4) < 0.2
    again = StageData(toy_data, "train", "instructions", model.messages, store, seed=3).batches(4)
    assert next(again)[0] == names[:4]


def test_captioned_media_are_read_in_the_direction_of_the_stage(small, toy_data, model: AnyToAny):
    store = DatasetFeatures(small, toy_data)
    for reads, has_media in (("comprehension", True), ("generation", False)):
        data = StageData(toy_data, "train", reads, model.messages, store, seed=0)
        _, batch = next(data.batches(4))
        assert (len(batch.media) > 0) == has_media
        assert bool(batch.signals_at) != has_media
        assert (batch.labels != IGNORED).any()


def rows_read(data: StageData, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(row, epoch) of what `data` encodes from now on."""
    read, encode = [], data._encode

    def noted(index: int, epoch: int):
        read.append((index, epoch))
        return encode(index, epoch)

    monkeypatch.setattr(data, "_encode", noted)
    return read


@pytest.mark.parametrize("start", [0, 1, 55, 110])
def test_batches_from_a_later_number_are_those_of_the_whole_order(
    small, toy_data, model: AnyToAny, monkeypatch, start: int
):
    store = DatasetFeatures(small, toy_data)

    def fresh() -> StageData:
        return StageData(toy_data, "train", "comprehension", model.messages, store, seed=5)

    size, in_epoch = 1, len(fresh())
    whole = list(islice(fresh().batches(size), start, start + 4))
    data = fresh()
    read = rows_read(data, monkeypatch)
    part = list(islice(data.batches(size, start), 4))
    assert [names for names, _ in part] == [names for names, _ in whole]
    for (_, one), (_, other) in zip(part, whole, strict=True):
        assert torch.equal(one.ids, other.ids) and torch.equal(one.media, other.media)
    assert min(epoch for _, epoch in read) == start // in_epoch
    epochs = {number // in_epoch for number in range(start, start + 4)}
    assert len(read) <= in_epoch * len(epochs)


def test_windows_before_the_start_are_not_read(small, toy_data, model: AnyToAny, monkeypatch):
    monkeypatch.setattr(stage_data, "_WINDOW_BATCHES", 2)
    store = DatasetFeatures(small, toy_data)
    data = StageData(toy_data, "train", "instructions", model.messages, store, seed=0)
    expected = next(islice(data.batches(4), 7, None))
    read = rows_read(data, monkeypatch)
    names, _ = next(data.batches(4, start=7))
    assert names == expected[0] and len(read) == 8


def mixed_data(folder: Path, toy_data: Path) -> Path:
    """The toy world's captioned rows as two sources, every third row of them `few`, with their features."""
    rows = [row for row in read_manifest(toy_data, "train") if "caption" in row.meta]
    sources = ("many", "many", "few")
    for split in ("train", "validation"):
        write_manifest(
            (replace(row, source=sources[n % 3]) for n, row in enumerate(rows)), folder, split
        )
    (folder / "features").symlink_to(toy_data / "features")
    return folder


def epochs_of(data: StageData, count: int) -> list[list[str]]:
    """The ids of the rows of some epochs, in their order."""
    batches = data.batches(1)
    return [[next(batches)[0][0] for _ in range(len(data))] for _ in range(count)]


def test_a_mixture_gives_every_source_its_part_of_an_epoch(
    small, toy_data, model: AnyToAny, tmp_path: Path
):
    folder, store = mixed_data(tmp_path / "data", toy_data), DatasetFeatures(small, toy_data)
    source = {row.id: row.source for row in read_manifest(folder)}
    size = Counter(source.values())

    def data(**mixture: float) -> StageData:
        return StageData(
            folder, "train", "comprehension", model.messages, store, seed=2, mixture=mixture
        )

    mixed = data(many=0.5, few=2.5)
    half, more = round(0.5 * size["many"]), round(2.5 * size["few"])
    assert len(mixed) == half + more
    first, second = epochs_of(mixed, 2)
    for names in (first, second):
        times = Counter(names)
        assert Counter(source[name] for name in names) == {"many": half, "few": more}
        assert max(n for name, n in times.items() if source[name] == "many") == 1
        few = {name for name in source if source[name] == "few"}
        assert {times[name] for name in few} == {2, 3}
    assert Counter(first) != Counter(second)
    assert epochs_of(data(many=0.5, few=2.5), 2) == [first, second]
    assert [next(mixed.batches(1, start=n))[0] for n in (3, len(mixed) + 1)] == [
        [first[3]],
        [second[1]],
    ]
    (named,) = epochs_of(data(few=0), 1)
    assert sorted(named) == sorted(name for name in source if source[name] == "many")
    assert len(data(many=0).captioned_media(1000)[1]) == size["few"]


def test_a_mixture_of_unknown_or_no_sources_is_refused(small, toy_data, tmp_path: Path):
    folder = mixed_data(tmp_path / "data", toy_data)

    def training(mixture: dict[str, float]) -> Path:
        stage = small.stages[1].model_copy(update={"mixture": mixture})
        profile = small.model_copy(update={"stages": {1: stage}})
        return train.train(profile, 1, folder, tmp_path / "run", max_steps=1)

    with pytest.raises(ValueError, match=r"names webvid, but the sources there are few, many"):
        training({"many": 1, "webvid": 0.5})
    with pytest.raises(ValueError, match="mixture leaves nothing of the train split"):
        training({"many": 0, "few": 0.001})
    record = runs.read_record(training({"many": 0.5, "few": 2.0}))
    assert record["profile"]["stages"]["1"]["mixture"] == {"many": 0.5, "few": 2.0}
    with pytest.raises(ValueError, match=r"stages\.1\.mixture\.few"):
        settings = small.model_dump()
        settings["stages"][1]["mixture"] = {"few": -1}
        Profile.parse(settings, "test")


def test_captioned_media_come_from_all_over_the_split(small, toy_data, model: AnyToAny):
    store = DatasetFeatures(small, toy_data)
    data = StageData(toy_data, "train", "comprehension", model.messages, store, seed=0)
    every, captions = data.captioned_media(1000)
    third, fewer = data.captioned_media(8)
    at = [n * len(captions) // 8 for n in range(8)]
    assert fewer == [captions[n] for n in at] and torch.equal(third, every[at])


# --- caches ---


def test_missing_features_name_the_command_that_makes_them(small: Profile, toy_data: Path):
    store = DatasetFeatures(small, toy_data)
    with pytest.raises(KeyError, match="media/none.png.*anytoany features"):
        store.media("media/none.png")
    with pytest.raises(KeyError, match="anytoany features"):
        store.caption("image", "a caption that nobody wrote")


def test_cached_features_are_the_models_own(model: AnyToAny, small: Profile, toy_data: Path):
    store = DatasetFeatures(small, toy_data)
    rows = [row for row in read_manifest(toy_data, "train") if "caption" in row.meta]
    for kind in ("image", "audio", "video"):
        row = next(row for row in rows if row.meta["kind"] == kind)
        path = row.messages[0]["content"][0][kind]
        direct = model.embed_media([(kind, str(toy_data / path))])[0].numpy()
        np.testing.assert_allclose(
            store.media(path), direct, rtol=2e-3, atol=2e-3 * np.abs(direct).max()
        )
        encode = CaptionEncoder(small.decoders[kind], torch.device("cpu"))
        condition = encode([row.meta["caption"]])[0].numpy()
        np.testing.assert_allclose(
            store.caption(kind, row.meta["caption"]), condition, rtol=2e-3, atol=5e-3
        )


def test_precomputing_again_adds_nothing(small: Profile, toy_data: Path):
    assert precomputing.precompute(small, toy_data) == {"media": 0, "captions": 0}
    assert json.loads((toy_data / "features/encoder/cache.json").read_text())["shape"] == [256]
    assert caption_key("a") != caption_key("b")


@pytest.fixture(scope="module")
def bare(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small toy dataset without its features."""
    folder = tmp_path_factory.mktemp("bare") / "data"
    shutil.copytree(toy_data, folder, ignore=shutil.ignore_patterns("features"))
    return folder


@pytest.mark.parametrize("reads", ["comprehension", "generation", "instructions"])
def test_on_the_fly_the_losses_are_those_of_cached_features(
    small: Profile, model: AnyToAny, toy_data: Path, bare: Path, reads: str
):
    """But for fp16, which the caches hold: a thousandth of a loss."""
    losses = []
    for kind, data in ((DatasetFeatures, toy_data), (LiveFeatures, bare)):
        read = StageData(data, "train", reads, model.messages, kind(small, data), seed=0)
        with torch.no_grad():
            losses.append([model(batch) for _, batch in islice(read.batches(4), 3)])
    for cached, live in zip(*losses, strict=True):
        assert cached.keys() == live.keys() >= {"text"}
        for name, loss in cached.items():
            torch.testing.assert_close(live[name], loss, rtol=1e-3, atol=1e-3)


def test_training_on_the_fly_needs_no_features_and_writes_none(
    small: Profile, bare: Path, tmp_path: Path
):
    with pytest.raises(KeyError, match="anytoany features --profile tiny --data"):
        train.train(small, 1, bare, tmp_path / "refused", max_steps=1)
    run = train.train(small, 1, bare, tmp_path / "live", max_steps=1, on_the_fly=True)
    assert runs.read_record(run)["steps"] == 1
    assert not (bare / "features").exists()


def test_a_halved_run_loads_and_takes_half_the_room(stage_runs: list[Path], tmp_path: Path):
    small = runs.halve(stage_runs[2], tmp_path / "run")
    for name in (runs.TENSORS, f"{runs.ADAPTER}/adapter_model.safetensors"):
        assert (small / name).stat().st_size < 0.6 * (stage_runs[2] / name).stat().st_size
    whole, halved = AnyToAny.from_pretrained(stage_runs[2]), AnyToAny.from_pretrained(small)
    pairs = zip(
        whole.input_projection.parameters(), halved.input_projection.parameters(), strict=True
    )
    assert all(torch.allclose(a, b, atol=1e-3) and b.dtype == torch.float32 for a, b in pairs)


def test_the_newest_run_is_the_last_written_else_the_shipped_one(
    stage_runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert runs.newest_run("tiny") is None
    runs.halve(stage_runs[2], tmp_path / "ckpt/tiny/run")
    assert runs.newest_run("tiny") == tmp_path / "ckpt/tiny/run"
    shutil.copytree(stage_runs[0], tmp_path / "ckpt/runs/tiny/mine")
    assert runs.newest_run("tiny") == tmp_path / "ckpt/runs/tiny/mine"
