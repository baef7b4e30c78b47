"""ImageBind's words, which it is published without: found wherever a profile has them, or said before anything is drawn."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import small_run
from transformers import CLIPTokenizer

from anytoany_lib.config import Profile, resolve
from anytoany_lib.encoders import clip_vocabulary, imagebind
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import HUGE, ImageBindConfig
from anytoany_lib.evaluation import matrix, similarity

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "published"
TEXTS = ["a red bell", "A blue BOAT that moves left"]


@pytest.fixture
def wordless(tmp_path: Path) -> Path:
    """The shipped encoder without its words, as the published one is."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to((resolve("ckpt/tiny/encoder") / name).resolve())
    return folder


def changed(profile: Profile, encoder: Path, **others: object) -> Profile:
    encoder_of = profile.encoder.model_copy(update={"folder": str(encoder)})
    return profile.model_copy(update={"encoder": encoder_of} | others)


def test_a_decoders_words_are_read_by_if_they_are_those_of_the_encoder(
    profile: Profile, wordless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = ImageBind.from_checkpoint(resolve("ckpt/tiny/encoder"), ["text"])
    words = clip_vocabulary.folders(changed(profile, wordless))
    # The tiny decoders have as many words as the tiny encoder, and other ones.
    assert ImageBind.from_checkpoint(wordless, ["text"], words=words).tokenizer is None
    monkeypatch.setattr(clip_vocabulary, "PUBLISHED", own.config.vocab_size)
    shutil.copytree(resolve("ckpt/tiny/encoder"), tmp_path / "pipeline" / "tokenizer")
    pipeline = str(tmp_path / "pipeline")
    image = profile.decoders["image"].model_copy(update={"folder": pipeline})
    words = clip_vocabulary.folders(changed(profile, wordless, decoders={"image": image}))
    found = ImageBind.from_checkpoint(wordless, ["text"], words=words)
    assert torch.equal(found.tokenize(TEXTS), own.tokenize(TEXTS))
    assert torch.equal(found.embed("text", TEXTS), own.embed("text", TEXTS))


def test_the_published_file_has_words_of_the_right_number(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shipped = (resolve("ckpt/tiny/encoder") / "config.json").read_text()
    config = ImageBindConfig.model_validate_json(shipped)
    monkeypatch.setattr(imagebind, "HUGE", config)
    monkeypatch.setattr(clip_vocabulary, "PUBLISHED", config.vocab_size)
    file = tmp_path / "imagebind_huge.pth"
    torch.save(ImageBind(config).state_dict(), file)
    words = clip_vocabulary.folders(profile)
    assert ImageBind.from_checkpoint(file, ["text"], words=words).tokenizer is not None
    imagebind.check_words(file, words)
    monkeypatch.setattr(imagebind, "HUGE", config.model_copy(update={"vocab_size": 700}))
    with pytest.raises(ValueError, match=r"imagebind_huge.pth.*CLIP tokenizer of 700 words.*01_ch"):
        imagebind.check_words(file, words)


def written(folder: Path, vocabulary: dict[str, int], whole: bool = False) -> Path:
    folder.mkdir()
    if whole:
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    else:
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def test_other_tokenizers_are_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clip_vocabulary, "PUBLISHED", 3)
    words = {"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}
    robertas = {"<s>": 0, "a": 1, "</s>": 2}
    first = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2}
    folders = [
        tmp_path / "absent",
        written(tmp_path / "roberta", robertas),
        written(tmp_path / "first", first),
        written(tmp_path / "more", words | {"b": 3}),
        written(tmp_path / "whole", words, whole=True),
        written(tmp_path / "clip", words),
    ]
    assert clip_vocabulary.find(folders[0], folders[1:], 3) == tmp_path / "whole"
    assert clip_vocabulary.find(folders[0], folders[1:4], 3) is None
    listed = written(tmp_path / "unigram", {})
    (listed / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", 0.0]]}}))
    (listed / "vocab.json").unlink()
    assert clip_vocabulary.find(listed, [], 1) is None


def test_what_is_missing_is_said_before_anything_is_drawn(
    toy_data: Path, wordless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("a reply was drawn")

    monkeypatch.setattr(matrix.Drawing, "replies", drawn)
    monkeypatch.setattr(clip_vocabulary, "folders", lambda profile: [])
    encoder = {"folder": str(wordless), "embedding": 256, "soft_tokens": 8}
    run = small_run(tmp_path / "run", judges=None, judges_folder=None, encoder=encoder)
    with pytest.raises(ValueError, match="no words to read texts by"):
        matrix.evaluate(run, toy_data)


def test_other_models_of_the_evaluation_are_looked_for_too(profile: Profile, tmp_path: Path):
    similarity.check(profile)
    absent = profile.model_copy(update={"similarity": {"clap": str(tmp_path)}})
    with pytest.raises(FileNotFoundError, match="no config.json there: .* CLAP"):
        similarity.check(absent)
    video = profile.decoders["video"].model_copy(update={"folder": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="no text-to-video pipeline"):
        similarity.check(profile.model_copy(update={"decoders": {"video": video}}))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published files beside the repository")
def test_stable_diffusion_has_the_words_that_imagebind_was_trained_with(tmp_path: Path):
    common = PUBLISHED / "common"
    folder = tmp_path / "tokenizer"
    shutil.copytree(PUBLISHED / "stable-diffusion-v1-5" / "tokenizer", folder)
    shutil.copy(common / "clip-vocab.json", folder / "vocab.json")
    shutil.copy(common / "clip-merges.txt", folder / "merges.txt")
    assert clip_vocabulary.find(tmp_path, [folder], HUGE.vocab_size) == folder
    packed = gzip.decompress((common / "imagebind-bpe_simple_vocab_16e6.txt.gz").read_bytes())
    merges = packed.decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    assert (folder / "merges.txt").read_text().strip().split("\n")[1:] == merges
    known = CLIPTokenizer.from_pretrained(folder)
    begin, end = HUGE.vocab_size - 2, HUGE.vocab_size - 1
    assert known(["a photo"])["input_ids"] == [[begin, 320, 1125, end]]
