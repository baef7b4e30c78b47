"""Replicas against the published files: names, shapes and types of all tensors, file lists, settings, and that the kit loads them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from full_size import PUBLISHED, assembled
from replicas import REPOSITORIES, files_of, fill, narrowed_config, replica, tables
from replicas.layout import NARROWINGS, narrowed
from replicas.numbers import safetensors_head
from transformers import AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.checkpoints.nextgpt import read_file
from anytoany_lib.config import Profile
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.decoders.pipelines import Decoder
from anytoany_lib.encoders.imagebind import ImageBind

PARTS = [(repo, part) for repo, one in REPOSITORIES.items() for part in one.parts]
# Sums of 2022, written with another head than today's: so many bytes more.
OTHER_HEADS = {
    "text_encoder/model.safetensors": 6,
    "unet/diffusion_pytorch_model.safetensors": -4,
    "safety_checker/model.safetensors": 2,
    "model-00001-of-00002.safetensors": -289,
    "model-00002-of-00002.safetensors": -100,
}
# The published index of Qwen3-4B counts more than its tensors have.
OTHER_TOTALS = {"Qwen/Qwen3-4B": 655_360}
published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published small files are not beside this repository"
)


def _short(repo: str) -> str:
    return repo.rpartition("/")[2].removesuffix(".pth")


def _state(repo: str, folder: str) -> tables.Table | None:
    """The published table of a part; AudioLDM's sizes share all but the UNet."""
    short = _short(repo)
    names = [short] if not folder else [f"{short}-{folder}", f"{short.split('-')[0]}-{folder}"]
    file = next((f for n in names if (f := PUBLISHED / "state" / f"{n}.tsv").is_file()), None)
    if file is None:
        return None
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    rows = [line.split("\t") for line in lines[1:]]
    return {
        name: (() if shape == "scalar" else tuple(map(int, shape.split("x"))), dtype)
        for name, shape, dtype in rows
    }


@published
@pytest.mark.parametrize(("repo", "part"), PARTS, ids=[f"{r}/{p.folder}" for r, p in PARTS])
def test_a_full_size_replica_has_the_published_tensors(repo: str, part: Any):
    expected = _state(repo, part.folder)
    if repo == "vicuna-7b-v0":
        expected = {
            n: v for n, v in _state("vicuna-7b-delta-v0", "").items() if "inv_freq" not in n
        }
    assert tables.table(part, part.config, part.files[0]) == expected


@published
@pytest.mark.parametrize("repo", [r for r in REPOSITORIES if r != "vicuna-7b-v0"])
def test_a_full_size_replica_has_the_published_files_to_the_byte(repo: str):
    with (PUBLISHED / _short(repo) / "files.tsv").open(encoding="utf-8") as opened:
        expected = {row["path"]: row["bytes"] for row in csv.DictReader(opened, delimiter="\t")}
    files, indexes = files_of(repo, Path(), everything=True)
    names = (
        {file.path.as_posix() for file in files} | set(indexes) | set(REPOSITORIES[repo].foreign)
    )
    large = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".index.json", ".yaml")
    assert names == {name for name in expected if name.endswith(large)}
    for file in files:
        name, said = file.path.as_posix(), expected[file.path.as_posix()]
        numbers = sum(tables.bytes_of(*tensor) for tensor in file.table.values())
        if name.endswith(".safetensors"):
            found = len(safetensors_head(file.table)[0]) + numbers
            own = repo.startswith("stable") or "llama" in repo
            assert found - int(said) == (OTHER_HEADS.get(name, 0) if own else 0), name
        elif said:  # pickles differ by the version that wrote them
            assert numbers < int(said) < numbers + 800 * len(file.table) + 10_000, name


@published
@pytest.mark.parametrize("repo", [r for r in REPOSITORIES if not r.endswith(".pth")])
def test_settings_are_the_published_ones(repo: str, tmp_path: Path):
    name = "vicuna-7b-delta-v0" if repo == "vicuna-7b-v0" else repo
    real = assembled(name, tmp_path / "real")
    assert real is not None
    ours = replica_settings(repo, tmp_path / "ours")
    for file in sorted(ours.rglob("*.json")):
        path = file.relative_to(ours)
        if "tokenizer" in path.as_posix() or path.name in ("vocab.json", "special_tokens_map.json"):
            continue
        if repo == "vicuna-7b-v0" and path.name.endswith(".index.json"):
            continue
        found, expected = (json.loads((root / path).read_text("utf-8")) for root in (ours, real))
        if path.name.endswith(".index.json"):
            assert found["weight_map"] == expected["weight_map"]
            more = expected["metadata"]["total_size"] - found["metadata"]["total_size"]
            assert more == OTHER_TOTALS.get(repo, 0)
            continue
        _agree(found, expected, path.as_posix())


def replica_settings(repo: str, folder: Path) -> Path:
    """Everything of a full-size replica but weights."""
    from replicas.making import settings_of

    settings_of(repo, folder)
    return folder


def _agree(found: dict, expected: dict, where: str) -> None:
    """Ours says nothing else than the published file; what that says beside it are notes and defaults."""
    for key, value in found.items():
        if isinstance(value, dict):
            _agree(value, expected[key], f"{where} {key}")
        else:
            assert expected.get(key) == value, f"{where}: {key}"


@published
@pytest.mark.parametrize("repo", [r for r, one in REPOSITORIES.items() if one.words])
def test_learnt_tokenizers_have_the_published_size_and_ids(repo: str, tmp_path: Path):
    from replicas import words

    name = "vicuna-7b-delta-v0" if repo == "vicuna-7b-v0" else repo
    real = assembled(name, tmp_path / "real")
    (folder, kind), *_ = REPOSITORIES[repo].words.items()
    words.tokenizer(kind, tmp_path / "ours")
    found = AutoTokenizer.from_pretrained(tmp_path / "ours")
    expected = AutoTokenizer.from_pretrained(real / folder)
    assert type(found) is type(expected) and len(found) == len(expected)
    for special in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"):
        assert getattr(found, special) == getattr(expected, special), special
    assert (
        found.decode(found("a red bell", add_special_tokens=False).input_ids).strip()
        == "a red bell"
    )


@pytest.mark.parametrize(("repo", "part"), PARTS, ids=[f"{r}/{p.folder}" for r, p in PARTS])
def test_every_narrowing_makes_a_model(repo: str, part: Any):
    whole = tables.table(part, part.config, part.files[0])
    small = tables.table(part, narrowed_config(part, NARROWINGS[-1]), part.files[0])
    assert (
        sum(tables.bytes_of(*t) for t in small.values())
        < sum(tables.bytes_of(*t) for t in whole.values()) / 8
    )
    with pytest.raises(ValueError, match="expected to narrow by one of"):
        narrowed(part.config, 3)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Narrowed replicas of all that profile nextgpt-7b loads."""
    folder = tmp_path_factory.mktemp("replicas")
    fill(Profile.load("nextgpt-7b"), folder, narrow=16, processes=1)
    return folder


@pytest.mark.parametrize(
    ("kind", "folder", "options"),
    [
        ("image", "stable-diffusion-v1-5", {"height": 64, "width": 64}),
        ("audio", "audioldm-l-full", {"audio_length_in_s": 1.0}),
        ("video", "zeroscope_v2_576w", {"num_frames": 2, "height": 64, "width": 64}),
    ],
)
def test_narrowed_decoders_make_media(kind: str, folder: str, options: dict, scratch: Path):
    config = Profile.load("nextgpt-7b").decoders[kind]
    changes = {"folder": str(scratch / folder), "options": options, "steps": 2}
    width = {"image": 48, "audio": 32, "video": 64}[kind]
    config = config.model_copy(update=changes | {"condition": (*config.condition[:-1], width)})
    device = torch.device("cpu")
    conditions = CaptionEncoder(config, device)(["a bell"])
    assert torch.isfinite(conditions).all()
    assert len(Decoder(config, device).generate(conditions, [0])) == 1


def test_a_narrowed_encoder_loads(scratch: Path):
    encoder = ImageBind.from_checkpoint(scratch / "imagebind_huge.pth", senses=("vision",))
    assert encoder.config.embed_dim == 64
    embedding = encoder({"vision": torch.randn(1, 3, 224, 224)})["vision"]
    assert torch.isfinite(embedding).all() and embedding.norm().item() == pytest.approx(1, abs=1e-4)


def test_a_narrowed_language_model_thinks(scratch: Path):
    model = AutoModelForCausalLM.from_pretrained(scratch / "vicuna-7b-v0", dtype=torch.float32)
    assert model.config.hidden_size == 256 and model.config.num_hidden_layers == 2
    assert torch.isfinite(model(torch.tensor([[1, 5, 9]])).logits).all()


def test_shards_written_by_processes_are_the_same(tmp_path: Path):
    one, two = (replica("huggyllama/llama-7b", tmp_path / str(n), 32, processes=n) for n in (1, 2))
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


def test_the_published_run_is_read_as_such(tmp_path: Path):
    run = replica("ChocoWu/nextgpt_7b_tiva_v0", tmp_path / "run", 32)
    tensors = read_file(run / "pytorch_model.pt")
    assert tensors["llama_proj.weight"].shape == (128, 32)
    assert tensors["llama_model.base_model.model.lm_head.weight"].shape == (32038, 128)
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values())


def test_an_unknown_repository_names_the_known_ones(tmp_path: Path):
    with pytest.raises(KeyError, match="no facts of o/n; there are lmsys/vicuna"):
        replica("o/n", tmp_path)
