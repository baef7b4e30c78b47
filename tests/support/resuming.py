"""Trainings in processes of their own, to be killed; each is forked from a server that has imported the library."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from anytoany_lib.config import Profile, StageConfig, resolve

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["anytoany_lib.train"])


def with_stage(profile: Profile, stage: int, **settings: Any) -> Profile:
    """The profile with other settings of one stage."""
    changed = StageConfig(**profile.stages[stage].model_dump(exclude_unset=True) | settings)
    return profile.model_copy(update={"stages": profile.stages | {stage: changed}})


def unquantised(profile: Profile) -> Profile:
    """The profile with its language model as published, which a CPU loads several times as fast, computing in float32 in
    training too, so that what is added up in another order still agrees.
    """
    changes = {"quantization": "none", "dtype": "float32"}
    return profile.model_copy(update={"llm": profile.llm.model_copy(update=changes)})


def shallow(profile: Profile, folder: Path, layers: int = 2) -> Profile:
    """The profile with the first layers of its language model, which is written to a folder, computing in float32."""
    whole = resolve(profile.llm.folder)
    for file in whole.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    kept = {
        name: tensor
        for name, tensor in load_file(whole / "model.safetensors").items()
        if ".layers." not in name or int(name.split(".layers.")[1].split(".")[0]) < layers
    }
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    architecture = (profile.llm.architecture or {}) | {"num_hidden_layers": layers}
    changes = {"folder": str(folder), "architecture": architecture, "dtype": "float32"}
    return profile.model_copy(update={"llm": profile.llm.model_copy(update=changes)})


def started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A function of a test module in a process of its own."""
    process = FORKED.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def wait_for(what: Callable[[], Any], process: BaseProcess, seconds: float = 120) -> Any:
    """What `what` gives once it is true. AssertionError if the process ends before, or time is up."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert process.is_alive(), "the training ended before it was to"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def as_rank(rank: int, world: int, port: int) -> None:
    """Makes this process one of several that talk on a port of this machine, as a launcher would have."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port)}


def weights(run: Path) -> dict[str, bytes]:
    """The bytes of every safetensors file of a run, by its name."""
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*.safetensors")}
