"""Extractors of features, by models with random weights in the layout of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import write_clap, write_clip
from transformers import ClapFeatureExtractor, ClapModel, CLIPImageProcessorPil, CLIPModel

from anytoany_lib.benchmarks import extractors
from anytoany_lib.config import resolve
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.media import media_files

CAPTIONS = ["a red bell", "", "a blue car moving left " * 40]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clap(tmp_path_factory.mktemp("clap"))


def _pictures(folder: Path) -> list:
    """Pictures of two sizes, one of them in a file, and between them a file that is none."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    media_files.save_image(folder / "a.png", Image.fromarray(pixels[0]))
    (folder / "b.png").write_text("no picture")
    return [
        folder / "a.png",
        folder / "b.png",
        Image.fromarray(pixels[1]),
        Image.fromarray(pixels[2][:32, :32]),
    ]


def _tone(seconds: float, rate: int = 8000) -> tuple[np.ndarray, int]:
    """A tone and its rate."""
    return np.sin(np.arange(int(seconds * rate)) / 7).astype(np.float32), rate


def test_clip_gives_what_its_towers_give(clip_folder: Path, tmp_path: Path):
    extract = extractors.clip(clip_folder, batch_size=2)
    pictures = _pictures(tmp_path)
    features = extract("image", pictures)
    assert features.shape == (4, 8) and features.dtype == np.float32
    assert np.isnan(features[1]).all() and np.isfinite(features[[0, 2, 3]]).all()
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(pictures[2], return_tensors="pt")
    with torch.no_grad():
        seen = model.vision_model(**pixels).pooler_output
        alone = model.visual_projection(seen)[0].numpy()
    assert features[2] == pytest.approx(alone, abs=1e-5)


def test_captions_are_cut_and_padding_does_not_matter(clip_folder: Path):
    extract = extractors.clip(clip_folder)
    together = extract("text", CAPTIONS)
    assert together.shape == (3, 8) and np.isfinite(together).all()
    assert together[0] == pytest.approx(extract("text", CAPTIONS[:1])[0], abs=1e-5)


def test_frames_of_a_clip_are_pictures(clip_folder: Path):
    extract = extractors.clip(clip_folder)
    film = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    frames = extract("video", [film])
    assert frames.shape == (1, extractors.CLIP_FRAMES, 8)
    pictures = extract("image", [Image.fromarray(frame) for frame in film])
    assert frames[0, ::4] == pytest.approx(pictures, abs=1e-5)  # 16 frames of 4: each four times


def test_clap_hears_sounds_of_any_length_alike_every_time(clap_folder: Path):
    extract = extractors.clap(clap_folder, batch_size=2)
    sounds = [_tone(0.5), _tone(3.0), (np.full(8000, np.nan, np.float32), 8000), _tone(1.0, 16000)]
    features = extract("audio", sounds)
    assert features.shape == (4, 8)
    assert np.isnan(features[2]).all() and np.isfinite(features[[0, 1, 3]]).all()
    assert (extract("audio", sounds)[[0, 1, 3]] == features[[0, 1, 3]]).all()
    beginning = (sounds[1][0][:8000], 8000)
    assert extract("audio", [beginning])[0] == pytest.approx(features[1], abs=1e-5)
    assert extract("text", CAPTIONS).shape == (3, 8)
    heard = ClapFeatureExtractor.from_pretrained(clap_folder)(
        beginning[0], sampling_rate=8000, return_tensors="pt"
    )
    model = ClapModel.from_pretrained(clap_folder).eval()
    with torch.no_grad():
        state = model.audio_model(heard["input_features"].float(), torch.tensor([[False]]))
        alone = torch.nn.functional.normalize(model.audio_projection(state.pooler_output), dim=-1)
    assert features[1] / np.linalg.norm(features[1]) == pytest.approx(alone[0].numpy(), abs=1e-5)


def test_the_tiny_imagebind_embeds_all_kinds():
    folder = resolve("ckpt/tiny/encoder")
    extract = extractors.imagebind(folder)
    picture = Image.new("RGB", (64, 64), "red")
    film = np.zeros((8, 64, 64, 3), np.uint8)
    found = {
        "image": extract("image", [picture, "nowhere.png"]),
        "audio": extract("audio", [_tone(2.0)]),
        "video": extract("video", [film]),
        "text": extract("text", CAPTIONS[:1]),
    }
    width = ImageBind.from_checkpoint(folder).config.embed_dim
    assert {features.shape[1] for features in found.values()} == {width}
    assert np.isnan(found["image"][1]).all() and np.isfinite(found["image"][0]).all()


class _Mean(torch.nn.Module):
    """Means over everything but channels; halved if told so."""

    def forward(self, x: torch.Tensor, halve: bool = False) -> torch.Tensor:
        """(B, C, ...) or (B, N) -> (B, C) or (B, 1)."""
        means = x.float().view(x.shape[0], x.shape[1] if x.dim() > 2 else 1, -1).mean(-1)
        return means / 2 if halve else means


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript file."""
    file = tmp_path_factory.mktemp("script") / "mean.pt"
    torch.jit.script(_Mean()).save(str(file))
    return file


def test_a_torchscript_file_sees_raw_media(script: Path, tmp_path: Path):
    extract = extractors.torchscript(script)
    pictures = _pictures(tmp_path)
    features = extract("image", pictures)
    assert np.isnan(features[1]).all()
    for number in (0, 2, 3):
        raw = np.asarray(media_files.as_image(pictures[number]), dtype=np.float64)
        assert features[number] == pytest.approx(raw.mean((0, 1)), rel=1e-5)
    halved = extractors.torchscript(script, options={"halve": True})
    assert halved("image", pictures[:1]) == pytest.approx(features[:1] / 2)
    film = np.stack([np.full((16, 16, 3), 10 * t, np.uint8) for t in range(16)])
    assert extract("video", [film]) == pytest.approx(75)
    sound = (np.full(1600, 0.5, np.float32), 16000)
    assert extract("audio", [sound, (sound[0][:800], 16000)]) == pytest.approx(0.5)


def test_nothing_readable_is_all_failures(script: Path):
    assert (
        np.isnan(extractors.torchscript(script)("image", ["nowhere.png"] * 3)).tolist()
        == [[True]] * 3
    )


def test_what_is_not_there_or_not_embedded_is_said(clip_folder: Path, tmp_path: Path, script: Path):
    for make in (extractors.clip, extractors.clap):
        with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
            make(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        extractors.torchscript(tmp_path / "inception.pt")
    with pytest.raises(ValueError, match="CLIP embeds image, video, text, not audio"):
        extractors.clip(clip_folder)("audio", [])
    assert json.loads((clip_folder / "config.json").read_text())["model_type"] == "clip"
