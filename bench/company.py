"""What a training step loses to other programs on the same cores: `python bench/company.py [--threads 2 --steps 8]`.

A step of stage 3 is timed idle, beside one and beside two programs that compute all the time, each time in a new process, once
as the kit has OpenMP's threads wait for each other (see `anytoany_lib.__init__`) and once as OpenMP does by itself. Let nothing
else run beside it. Results go to bench/results/company-MACHINE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import torch
from record import NOISE, keep, machine, timed, verdicts

from anytoany_lib.batches import Batch
from anytoany_lib.config import Profile
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny
from anytoany_lib.training.setup import trained_parts

AT_MOST = {"beside one: ratio to idle": 1.9, "idle: ratio to OpenMP's own": 1.03}
AT_LEAST: dict[str, float] = {}
SPINS = "GOMP_SPINCOUNT"
OWN = "300000"  # libgomp's, where nothing is said of how its threads wait
ROWS, TOKENS, LEARNT = 12, 60, 20  # of a typical step of the toy world's conversations
BESIDE = {"idle": 0, "beside one": 1, "beside two": 2}


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """So many programs that compute all the time, of the same priority as this one."""
    running = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)
    ]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def step_seconds(profile: Profile, steps: int) -> dict[str, float]:
    """Median seconds, and their noise, of a forward and backward pass through the language model with LoRA, in this process."""
    model = AnyToAny.from_profile(profile, 0)
    trained_parts(model, profile.stages[3])
    model.train()
    ids = torch.randint(model.token_rows.first, (ROWS, TOKENS), generator=torch.Generator())
    labels = ids.clone()
    labels[:, :-LEARNT] = IGNORED
    nowhere = torch.empty(0, 2, dtype=torch.long)
    media = torch.empty(0, profile.encoder.embedding)
    batch = Batch(ids, labels, torch.ones_like(ids), media, nowhere, {}, {})

    def step() -> None:
        model(batch.to(model.device))["text"].backward()
        model.zero_grad()

    (seconds,), noise = timed(step, rounds=steps, warmup=1)
    return {"seconds": seconds, **noise}


def in_company(programs: int, spins: str, options: list[str]) -> dict[str, float]:
    """Seconds of a step in a new process beside so many busy programs, and their noise."""
    command = [sys.executable, __file__, "--measure", *options]
    with busy(programs):
        done = subprocess.run(
            command, env=os.environ | {SPINS: spins}, stdout=subprocess.PIPE, check=True
        )
    return json.loads(done.stdout)


def measure(options: list[str]) -> dict[str, Any]:
    """Seconds of a step in every company, and what it loses to it."""
    result: dict[str, Any] = {}
    for name, programs in BESIDE.items():
        ours, own = (in_company(programs, spins, options) for spins in (os.environ[SPINS], OWN))
        result[name] = {
            "seconds": ours["seconds"],
            "seconds with OpenMP's own": own["seconds"],
            "ratio to OpenMP's own": ours["seconds"] / own["seconds"],
            NOISE: max(ours[NOISE], own[NOISE]),
        }
    for name in BESIDE:
        result[name]["ratio to idle"] = result[name]["seconds"] / result["idle"]["seconds"]
    return result | {"verdicts": verdicts(result, AT_MOST, AT_LEAST)}


def main() -> None:
    """Command line: measure all companies, or in a process of its own one step."""
    parser = argparse.ArgumentParser(description="A training step beside other programs.")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        print(json.dumps(step_seconds(Profile.load(given.profile), given.steps)))
        return
    options = [f"--{name}={getattr(given, name)}" for name in ("profile", "threads", "steps")]
    found = {"machine": machine(), "date": str(date.today()), "profile": given.profile}
    keep(found | measure(options), "company")


if __name__ == "__main__":
    main()
