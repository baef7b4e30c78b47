"""Extractors of features, by models with random weights in the layout of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
)

from anytoany_lib import extractors, media
from anytoany_lib.config import resolve
from anytoany_lib.imagebind import ImageBind

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
CAPTIONS = ["a red bell", "", "a blue car moving left " * 40]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """The vocabulary of the tiny encoder."""
    return CLIPTokenizer.from_pretrained(resolve("ckpt/tiny/encoder"))


@pytest.fixture(scope="module")
def clip_folder(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of one layer, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    config = CLIPConfig(
        text_config=TINY | words | ends,
        vision_config=TINY | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap_folder(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP of few layers that hears one second, fused as the published one is."""
    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 18, "pad_token_id": 1}
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "depths": [1, 1], "num_attention_heads": [1, 1], "window_size": 4, "enable_fusion": True,
        "patch_size": 4, "patch_stride": [4, 4], "fusion_type": None,
    }  # fmt: skip
    ClapModel(
        ClapConfig(text_config=TINY | words, audio_config=audio, projection_dim=8)
    ).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, max_length_s=1, hop_length=80, frequency_max=4000
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _pictures(folder: Path) -> list:
    """Pictures of two sizes, one of them in a file, and between them a file that is none."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    media.save_image(folder / "a.png", Image.fromarray(pixels[0]))
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
        raw = np.asarray(media.as_image(pictures[number]), dtype=np.float64)
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
