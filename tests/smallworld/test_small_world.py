"""The small world on a stand-in of its packages: what is said of a scene is what can be seen and heard, and the kit reads all of it."""

from __future__ import annotations

import colorsys
import json
from collections import Counter

import numpy as np
import pytest
import small_packages
from scipy import ndimage

from anytoany_lib.config import resolve
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import captions_in, media_in
from anytoany_lib.features import precomputing
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.smallworld import dataset, scenes
from anytoany_lib.smallworld.assets import World
from anytoany_lib.smallworld.language import caption, request
from anytoany_lib.smallworld.pictures import CLIP_PIXELS, FRAMES, PIXELS, clip, picture
from anytoany_lib.smallworld.scenes import HUES, MOTIONS, Scene, random_scene
from anytoany_lib.smallworld.sounds import RATE, SECONDS, sound
from anytoany_lib.smallworld.things import HEARD, THINGS

REAL = resolve(dataset.FOLDER)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(small_packages.write(tmp_path_factory.mktemp("packages") / "there"))


def drawn(world: World, **said) -> np.ndarray:
    """A dog on white as float pixels (H, W, 3)."""
    scene = Scene("dog", ground="white", **said)
    return np.asarray(picture(world, scene, np.random.default_rng(0)), np.float32)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Where something stands, (H, W)."""
    return np.abs(pixels - 250).max(-1) > 30


@pytest.mark.parametrize("hue", HUES)
def test_a_hue_is_seen(world, hue):
    pixels = drawn(world, hue=hue)
    red, green, blue = np.median(pixels[on_white(pixels)], axis=0) / 255
    degrees = 360 * colorsys.rgb_to_hsv(red, green, blue)[0]
    assert abs((degrees - HUES[hue] + 180) % 360 - 180) < 6


def test_place_size_and_number_are_seen(world):
    middle = {
        place: np.array(ndimage.center_of_mass(on_white(drawn(world, place=place)))) / PIXELS
        for place in scenes.PLACES
    }
    assert middle["left"][1] < 0.35 < 0.65 < middle["right"][1]
    assert middle["top"][0] < 0.35 < 0.65 < middle["bottom"][0]
    small, big = (on_white(drawn(world, size=size)).mean() for size in ("small", "big"))
    assert 3 * small < big
    for count in (1, 2, 3):
        assert ndimage.label(on_white(drawn(world, count=count)))[1] == count
    for place in scenes.PLACES:  # a big thing at the edge is there as a whole
        there = on_white(drawn(world, place=place, size="big"))
        assert not (there[0] | there[-1] | there[:, 0] | there[:, -1]).any()


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_is_seen(world, motion):
    scene = Scene("dog", motion=motion, ground="white")
    frames = clip(world, scene, np.random.default_rng(0)).astype(np.float32)
    assert frames.shape == (FRAMES, CLIP_PIXELS, CLIP_PIXELS, 3)
    there = [on_white(frame) for frame in frames]
    (down, right), area = (
        np.subtract(*(ndimage.center_of_mass(there[at]) for at in (-1, 0))) / CLIP_PIXELS,
        there[-1].mean() - there[0].mean(),
    )
    seen = {"left": -right, "right": right, "up": -down, "down": down}
    seen |= {"growing": 2 * area, "shrinking": -2 * area}
    assert max(seen, key=lambda name: seen[name]) == motion and seen[motion] > 0.3


def test_a_loop_moves_on_its_spot_and_a_picture_does_not(world):
    moving, still = (
        clip(world, Scene(thing, ground="white"), np.random.default_rng(0))
        for thing in ("dog", "apple")
    )
    assert np.ptp(moving.astype(int), axis=0).max() > 50 and np.ptp(still, axis=0).max() == 0


def bursts(samples: np.ndarray) -> int:
    """How often it gets loud."""
    loud = np.abs(samples).reshape(-1, RATE // 50).max(1) > 0.15
    return int((np.diff(np.r_[0, loud.astype(int)]) == 1).sum())


def test_number_and_pitch_are_heard(world):
    pytest.importorskip("tinysoundfont", reason="the extra `small` is not installed")
    highest = {}
    for pitch, expected in ((None, 250), ("low", 125), ("high", 500)):
        for count in (1, 2, 3):
            samples = sound(world.instruments, "piano", pitch, count)
            assert samples.shape == (round(SECONDS * RATE),) and samples.dtype == np.float32
            assert bursts(samples) == count and np.abs(samples).max() == pytest.approx(0.7)
        spectrum = np.abs(np.fft.rfft(samples))
        highest[pitch] = spectrum.argmax() / SECONDS
        assert highest[pitch] == pytest.approx(expected, rel=0.03)
    with pytest.raises(ValueError, match="nothing is heard of the cake"):
        sound(world.instruments, "cake", None, 1)


def test_held_out_pairs_come_when_they_are_asked_for_alone():
    rng = np.random.default_rng(0)
    for kind in scenes.ATTRIBUTES:
        assert not any(scenes.is_held_out(random_scene(kind, rng)) for _ in range(400))
        assert all(scenes.is_held_out(random_scene(kind, rng, True)) for _ in range(100))
    assert {thing for thing, _ in scenes.HELD_OUT_HUES} == set(THINGS)
    missed = Counter(hue for _, hue in scenes.HELD_OUT_HUES)
    assert set(missed) == set(HUES) and max(missed.values()) - min(missed.values()) <= 1
    with pytest.raises(ValueError, match=r"nothing is heard of the cake: expected one of bird"):
        random_scene("audio", rng, thing="cake")


def test_captions_say_what_is_the_case():
    assert caption("image", Scene("bell", "red", "small", "left", 1, "grass")) == (
        "a small red bell on the left on grass"
    )
    assert caption("image", Scene("fox", "orange", count=3)) == "three orange foxes"
    assert caption("audio", Scene("bell", pitch="low", count=2)) == "a low bell ringing twice"
    assert caption("video", Scene("owl", motion="left")) == "an owl moving left"
    rng, words = np.random.default_rng(0), Counter()
    scene = Scene("dog", "blue", count=1, motion="up", ground="night")
    for _ in range(60):
        for said in (caption("video", scene, rng), request("video", scene, rng)):
            words[said] += 1
            assert "blue" in said and ("dog" in said or "puppy" in said), said
            assert ("up" in said or "rising" in said) and ("night" in said or "stars" in said)
    assert len(words) > 20


def test_a_thing_with_another_name_is_found(world, tmp_path):
    folder = small_packages.write(tmp_path / "others")
    labels = json.loads((folder / "labels.json").read_text())
    labels[0]["label"] = "hot dog"
    labels[0]["tags"] = ["sausage"]
    (folder / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(ValueError, match="1f436 is called 'hot dog sausage', and never 'puppy'"):
        World(folder)
    (folder / "pictures" / "1f436.webp").unlink()
    with pytest.raises(FileNotFoundError, match="nothing shows 1f436, the dog"):
        World(folder)
    with pytest.raises(FileNotFoundError, match="`make small-data` fetches them"):
        World(tmp_path / "nowhere")


def test_the_kit_reads_it(world, profile, tmp_path):
    pytest.importorskip("tinysoundfont", reason="the extra `small` is not installed")
    counts = dataset.write(tmp_path / "small", world, 24, 25, 4, seed=3)
    assert counts == {"train": 49, "validation": 3, "test": 48}
    rows = {split: read_manifest(tmp_path / "small", split) for split in counts}
    tasks = Counter(row.meta["task"] for row in rows["test"])
    assert len(tasks) == 12 and set(tasks.values()) == {4}
    unseen = [row for row in rows["test"] if row.meta["unseen"]]
    assert len(unseen) == 10
    for row in unseen:
        if row.meta["task"].startswith("text->"):
            assert scenes.is_held_out(Scene(**row.meta["expect"][0]["scene"]))
    assert (tmp_path / "small/packages-LICENCES.md").is_file()
    precomputing.precompute(profile, tmp_path / "small")
    features = DatasetFeatures(profile, tmp_path / "small")
    # What replies show is made from its caption, and need not be embedded.
    shown = [path for row in rows["train"] for _, path in media_in(row.messages[:1])]
    assert len(shown) > 30 and features.lacking_media(shown) == []
    assert features.media(shown[0]).shape == (profile.encoder.embedding,)
    for kind, said in (pair for row in rows["train"] for pair in captions_in(row)):
        assert features.caption(kind, said).shape == profile.decoders[kind].condition


def test_the_same_seed_writes_the_same_world(world, tmp_path):
    pytest.importorskip("tinysoundfont", reason="the extra `small` is not installed")
    contents = []
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        dataset.write(tmp_path / name, world, 5, 3, 1, seed)
        media = {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name / "media").rglob("*.[pw]*")  # pictures and sounds
        }
        contents.append((media, [row.messages for row in read_manifest(tmp_path / name, "train")]))
    assert len(contents[0][0]) > 5 and contents[0] == contents[1] != contents[2]


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the real packages are not in {REAL}: `make small-data`"
)
def test_the_real_packages_have_all_of_it():
    real = World(REAL)
    assert min(min(real.picture(name).size) for name in THINGS) >= 64
    assert sum(len({frame.tobytes() for frame in real.loop(name)}) > 1 for name in THINGS) >= 35
    pytest.importorskip("tinysoundfont", reason="the extra `small` is not installed")
    for name in HEARD:
        assert sound(real.instruments, name, None, 1).std() > 0.005
