"""Runs and datasets that are evaluated in seconds: the shipped run with few decoder steps, a few rows of a dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anytoany_lib.config import resolve
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.modalities import MEDIA_KINDS

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
