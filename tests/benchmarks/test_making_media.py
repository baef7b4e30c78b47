"""Generating for a benchmark: the shipped run's pictures of captions, and every metric of them by small extractors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import small_run

from anytoany_lib import cli
from anytoany_lib.benchmarks import extractors, generation
from anytoany_lib.benchmarks.annotations import Item
from anytoany_lib.benchmarks.distances import frechet_distance, inception_score
from anytoany_lib.benchmarks.generation import caption_of, compare
from anytoany_lib.config import resolve
from anytoany_lib.media import media_files
from anytoany_lib.toyworld import draw

THINGS = [("bell", "red"), ("car", "blue"), ("boat", "green"), ("bird", "red"), ("bee", "blue")]


class _Corners(torch.nn.Module):
    """The mean colour (B, 3), or five class scores made of it."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 3) or (B, 5)."""
        colours = x.float().flatten(2).mean(-1) / 255
        if return_features:
            return colours
        return torch.cat([colours, colours[:, :2] - colours[:, 1:]], dim=1) * 9


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of features and logits in a TorchScript file."""
    file = tmp_path_factory.mktemp("network") / "colours.pt"
    torch.jit.script(_Corners()).save(str(file))
    return file


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five toy-world pictures with two captions each, in COCO's form."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    told = []
    for number, (thing, colour) in enumerate(THINGS):
        media_files.save_image(folder / f"{number}.png", draw(thing, colour, rng))
        told += [(number, f"a {colour} {thing}"), (number, f"one {colour} {thing}")]
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(len(THINGS))],
        "annotations": [{"image_id": number, "caption": text} for number, text in told],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return folder


def _command(name: str, real: Path, made: Path, *more: str) -> int:
    where = ("--annotations", str(real / "captions.json"), "--made", str(made))
    return cli.main(["benchmark", name, "--benchmark", "coco", *where, *more])


def test_a_run_makes_pictures_and_they_are_measured(
    real: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    run = ("--run", str(small_run(tmp_path / "run")), "--batch-size", "2")
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert _command("generate", real, parts, *run, "--limit", "3") == 0
    assert _command("generate", real, parts, *run) == 0
    assert "3 already there, 2 made, 0 failed" in capsys.readouterr().out
    assert _command("generate", real, whole, *run) == 0
    lines = generation.made_lines(parts)
    assert lines == generation.made_lines(whole) and len(lines) == 5
    for line, (thing, colour) in zip(lines, THINGS, strict=True):
        assert line["caption"].endswith(f"{colour} {thing}")
        ones, others = (
            np.asarray(media_files.load_image(folder / line["file"]), dtype=float)
            for folder in (parts, whole)
        )
        assert np.abs(ones - others).mean() < 2  # another batch rounds otherwise
    measure = ("--media", str(real), "--features", str(network), "--logits", str(network))
    measure += (
        "--option",
        "return_features=true",
        "--imagebind",
        str(resolve("ckpt/tiny/encoder")),
    )
    out = tmp_path / "numbers.json"
    assert _command("compare", real, whole, *measure, "--out", str(out)) == 1
    refused = capsys.readouterr().err
    assert "cannot be split into 10" in refused  # five pictures are too few for an Inception score
    measure = measure[:4] + measure[6:]
    assert _command("compare", real, whole, *measure, "--out", str(out)) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics.keys() == {"Frechet distance", "ImageBind cosine"}
    assert metrics["Frechet distance"]["n"] == 5 and metrics["Frechet distance"]["failures"] == 0
    assert metrics["Frechet distance"]["value"] < 0.1
    assert metrics["ImageBind cosine"]["value"] > 0.3
    assert _command("generate", real, parts, *run, "--seed", "1") == 1
    assert "was begun with seed: 0, not 1" in capsys.readouterr().err
    assert _command("compare", real, whole, "--media", str(real)) == 1
    assert "name what extracts features" in capsys.readouterr().err


def test_the_caption_is_of_the_seed_and_the_number():
    item = Item("1", "image", ("1.png",), [f"caption {number}" for number in range(5)])
    drawn = [caption_of(item, number, seed=3) for number in range(40)]
    assert drawn == [caption_of(item, number, seed=3) for number in range(40)]
    assert set(drawn) == set(item.references)
    assert drawn != [caption_of(item, number, seed=4) for number in range(40)]


def _pictures(folder: Path, seed: int) -> list[Path]:
    """Thirty pictures of noise."""
    rng = np.random.default_rng(seed)
    paths = [folder / f"{seed}-{number}.png" for number in range(30)]
    for path in paths:
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        media_files.save_image(path, Image.fromarray(pixels).resize((16, 16)))
    return paths


def test_every_metric_and_the_media_that_failed(network: Path, tmp_path: Path):
    real, made = _pictures(tmp_path, 0), _pictures(tmp_path, 1)
    made[7] = tmp_path / "failed"
    features = extractors.torchscript(network, options={"return_features": True})
    logits = extractors.torchscript(network)
    like = extractors.imagebind(resolve("ckpt/tiny/encoder"))
    found = {"features": features, "logits": logits, "clip": like, "clap": like, "imagebind": like}
    scores = compare("image", real, made, ["a bell"] * 30, found, seed=2)
    assert scores["Frechet distance"] == frechet_distance(
        features("image", real), features("image", made)
    )
    assert scores["Inception score"] == inception_score(logits("image", made), seed=2)
    assert scores["KL divergence"][1:] == (29, 1)
    assert scores["CLIPScore"][1:] == scores["CLAP score"][1:] == (30, 1)
    assert {score.failures for score in scores.values()} == {1}


def test_frames_of_clips_are_pictures_to_a_frame_wise_distance(network: Path):
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8) for _ in range(2)]
    features = extractors.torchscript(network, options={"return_features": True})
    rows = extractors.of_parts(features)("video", [clips[0], "nowhere.mp4", clips[1]])
    assert rows.shape == (33, 3) and np.isnan(rows[16]).all()
    assert rows[17] == pytest.approx(clips[1][0].mean((0, 1)) / 255, rel=1e-5)
    score = compare("video", clips, clips, ["", ""], {"parts": extractors.of_parts(features)})
    assert score["Frechet distance, parts"] == pytest.approx((0, 32, 0), abs=1e-9)


def test_pieces_of_sounds_are_heard_one_by_one():
    def loudness(kind: str, sounds: list) -> np.ndarray:
        assert kind == "audio" and {len(samples) / rate for samples, rate in sounds} == {0.96}
        return np.array([[samples.mean()] for samples, _ in sounds])

    steps = np.repeat(np.float32([0.1, 0.2, 0.3]), [960, 960, 500])
    rows = extractors.of_parts(loudness)(
        "audio", [(steps, 1000), "nowhere.wav", (steps[:480], 1000)]
    )
    assert rows[[0, 1, 3], 0] == pytest.approx([0.1, 0.2, 0.05]) and np.isnan(rows[2]).all()
    with pytest.raises(ValueError, match="parts are of video or audio, not of image"):
        extractors.of_parts(loudness)("image", [])
