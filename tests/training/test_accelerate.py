"""The shipped Accelerate configurations are what the pinned Accelerate reads, and do what their comments say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from sharding import CONFIGURATIONS as FOLDER
from sharding import launched

from anytoany_lib.config import Profile
from anytoany_lib.llm import load_llm
from anytoany_lib.model import AnyToAny


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp-qlora", "FSDP"), ("zero2", "FSDP")]
)
def test_every_configuration_is_read(name: str, kind: str):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == kind and config.mixed_precision == "no"
    given = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert given == {key: value for key, value in config.to_dict().items() if key in given}


def test_there_are_no_others():
    assert {path.stem for path in FOLDER.iterdir()} == {"ddp", "fsdp-qlora", "zero2"}


def test_fsdp_shards_each_layer_of_the_language_model(
    model: AnyToAny, monkeypatch: pytest.MonkeyPatch
):
    for name, value in launched("fsdp-qlora").items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_auto_wrap_policy(model)
    layers = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert plugin.fsdp_version == 2 and not plugin.cpu_ram_efficient_loading
    assert layers == {type(model.causal_lm.get_decoder().layers[0])}


def test_under_fsdp_four_bit_weights_are_stored_in_the_type_they_compute_in(
    four_bits: Profile, monkeypatch: pytest.MonkeyPatch
):
    ids = torch.arange(8)[None]
    with torch.no_grad():
        stored = load_llm(four_bits)
        expected = stored(ids).logits
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        sharded = load_llm(four_bits)
        assert torch.allclose(sharded(ids).logits, expected)
    weights = [one.get_decoder().layers[0].mlp.up_proj.weight for one in (stored, sharded)]
    assert [weight.dtype for weight in weights] == [torch.uint8, sharded.dtype]
    assert weights[0].nbytes == weights[1].nbytes


@pytest.mark.long
def test_two_processes_under_fsdp_take_the_steps_of_one(profile: Profile, tmp_path: Path):
    script, found = Path(__file__).parents[1] / "support" / "sharding.py", []
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for how, environment in (([], {}), (torchrun, launched("fsdp-qlora"))):
        out = tmp_path / f"{len(found)}.pt"
        command = [sys.executable, *how, str(script), str(out)]
        subprocess.run(command, env=os.environ | environment, check=True)
        found.append(torch.load(out))
    one, two = found
    assert two["held"] == one["held"] / 2, "each process holds half of a layer"
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["losses"][1] < two["losses"][0]
    for what in ("gradients", "weights"):
        assert two[what].keys() == one[what].keys()
        for name, tensor in one[what].items():
            assert torch.allclose(two[what][name], tensor, rtol=1e-2, atol=1e-4), name
