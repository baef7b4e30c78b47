"""`make gpu-check` on a CPU: every section is a process of its own, says what it found at once, and is ended at its limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
SMALL = """
name: small
like: tiny
llm: {context: 256}
decoders: {image: {steps: 2}, audio: {steps: 2}, video: {steps: 2}}
stages: {1: {batch_size: 2}, 2: {batch_size: 2}, 3: {batch_size: 2}}
"""


def checked(folder: Path, *options: str) -> dict[str, Any]:
    """What the check of a small profile found, by sections."""
    profile = folder / "small.yaml"
    profile.write_text(SMALL)
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--profile", str(profile)]
    command += ["--out", str(folder / "out"), "--tokens", "32", *options]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = [file.name for file in (folder / "out").iterdir()]
    assert files == ["gpu-small.json"]  # the sections' own files are taken over
    return json.loads((folder / "out" / "gpu-small.json").read_text())["sections"]


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All sections but the one that launches processes."""
    names = "four-bits,same-numbers,half-precision,training,chat,talking,features"
    found = checked(tmp_path_factory.mktemp("check"), "--only", names, "--patience", "10")
    assert list(found) != [] and {s["status"] for s in found.values()} == {"done"}, found
    return found


def test_four_bits_multiply_as_the_weights_they_stand_for(sections):
    for dtype, limit in (("float16", 1e-3), ("bfloat16", 1e-2)):
        for rows in ("1", "4", "64", "512"):
            found = sections["four-bits"][dtype][rows]
            assert found["distance"] < limit and found["gradient"] < limit


def test_every_type_computes_nearly_the_same(sections):
    found = sections["same-numbers"]
    assert found["none float32"]["hidden states"] < 1e-6
    for name in ("none bfloat16", "none float16"):
        assert 0 < found[name]["hidden states"] < 0.02
        assert found[name]["least cosine of a gradient"] > 0.999
    assert 0.02 < found["nf4 float32"]["hidden states"] < 0.5  # a fault would be 0, or wild
    assert all(
        found[name]["padding"] < 0.02 for name in found if "float" in name and "none" in name
    )


def test_a_training_goes_on_from_its_checkpoint(sections):
    assert sections["half-precision"]["checkpoint"]["apart after two steps"] < 1e-3


def test_steps_are_measured_beside_the_bare_ones(sections):
    stages = [value for name, value in sections["training"].items() if name.startswith("stage")]
    assert len(stages) == 4
    for stage in stages:
        assert stage["step_seconds"] > 0 and stage["ratio to bare, logits everywhere"] > 0


def test_a_chat_turn_and_talking_are_measured_part_by_part(sections):
    made = [v for name, v in sections["chat"].items() if ": making" in name]
    assert len(made) == 6 and all(one["steps"] >= 2 for one in made)
    assert all(
        sections["chat"][f"bare {kind}"]["seconds"] > 0 for kind in ("image", "audio", "video")
    )
    rates = [v for name, v in sections["talking"].items() if "LoRA:" in name]
    assert len(rates) == 6 and all(one["of bare generate"] > 0 for one in rates)
    assert sections["features"]["video x 1 torch.float32"]["a second"] > 0


def test_a_section_that_takes_too_long_loses_itself_alone(tmp_path: Path):
    found = checked(tmp_path, "--only", "training,features", "--patience", "0.001")
    assert all(section["status"].startswith("TimeoutExpired") for section in found.values())


def test_a_full_size_profile_without_a_card_is_told_at_once(tmp_path: Path):
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--out", str(tmp_path / "out")]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "expected a CUDA card" in done.stderr
    assert "make gpu-check PROFILE=tiny" in done.stderr and not (tmp_path / "out").exists()
