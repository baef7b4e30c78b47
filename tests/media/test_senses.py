"""Depth maps, thermal pictures and motion readings: files and arrays in, one form out, and wrong ones refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anytoany_lib.media import media_files, senses
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.file_types import shown_by_name

RNG = np.random.default_rng(0)
MILLIMETRES = RNG.integers(0, 8000, (24, 32)).astype(np.uint16)
READINGS = RNG.standard_normal((6, 2000)).astype(np.float32)


def saved(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def test_depth_counts_millimetres_in_files_and_metres_in_floats(tmp_path: Path):
    file = saved(tmp_path / "room.depth.png", MILLIMETRES)
    wanted = (MILLIMETRES / 1000).astype(np.float32)
    for medium in (file, str(file), Image.open(file), MILLIMETRES, wanted):
        found = senses.as_depth(medium)
        assert found.dtype == np.float32 and np.allclose(found, wanted)


def test_thermal_pictures_of_8_and_16_bits_are_from_0_to_1(tmp_path: Path):
    grey = RNG.integers(0, 255, (24, 32)).astype(np.uint8)
    wanted = grey / np.float32(255)
    infrared = np.repeat(grey[..., None], 3, axis=2)  # as cameras save JPEG
    for medium in (grey, saved(tmp_path / "a.png", grey), saved(tmp_path / "b.png", infrared)):
        assert np.allclose(senses.as_thermal(medium), wanted)
    counts = (29000 + 10 * grey.astype(np.int64)).astype(np.uint16)
    found = senses.as_thermal(saved(tmp_path / "c.png", counts))
    assert found.min() == 0 and found.max() == 1
    assert np.allclose(found, (grey - float(grey.min())) / float(np.ptp(grey)))


def test_readings_come_from_npy_and_csv_with_or_without_a_header(tmp_path: Path):
    np.save(tmp_path / "walk.npy", READINGS)
    np.save(tmp_path / "turned.npy", READINGS.T)
    np.savetxt(tmp_path / "bare.csv", READINGS.T, delimiter=",")
    np.savetxt(tmp_path / "named.csv", READINGS.T, delimiter=",", header="a,b,c,d,e,f", comments="")
    for name in ("walk.npy", "turned.npy", "bare.csv", "named.csv"):
        assert np.allclose(senses.as_imu(tmp_path / name), READINGS, atol=1e-6)
    assert senses.as_imu(READINGS) is not READINGS


@pytest.mark.parametrize(
    ("kind", "medium", "reason"),
    [
        ("depth", np.zeros((4, 4), np.uint8), "16 bits, which count millimetres; this one has 8"),
        ("depth", np.zeros((4, 4), np.uint16), "no depth was measured anywhere"),
        ("depth", -np.ones((4, 4)), "finite and not below 0"),
        ("depth", np.ones((4, 4, 3)), r"an array \(H, W\), not float64 \(4, 4, 3\)"),
        ("depth", np.ones((0, 4)), "0 pixels"),
        ("thermal", 2 * np.ones((4, 4)), "from 0 to 1, found 2 to 2"),
        ("thermal", "a picture", "no such file"),
        ("imu", np.ones((6, 1000)), "6 channels .* of 2000 readings, 5 s, found 6 x 1000: cut it"),
        ("imu", np.full((6, 2000), np.nan), "readings are finite"),
        ("imu", np.array(["a"]), "readings are numbers"),
    ],
)
def test_what_cannot_be_used_says_what_was_expected(kind: str, medium: Any, reason: str):
    with pytest.raises(MediaError, match=reason):
        media_files.as_media(kind, medium)


def test_files_that_are_something_else_are_refused(tmp_path: Path):
    colours = saved(tmp_path / "photo.depth.png", RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8))
    with pytest.raises(MediaError, match="one channel of grey for depth, found a picture in RGB"):
        media_files.as_media("depth", colours)
    (tmp_path / "words.csv").write_text("walks,runs\nand,stands\n")
    with pytest.raises(MediaError, match="unreadable"):
        media_files.as_media("imu", tmp_path / "words.csv")
    np.save(tmp_path / "code.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(MediaError, match="allow_pickle=False"):
        media_files.as_media("imu", tmp_path / "code.npy")


def test_a_photograph_of_16_bits_stays_a_picture_unless_it_is_named_depth(tmp_path: Path):
    photo, depth = (saved(tmp_path / name, MILLIMETRES) for name in ("a.png", "a.depth.png"))
    assert media_files.kind_in(photo) == "image" and shown_by_name(photo) == "image"
    assert media_files.as_media("image", photo).size == (32, 24)
    assert shown_by_name(depth) == "depth" and shown_by_name("b.THERMAL.jpg") == "thermal"
    assert shown_by_name("c.imu.csv") == "imu" and shown_by_name("c.csv") is None
    assert media_files.content_key("depth", photo) != media_files.content_key("image", photo)


@pytest.mark.parametrize("kind", ["depth", "thermal", "imu"])
def test_what_is_written_is_read_again_and_can_be_looked_at(kind: str, tmp_path: Path):
    medium = {"depth": MILLIMETRES, "thermal": MILLIMETRES, "imu": READINGS}[kind]
    path = media_files.save(kind, tmp_path / f"a{media_files.SUFFIX[kind]}", medium)
    assert shown_by_name(path) == kind
    wanted = media_files.as_media(kind, medium)
    assert np.abs(media_files.as_media(kind, path) - wanted).max() <= 1 / 255
    assert path.read_bytes() == media_files.to_bytes(kind, medium)
    assert media_files.content_key(kind, medium) == media_files.content_key(kind, wanted)
    assert len(senses.picture(kind, path).getcolors(10**6) or []) > 1
