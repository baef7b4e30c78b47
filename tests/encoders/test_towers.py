"""Encoders beside ImageBind: what they give is what the bare models of transformers give, and what is missing is named."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from towers import write_imagebind, write_pe_av, write_siglip, write_whisper
from transformers import SiglipVisionModel, WhisperFeatureExtractor, WhisperModel

from anytoany_lib.checkpoints import fetching
from anytoany_lib.checkpoints.integrity import tower_problems
from anytoany_lib.config import EncoderConfig, InputProjectionConfig, Profile
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_states import ImageBindStates
from anytoany_lib.encoders.sequences import of_length
from anytoany_lib.encoders.table import files_of, load_encoder

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 255, (40, 64, 3), dtype=np.uint8))
CLIP = RNG.integers(0, 255, (12, 40, 64, 3), dtype=np.uint8)
RATE = 16000


def sound(seconds: float, rate: int = RATE) -> tuple[np.ndarray, int]:
    return 0.1 * RNG.standard_normal(int(seconds * rate)).astype(np.float32), rate


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    write_siglip(folder / "siglip")
    write_whisper(folder / "whisper")
    return folder


def config(towers: Path, **changed: Any) -> EncoderConfig:
    folders = {"folder": str(towers / "siglip"), "audio_folder": str(towers / "whisper")}
    return EncoderConfig(**{"model": "siglip2+whisper", "embedding": 28, **folders} | changed)


def test_siglip_and_whisper_are_the_bare_models_each_in_its_columns(towers: Path):
    encoder = load_encoder(config(towers), torch.float32)
    eyes = SiglipVisionModel.from_pretrained(towers / "siglip").eval()
    resized = np.asarray(PICTURE.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = torch.from_numpy(resized / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.inference_mode():
        bare = eyes(pixel_values=pixels).pooler_output
    found = encoder.embed("image", [PICTURE])
    assert torch.allclose(found[:, :16], bare, atol=1e-4) and not found[:, 16:].any()
    heard = encoder.embed("audio", [sound(2.0), sound(5.0)])
    assert heard.shape == (2, 28) and not heard[:, :16].any() and heard[:, 16:].all()


def test_of_a_sound_only_what_sounds_is_averaged(towers: Path):
    samples, rate = sound(3.0)
    ears = WhisperModel.from_pretrained(towers / "whisper").encoder.eval()
    mels = WhisperFeatureExtractor.from_pretrained(towers / "whisper")
    read = mels(samples, sampling_rate=rate, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        bare = ears(read).last_hidden_state[:, :150]  # 3 s of 20 ms each
    found = load_encoder(config(towers), torch.float32).embed("audio", [(samples, rate)])
    assert torch.allclose(found[:, 16:], bare.mean(1), atol=1e-4)
    states = load_encoder(config(towers, states="patches", length=50), torch.float32)
    given = states.embed("audio", [(samples, rate)])[..., 16:]
    assert torch.allclose(given, bare.unflatten(1, (50, 3)).mean(2), atol=1e-4)


def test_a_clip_is_the_mean_of_its_frames_and_its_states_follow_each_other(towers: Path):
    encoder = load_encoder(config(towers), torch.float32)
    picked = [Image.fromarray(CLIP[round(11 * n / 7)]) for n in range(8)]
    frames = encoder.embed("image", picked)
    assert torch.allclose(encoder.embed("video", [CLIP])[0], frames.mean(0), atol=1e-5)
    patches = load_encoder(config(towers, states="patches", length=128), torch.float32)
    whole = patches.embed("video", [(CLIP, 4.0)])[0]  # 8 frames of 16 patches
    each = load_encoder(config(towers, states="patches", length=16), torch.float32)
    assert torch.allclose(whole, each.embed("image", picked).flatten(0, 1), atol=1e-5)


def test_what_is_missing_or_of_another_model_is_named(towers: Path, tmp_path: Path):
    broken = shutil.copytree(towers / "siglip", tmp_path / "siglip")
    weights = load_file(broken / "model.safetensors")
    gone = "vision_model.head.probe"
    save_file({n: t for n, t in weights.items() if n != gone}, broken / "model.safetensors")
    with pytest.raises(ValueError, match=rf"lacks 1 weights of its model: {gone}"):
        load_encoder(config(towers, folder=str(broken)), torch.float32)
    assert "1 tensors are not there" in tower_problems(broken, "encoder", "siglip2+whisper")[0]
    with pytest.raises(ValueError, match="'whisper' by its config.json, expected 'siglip'"):
        load_encoder(config(towers, folder=str(towers / "whisper")), torch.float32)
    with pytest.raises(
        ValueError, match="gives vectors of 28 numbers.*embedding: 32; set it to 28"
    ):
        load_encoder(config(towers, embedding=32), torch.float32)
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(settings | {"auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(ValueError, match="auto_map makes the model run code"):
        load_encoder(config(towers, folder=str(broken)), torch.float32)
    (broken / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights: expected model.safetensors"):
        load_encoder(config(towers, folder=str(broken)), torch.float32)
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json is missing"):
        load_encoder(config(towers, folder=str(broken)), torch.float32)


def test_both_models_are_planned_fetched_and_looked_at(towers: Path, profile: Profile):
    mine = profile.model_copy(update={"encoder": config(towers)})
    assert {"encoder", "audio encoder"} <= {row["model"] for row in fetching.fetch_plan(mine)}
    fetching.verify_models(mine)
    names = [file.parent.name for file in files_of(mine.encoder)]
    assert names == ["siglip"] * 3 + ["whisper"] * 3
    absent = mine.encoder.model_copy(update={"audio_folder": str(towers / "none")})
    with pytest.raises(FileNotFoundError, match=r"no siglip2\+whisper encoder in .*none"):
        files_of(absent)


@pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="the extra pe-av (timm, torchvision) is missing",
)
def test_pe_av_is_the_bare_model(tmp_path: Path):
    from transformers import (
        PeAudioFeatureExtractor,
        PeAudioVideoConfig,
        PeAudioVideoModel,
        PeVideoVideoProcessor,
    )

    folder = write_pe_av(tmp_path / "pe-av")
    pe_av = EncoderConfig(model="pe-av", folder=str(folder), embedding=16)
    encoder = load_encoder(pe_av, torch.float32)
    bare = PeAudioVideoModel(PeAudioVideoConfig.from_pretrained(folder)).eval()
    weights = load_file(folder / "model.safetensors")
    assert not bare.load_state_dict(weights, strict=False).unexpected_keys
    samples = [sound(1.0, 48000)[0], sound(0.5, 48000)[0]]
    heard = PeAudioFeatureExtractor.from_pretrained(folder)(
        samples, sampling_rate=48000, return_tensors="pt"
    )
    frames = torch.from_numpy(CLIP[np.linspace(0, 11, 16).astype(int)]).permute(0, 3, 1, 2)
    seen = PeVideoVideoProcessor.from_pretrained(folder)(
        videos=[frames], do_sample_frames=False, return_tensors="pt"
    )
    with torch.inference_mode():
        wanted = bare.get_audio_embeds(heard["input_values"], heard["padding_mask"].bool())
        film = bare.video_model.video_encoder(seen["pixel_values_videos"])
        films = bare.video_model.video_head(film.pooler_output)
    found = encoder.embed("audio", [(one, 48000) for one in samples])
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(encoder.embed("video", [CLIP]), films, atol=1e-4)
    still = encoder.embed("image", [Image.fromarray(CLIP[0])])
    assert still.shape == (1, 16) and not torch.allclose(still, films, atol=1e-4)
    states = load_encoder(
        pe_av.model_copy(update={"states": "patches", "length": 5}), torch.float32
    )
    assert states.embed("audio", [(samples[0], 48000)]).shape == (1, 5, 16)
    assert tower_problems(folder, "encoder", "pe-av") == []
    gone = "audio_model.audio_head.proj.weight"
    save_file({n: t for n, t in weights.items() if n != gone}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit this PE-AV: missing audio_head.proj"):
        load_encoder(pe_av, torch.float32)


def test_pe_av_says_which_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'timm and torchvision: pip install "anytoany\[pe-av\]"'):
        load_encoder(EncoderConfig(model="pe-av", folder=str(tmp_path)), torch.float32)


def test_imagebinds_states_are_what_its_head_makes_of_every_patch(tmp_path: Path):
    folder = write_imagebind(tmp_path / "imagebind")
    asked = EncoderConfig(folder=str(folder), embedding=12, states="patches", length=16)
    encoder = load_encoder(asked, torch.float32)
    assert isinstance(encoder, ImageBindStates)
    bare = ImageBind.from_checkpoint(folder, ["vision"])
    pixels = bare.prepare("image", PICTURE)[None]
    with torch.inference_mode():
        tokens = bare.modality_trunks["vision"](bare.modality_preprocessors["vision"](pixels))
        norm, _, linear = bare.modality_heads["vision"]
        wanted = linear(norm(tokens))
        pooled = bare.embed_prepared("image", pixels)
    assert torch.allclose(encoder.embed("image", [PICTURE])[0], wanted[0, 1:], atol=1e-6)
    assert torch.allclose(torch.nn.functional.normalize(wanted[:, 0]), pooled, atol=1e-6)
    film = encoder.embed("video", [CLIP])  # 2 clips of 16 patches, averaged in pairs
    assert film.shape == (1, 16, 12) and not torch.equal(film[0, :8], film[0, 8:])


def test_sequences_are_brought_to_one_length():
    states = torch.arange(12.0).reshape(1, 6, 2)
    assert torch.equal(of_length(states, 3)[0, :, 0], torch.tensor([1.0, 5.0, 9.0]))
    assert torch.equal(of_length(states, 12)[0, ::2], states[0])
    assert torch.equal(of_length(states, 2, [4])[0], torch.tensor([[1.0, 2.0], [5.0, 6.0]]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "siglip2+whisper"}, "audio_folder goes with model: siglip2"),
        ({"audio_folder": "ckpt/whisper"}, "audio_folder goes with model: siglip2"),
        ({"model": "pe-av", "kinds": ["image", "depth"]}, "depth are senses of imagebind alone"),
        ({"model": "pe-av", "architecture": {"embed_dim": 4}}, "architecture goes with"),
        ({"kinds": ["smell"]}, "Input should be 'image'"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(settings: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        EncoderConfig(**{"folder": "ckpt/x"} | settings)


def test_a_projection_reads_what_the_encoder_gives(profile: Profile):
    settings = profile.model_dump(mode="json")
    settings["input_projection"] = {"kind": "resampler"}
    with pytest.raises(ValueError, match="resampler reads encoder.states: patches, not pooled"):
        Profile.parse(settings, "mine")
    settings["encoder"]["states"] = "patches"
    assert Profile.parse(settings, "mine").encoder.shape == (64, 256)
    with pytest.raises(ValueError, match="heads: 7 have to divide width: 512"):
        InputProjectionConfig(kind="resampler", heads=7)
