"""Depth, thermal pictures and motion readings from file to soft tokens: prepared, shown, cached, and refused where no sense is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from towers import write_imagebind

from anytoany_lib.chat.session import Session
from anytoany_lib.chat.uploads import attachment, part_of
from anytoany_lib.config import Profile
from anytoany_lib.data.building import build
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import DataError, Row, check_row
from anytoany_lib.encoders.imagebind_inputs import HUGE, prepare
from anytoany_lib.encoders.table import load_encoder
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.precomputing import precompute
from anytoany_lib.messages import MessageEncoder, Vocabulary
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.training.stage_data import StageData

SENSED = ("depth", "thermal", "imu")


@pytest.fixture(scope="module")
def seeing(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Profile `tiny` with an encoder of six senses in the place of its own."""
    folder = write_imagebind(tmp_path_factory.mktemp("imagebind") / "encoder")
    kinds = ("image", "audio", "video", *SENSED)
    changed = {"folder": str(folder), "embedding": 12, "soft_tokens": 2, "kinds": kinds}
    return profile.model_copy(update={"encoder": profile.encoder.model_copy(update=changed)})


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of captioned media of the three senses."""
    folder, rng = tmp_path_factory.mktemp("sensed"), np.random.default_rng(0)
    depth = rng.integers(500, 8000, (24, 32)).astype(np.uint16)
    Image.fromarray(depth).save(folder / "room.depth.png")
    Image.fromarray((depth // 40).astype(np.uint8)).save(folder / "oven.thermal.png")
    np.save(folder / "walk.imu.npy", rng.standard_normal((6, 2000)))
    for name in ("room.depth", "oven.thermal", "walk.imu"):
        (folder / f"{name}.txt").write_text(f"a {name.split(chr(46))[0]}")
    return folder


def built(captioned: Path, tmp_path: Path) -> None:
    build("folder", captioned, tmp_path / "data", validation_fraction=0, test_fraction=0)


def test_depth_is_read_as_disparity_of_a_kinect():
    metres = np.full((240, 320), 2.0, np.float32)
    metres[:, 160:] = 0.0  # not measured
    found = prepare(HUGE, "depth", metres)
    assert found.shape == (1, 224, 224)
    near = (0.075 * 518.86 / 2.0 / 75 - 0.0418) / 0.0295
    assert torch.allclose(found[0, :, :100], torch.tensor(near), atol=1e-5)
    assert torch.allclose(found[0, :, 124:], torch.tensor(-0.0418 / 0.0295), atol=1e-5)
    closest = prepare(HUGE, "depth", np.full((224, 224), 0.001, np.float32))
    assert torch.allclose(closest, torch.tensor((1 - 0.0418) / 0.0295))


def test_thermal_pictures_and_readings_are_taken_as_they_are():
    values = np.linspace(0, 1, 224 * 224, dtype=np.float32).reshape(224, 224)
    assert np.array_equal(prepare(HUGE, "thermal", values)[0].numpy(), values)
    readings = np.random.default_rng(0).standard_normal((6, 2000)).astype(np.float32)
    assert np.array_equal(prepare(HUGE, "imu", readings).numpy(), readings)


def test_a_folder_of_them_is_a_dataset_whose_features_training_reads(
    seeing: Profile, captioned: Path, tmp_path: Path
):
    built(captioned, tmp_path)
    rows = list(read_manifest(tmp_path / "data", "train"))
    assert sorted(row.meta["kind"] for row in rows) == sorted(SENSED)
    added = precompute(seeing, tmp_path / "data")
    assert added["media"] == 3 and added["captions"] == 0
    features = DatasetFeatures(seeing, tmp_path / "data")
    encoder = load_encoder(seeing.encoder, torch.float32)
    for row in rows:
        part = row.messages[0]["content"][0]
        path = part[part["type"]]
        prepared = {
            "depth": lambda p: np.asarray(Image.open(p)) / 1000.0,
            "thermal": lambda p: np.asarray(Image.open(p)) / 255.0,
            "imu": np.load,
        }[part["type"]](tmp_path / "data" / path)
        wanted = encoder.embed(part["type"], [prepared])[0].numpy()
        assert np.allclose(features.media(path), wanted, atol=2e-2, rtol=1e-3)


def test_they_are_described_in_every_stage_and_asked_for_in_none(
    seeing: Profile, model: AnyToAny, captioned: Path, tmp_path: Path
):
    built(captioned, tmp_path)
    precompute(seeing, tmp_path / "data")
    encoder = MessageEncoder(model.tokenizer, seeing, model.vocabulary)
    features = DatasetFeatures(seeing, tmp_path / "data")
    for reads in ("comprehension", "generation"):
        data = StageData(tmp_path / "data", "train", reads, encoder, features, seed=0)
        _, batch = next(data.batches(3))
        assert batch.media.shape == (3, 12) and not batch.signals_at


def test_the_ids_of_other_tokens_stay_as_they_are(seeing: Profile, profile: Profile):
    assert Vocabulary.of(100, seeing) == Vocabulary.of(100, profile)


def test_a_reply_can_be_asked_about_them(seeing: Profile, captioned: Path):
    model = AnyToAny.from_profile(seeing).eval()
    parts = [
        part_of(path, path.name)
        for path in sorted({*captioned.iterdir()} - {*captioned.glob("*.txt")})
    ]
    assert sorted(part["type"] for part in parts) == sorted(SENSED)
    ids = model.messages.encode([{"role": "user", "content": parts}], prompt=True)
    given = model.embed_media([(kind, medium) for kind, medium, _ in ids.media])
    assert given.shape == (3, 12) and len({tuple(row.tolist()) for row in given}) == 3
    session = Session(model)
    session.send([*parts, {"type": "text", "text": "What is this?"}]).close()
    assert len(session.messages[0]["content"]) == 4


def test_an_encoder_without_the_sense_refuses_them(
    model: AnyToAny, profile: Profile, captioned: Path, tmp_path: Path
):
    room = captioned / "room.depth.png"
    expected = r"shows its encoder \(encoder.kinds\) image, audio, video, not depth"
    with pytest.raises(ValueError, match=expected):
        Session(model).send([{"type": "depth", "depth": room}])
    built(captioned, tmp_path)
    with pytest.raises(
        ValueError, match="shows depth, imu, thermal, profile tiny shows its encoder"
    ):
        precompute(profile, tmp_path / "data")
    hoped = profile.encoder.model_copy(update={"kinds": ("image", "depth")})
    with pytest.raises(ValueError, match=r"no such sense: \['depth'\]"):
        load_encoder(hoped, torch.float32)


def test_they_are_never_generated():
    parts = [{"type": "depth", "depth": "a.png", "caption": "a room"}]
    row = Row("1", "mine", [{"role": "assistant", "content": parts}])
    with pytest.raises(DataError, match="depth can be shown, and is never generated"):
        check_row(row)


def test_attached_files_are_what_they_are_named(captioned: Path, tmp_path: Path):
    uploaded = tmp_path / "0123abcd.png"  # the page keeps the ending alone
    uploaded.write_bytes((captioned / "room.depth.png").read_bytes())
    depth = attachment("1", "", "room.depth.png", uploaded)
    assert depth.kind == "depth" and depth.thumbnail.startswith("data:image/jpeg")
    assert attachment("2", "", "room.png", uploaded).kind == "image"
    assert attachment("3", "", "walk.npy", captioned / "walk.imu.npy").kind == "imu"
    with pytest.raises(ValueError, match="16 bits"):
        attachment("4", "", "oven.depth.png", captioned / "oven.thermal.png")


def test_runs_of_before_are_shown_the_kinds_of_before(profile: Profile):
    shipped = runs.profile_of(
        runs.read_record(Path("ckpt/tiny/run").resolve()), Path("ckpt/tiny/run")
    )
    assert shipped.encoder.kinds == ("image", "audio", "video") == profile.encoder.kinds
    assert shipped.encoder.states == "pooled" and shipped.input_projection.kind == "linear"
