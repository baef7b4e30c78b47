"""Runs and datasets that are evaluated in seconds: the shipped run with few decoder steps, a few rows of a dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.config import Profile, resolve
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import write_json

SHIPPED = resolve("ckpt/tiny/run")


def small_run(folder: Path, **profile: Any) -> Path:
    """The shipped run's weights in a run folder whose profile has decoders of two steps, no quantisation, and these changes."""
    folder.mkdir()
    for name in ("adapter", "trainable.safetensors", "metrics.jsonl"):
        (folder / name).symlink_to((SHIPPED / name).resolve())
    record = json.loads((SHIPPED / "run.json").read_text())
    record["profile"]["llm"]["quantization"] = "none"  # quicker, and not what is asked here
    for decoder in record["profile"]["decoders"].values():
        decoder["steps"] = 2
    record["profile"] |= profile
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def small_llama_run(folder: Path, profile: Profile, tied: bool) -> Path:
    """An untrained run in 4 bits on a small llama, whose embedding has more rows than its tokenizer has words; LoRA has an effect."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(profile.llm.folder))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    sizes |= {"vocab_size": len(tokenizer) + 50, "tie_word_embeddings": tied}
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", initializer_range=0.2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    llm = profile.llm.model_copy(update={"folder": str(folder / "llm"), "architecture": None})
    own = profile.model_copy(update={"name": "small `run`", "llm": llm})
    model = AnyToAny.from_profile(own)
    model.add_lora()
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    run = folder / "run"
    run.mkdir()
    runs.write_tensors(run, model.bridges(), model.adapter)
    record = {"profile": own.model_dump(mode="json"), "stage": 3, "data": {}}
    write_json(run / runs.RECORD, record)
    return run


def few_rows(data: Path, out: Path, tasks: Sequence[str], captioned: int = 0) -> Path:
    """A dataset whose test rows are one of each of these tasks, and so many captioned media of each kind."""
    shutil.copytree(data / "media", out / "media")
    tests = read_manifest(data, "test")
    rows = [next(row for row in tests if row.meta.get("task") == task) for task in tasks]
    shown = [row for row in read_manifest(data, "train") if "caption" in row.meta]
    for kind in MEDIA_KINDS:
        rows += [row for row in shown if row.meta["kind"] == kind][:captioned]
    write_manifest(rows, out, "test")
    return out
