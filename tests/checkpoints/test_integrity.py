"""Every file of a model in turn missing, cut, of another type, of another model: found before loading, by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from full_size import ENCODER
from replicas import replica

from anytoany_lib.checkpoints.integrity import encoder_problems, llm_problems, pipeline_problems

PIPELINE, OTHER = "cerspense/zeroscope_v2_576w", "stable-diffusion-v1-5/stable-diffusion-v1-5"
QWEN = "Qwen/Qwen2.5-1.5B-Instruct"
PIPELINE_FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
]
LLM_FILES = ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.json"]


def _missing(file: Path) -> None:
    file.unlink()


def _cut(file: Path) -> None:
    data = file.read_bytes()
    end = len(data) * 2 // 3
    if file.name == "merges.txt":  # whole lines would be whole merges: within a word, then
        end = data.rindex(b"<", 0, end) + 1
    file.write_bytes(data[:end])


def _of_another_type(file: Path) -> None:
    file.write_bytes(b"<!DOCTYPE html>\n<html><body>503 Service Unavailable</body></html>\n" * 9)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


FAULTS = [_missing, _cut, _of_another_type, _empty]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Narrowed replicas: a pipeline, a language model and the encoder."""
    folder = tmp_path_factory.mktemp("whole")
    for repo in (PIPELINE, QWEN, ENCODER):
        replica(repo, folder / repo.rpartition("/")[2], 32)
    return folder


def _copied(made: Path, repo: str, folder: Path) -> Path:
    name = repo.rpartition("/")[2]
    shutil.copytree(made / name, folder / name)
    return folder / name


def test_what_is_whole_has_no_problems(made: Path, tmp_path: Path):
    assert pipeline_problems(made / "zeroscope_v2_576w") == []
    assert llm_problems(made / "Qwen2.5-1.5B-Instruct") == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("file", PIPELINE_FILES)
def test_every_file_of_a_pipeline(
    file: str, fault: Callable[[Path], None], made: Path, tmp_path: Path
):
    folder = _copied(made, PIPELINE, tmp_path)
    fault(folder / file)
    if file == "model_index.json" and fault is _missing:
        assert "model_index.json is missing" in pipeline_problems(folder)[0]
        return
    said = " ".join(pipeline_problems(folder))
    part = file.rpartition("/")[0]
    assert str(folder / file) in said or (part and str(folder / part) in said), said


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("file", LLM_FILES)
def test_every_file_of_a_language_model(
    file: str, fault: Callable[[Path], None], made: Path, tmp_path: Path
):
    folder = _copied(made, QWEN, tmp_path)
    if file == "vocab.json":  # tokenizer.json is read before it
        (folder / "tokenizer.json").unlink()
    fault(folder / file)
    said = " ".join(llm_problems(folder))
    assert str(folder) in said and (file in said or "no weights" in said or "vocabulary" in said), (
        said
    )


@pytest.mark.parametrize(
    "file",
    ["text_encoder/pytorch_model.bin", "unet/config.json", "vae/diffusion_pytorch_model.bin"],
)
def test_a_part_of_another_size_is_named(file: str, made: Path, tmp_path: Path):
    folder = _copied(made, PIPELINE, tmp_path)
    other = replica(PIPELINE, tmp_path / "other", 16)
    shutil.copyfile(other / file, folder / file)
    (said,) = pipeline_problems(folder)
    assert str((folder / file).parent) in said and "of another model than its config.json" in said


def test_a_tokenizer_of_another_model_is_refused(made: Path, tmp_path: Path):
    folder = _copied(made, PIPELINE, tmp_path)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    config["vocab_size"] = 30000
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    said = pipeline_problems(folder)
    assert any("knows 49,408 words, the embedding has 30,000 rows" in one for one in said)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_encoder(fault: Callable[[Path], None], made: Path, tmp_path: Path):
    file = tmp_path / ENCODER
    shutil.copyfile(made / ENCODER, file)
    fault(file)
    (said,) = encoder_problems(file)
    assert str(file) in said


def test_an_encoder_of_another_size_says_a_tensor(made: Path):
    (said,) = encoder_problems(made / ENCODER)  # narrowed, and no .json beside it says so
    assert "is no ImageBind of the expected size" in said and "expected (" in said


def test_weights_with_code_in_them_are_not_run(made: Path, tmp_path: Path):
    folder, trace = _copied(made, PIPELINE, tmp_path), tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return exec, (f"open({str(trace)!r}, 'w')",)

    torch.save({"weight": Code()}, folder / "unet" / "diffusion_pytorch_model.bin")
    (said,) = pipeline_problems(folder)
    assert "nothing in it was executed" in said and not trace.exists()
