"""What training computes in: bfloat16 on a CPU that multiplies in it, unless the profile says something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anytoany_lib.config import Dtype, Profile
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.train import train


def with_dtype(profile: Profile, dtype: Dtype) -> Profile:
    llm = profile.llm.model_copy(update={"dtype": dtype})
    return profile.model_copy(update={"llm": llm})


def trained_in(profile: Profile, data: Path, run: Path) -> str:
    """What one step of stage 3 said that it computed in."""
    train(profile, 3, data, run, max_steps=1)
    return runs.read_record(run)["computes_in"]


@pytest.mark.parametrize(
    ("native", "dtype", "computes_in"),
    [
        (True, "auto", "bfloat16"),
        (False, "auto", "float32"),
        (True, "float32", "float32"),
        (False, "bfloat16", "bfloat16"),
    ],
)
def test_training_computes_in_bfloat16_where_the_cpu_does(
    native: bool,
    dtype: Dtype,
    computes_in: str,
    profile: Profile,
    toy_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    found = {"avx512_bf16": native, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    run = tmp_path / "run"
    assert trained_in(with_dtype(profile, dtype), toy_data, run) == computes_in
    # What is written is in float32 whatever it was computed in, and so is talking where the profile leaves it open.
    model = AnyToAny.from_pretrained(run)
    assert {p.dtype for p in model.bridges()["input_projection"].parameters()} == {torch.float32}
    assert model.causal_lm.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
