"""What a training step costs beside the bare libraries, and beside the kit with its optimisations switched off: `make bench`.

    python bench/training.py [--profile tiny --data FOLDER --rounds 12 --threads 2 --steps 30]

Rows are the toy world's, or those of --data, whose features must be there; batches are what training reads. For every stage:
its step and the bare one of transformers and PEFT (see `steps`), each time on the same batch; a step with single
optimisations off, and with all; and where its time goes. Then a training shared by two processes of one thread beside one
process with as many threads, how long a checkpoint takes to write, and how soon a training goes on after a kill.

Steps of every length count as often as they come up, so means are of the data, not of the luck of a few. Results go to
bench/results/training-MACHINE.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from record import keep, machine, noise, synchronise, turns, verdicts
from steps import Kit, bare_step, over

from anytoany_lib.config import Profile
from anytoany_lib.features import precomputing
from anytoany_lib.features.dataset_features import DatasetFeatures, LiveFeatures
from anytoany_lib.system.runs import CURVES
from anytoany_lib.toyworld import dataset
from anytoany_lib.training import stage_data
from anytoany_lib.training.distributed import Ranks
from anytoany_lib.training.setup import Job, new_training
from anytoany_lib.training.stage_data import EncodedRow, StageData, Step
from anytoany_lib.training.trackers import Log

AT_MOST = {
    "step: ratio to bare": 1.05,
    "data: share of a step": 0.02,
    "checkpoint: seconds": 1.0,
    "resume: seconds": 15.0,
}
AT_LEAST = {"whole: times faster": 2.0, "processes: ratio to one": 0.9}
ROOT = Path(__file__).resolve().parents[1]
MEDIA, CONVERSATIONS, WARMUP = 480, 600, 2
AS_IS, BARE, BARE_FEW = "as it is", "bare", "bare, logits where learnt"
NO_BUCKETS, LIVE = "no length buckets", "features in the loop"
LOGITS, ALL_OFF = "logits everywhere", "all of these off"
# Each form of the kit's step: as which one its rows are read, as which one they are computed.
FORMS = {
    AS_IS: (AS_IS, AS_IS),
    NO_BUCKETS: (NO_BUCKETS, NO_BUCKETS),
    LIVE: (LIVE, AS_IS),
    LOGITS: (AS_IS, LOGITS),
    ALL_OFF: (ALL_OFF, ALL_OFF),
}


class AsDrawn(StageData):
    """A stage's rows in groups as they are drawn, of whatever lengths."""

    def _groups(self, size: int, start: int, *shared: Any) -> Iterator[list[EncodedRow]]:
        for epoch in count():
            order = self._epoch(np.random.default_rng([self._seed, epoch]))
            for first in range(0, len(order), size):
                yield self._encoded(order[first : first + size], epoch, *shared)


class Uncached(LiveFeatures):
    """Features that are computed for every batch, whatever the caches have."""

    def lacking_media(self, paths: Sequence[str]) -> list[str]:
        return list(paths)

    def lacking_captions(self, kind: str, captions: Sequence[str]) -> list[str]:
        return list(captions)

    def lacking_latents(self, kind: str, paths: Sequence[str]) -> list[str]:
        return list(paths)


def everywhere(read: Step) -> Step:
    """The same step with something to learn at every position, padding too: logits are computed for all of them."""
    parts = [(replace(batch, labels=batch.ids), shares) for batch, shares in read.parts]
    return replace(read, parts=parts)


def toy_world(profile: Profile, folder: Path) -> Path:
    """A small toy world with its features."""
    dataset.write(folder, dataset.untouched(profile), MEDIA, CONVERSATIONS, per_task=1)
    precomputing.precompute(profile, folder)
    return folder


def kit_for(profile: Profile, stage: int, data: Path, run: Path) -> Kit:
    """A training of a stage before its first step."""
    job = Job(profile, stage, data, run, None, 0, None, 1)
    job.check_writable()
    ranks = Ranks(run, [], profile.llm.dtype)
    return Kit(job, new_training(job, ranks, on_the_fly=False), ranks.accelerator)


def readings(kit: Kit) -> dict[str, StageData]:
    """The stage's data as it is, and with the optimisations of reading off."""
    job, state, settings = kit.job, kit.state, kit.job.settings
    live = Uncached(job.profile, job.data)

    def of(kind: type[StageData], cached: DatasetFeatures) -> StageData:
        read = (settings.reads, state.model.messages, cached, job.seed, settings.mixture)
        return kind(job.data, "train", *read)

    return {
        AS_IS: state.data,
        NO_BUCKETS: of(AsDrawn, state.data.features),
        LIVE: of(StageData, live),
        ALL_OFF: of(AsDrawn, live),
    }


def read_window(kit: Kit, data: StageData) -> tuple[float, list[Step]]:
    """Seconds to read a step, and the whole steps among those whose rows are sorted by length together."""
    size = kit.job.settings.rows_a_step
    steps = min(stage_data._WINDOW_BATCHES, -(-len(data) // size))
    next(kit.reading(data))  # loads the models, where there are any
    synchronise()
    started = time.perf_counter()
    read = list(islice(kit.reading(data), steps))
    synchronise()
    seconds = (time.perf_counter() - started) / steps
    return seconds, [step for step in read if len(step.names) == size]


def spread(steps: Sequence[Step], wanted: int) -> list[Step]:
    """So many of the steps, spread evenly over their lengths."""
    ordered = sorted(steps, key=lambda step: sum(batch.ids.numel() for batch, _ in step.parts))
    wanted = min(wanted, len(ordered))
    return [ordered[(2 * number + 1) * len(ordered) // (2 * wanted)] for number in range(wanted)]


def computing(
    kit: Kit, sorted_steps: Sequence[Step], drawn: Sequence[Step], rounds: int
) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of a step once its rows are read, in turns: the kit's in several forms, and the bare ones."""
    model = kit.state.model
    works = {
        AS_IS: over(kit.take, sorted_steps),
        BARE: over(bare_step(model), sorted_steps),
        BARE_FEW: over(bare_step(model, everywhere=False), sorted_steps),
        LOGITS: over(kit.take, [everywhere(step) for step in sorted_steps]),
        NO_BUCKETS: over(kit.take, drawn),
        ALL_OFF: over(kit.take, [everywhere(step) for step in drawn]),
    }
    times = turns(*works.values(), rounds=rounds, warmup=min(WARMUP, len(sorted_steps)))
    return dict(zip(works, times.T, strict=True))


@contextmanager
def clocked(calls: dict[str, list[tuple[Any, str]]]) -> Iterator[dict[str, float]]:
    """Adds up the seconds spent within calls, given as {what: [(object, name of its method)]}."""
    spent: dict[str, float] = defaultdict(float)

    def timed(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*given: Any, **named: Any) -> Any:
            synchronise()
            started = time.perf_counter()
            result = call(*given, **named)
            synchronise()
            spent[what] += time.perf_counter() - started
            return result

        return timing

    with ExitStack() as stack:
        for what, methods in calls.items():
            for owner, name in methods:
                call = timed(what, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, call))
        yield spent


def where_time_goes(kit: Kit, steps: Sequence[Step], reading: float) -> dict[str, float]:
    """Seconds a step, by what they go into; `steps` is what a step waits for its rows."""
    model, accelerator, optimiser = kit.state.model, kit.accelerator, kit.optimiser
    calls = {
        "LLM forward": [(model, "hidden_states"), (model, "logits")],
        "projections": [(model, "embed_inputs"), (model, "project")],
        "backward": [(accelerator, "backward")],
        "optimiser": [
            (accelerator, "clip_grad_norm_"),
            (optimiser, "step"),
            (optimiser, "zero_grad"),
        ],
    }
    with clocked(calls) as spent:
        started = time.perf_counter()
        for step in steps:
            kit.take(step)
        synchronise()
        whole = (time.perf_counter() - started) / len(steps)
    found = {what: spent[what] / len(steps) for what in calls}
    return {"data": reading, **found, "the rest": whole - sum(found.values())}


def measure_stage(kit: Kit, rounds: int) -> dict[str, Any]:
    """All that is known of a stage's step. Ratios to the bare one are medians over pairs that read the same batch."""
    read = {name: read_window(kit, data) for name, data in readings(kit).items()}
    kept, drawn = (spread(read[name][1], rounds) for name in (AS_IS, NO_BUCKETS))
    times = computing(kit, kept, drawn, rounds)
    where = where_time_goes(kit, kept, read[AS_IS][0])
    seconds = {
        name: float(read[reading][0] + times[computed].mean())
        for name, (reading, computed) in FORMS.items()
    }
    positions = [sum(batch.ids.numel() for batch, _ in step.parts) for step in kept]
    return {
        "rows a step": kit.job.settings.rows_a_step,
        "positions a step": float(np.mean(positions)),
        "steps": kit.state.record["steps"],
        "seconds": {name: float(np.median(times[name])) for name in (AS_IS, BARE, BARE_FEW)},
        "ratio to bare": float(np.median(times[AS_IS] / times[BARE])),
        "ratio to bare, logits where learnt": float(np.median(times[AS_IS] / times[BARE_FEW])),
        "seconds with reading": seconds,
        "where": where,
        "share of data": where["data"] / sum(where.values()),
        "noise": noise(times[AS_IS][:, None] / times[BARE][:, None]),
    }


def of_all_stages(stages: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """What the limits are about: the worst stage, and the time of all steps of all stages."""

    def whole(how: str) -> float:
        return sum(found["steps"] * found["seconds with reading"][how] for found in stages.values())

    return {
        "step": {
            name: max(found[name] for found in stages.values())
            for name in ("ratio to bare", "ratio to bare, logits where learnt")
        },
        "data": {"share of a step": max(found["share of data"] for found in stages.values())},
        "whole": {
            "seconds": whole(AS_IS),
            "seconds with all off": whole(ALL_OFF),
            "times faster": whole(ALL_OFF) / whole(AS_IS),
        },
    }


def training_command(settings: Path, stage: int, data: Path, run: Path) -> list[str]:
    """The module and arguments that train a stage by the profile in a file."""
    told = {"--profile": settings, "--stage": stage, "--data": data, "--run": run}
    return ["anytoany_lib.train", *(str(word) for pair in told.items() for word in pair)]


def in_new_process(arguments: Sequence[str], threads: int) -> subprocess.Popen:
    """A Python of its own, with so many threads, that finds this checkout's library."""
    how = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": str(threads)}}
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, **how)


def steps_a_second(curves: Path) -> float:
    """Of a training, from the first line of its metrics.jsonl to the last."""
    lines = [json.loads(line) for line in curves.read_text().splitlines()]
    first, last = lines[0], lines[-1]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def torchrun(several: int) -> list[str]:
    """The arguments that start so many processes of the module that follows."""
    # Behind "--": torchrun would take --run for an abbreviation of an option of its own.
    several_of = ["--standalone", "--nproc_per_node", str(several), "-m", "--"]
    return ["-m", "torch.distributed.run", *several_of]


def training_rate(
    launcher: Sequence[str], threads: int, command: Sequence[str], run: Path
) -> float:
    """Steps a second of a whole training into a run folder, each of its processes with so many threads."""
    process = in_new_process([*launcher, *command], threads)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return steps_a_second(run / CURVES)


def processes(
    settings: Path, profile: Profile, data: Path, work: Path, steps: int, several: int
) -> dict[str, float]:
    """Rows a second of a training by processes with a thread each, and by one with as many threads."""
    stage = max(profile.stages)
    launchers = {"one": (["-m"], several), "several": (torchrun(several), 1)}
    rates = {}
    for name, (launcher, threads) in launchers.items():
        run = work / f"process-{name}"
        command = [*training_command(settings, stage, data, run), "--max-steps", str(steps)]
        rate = training_rate(launcher, threads, command, run)
        rates[name] = profile.stages[stage].rows_a_step * rate
    return {
        "processes": several,
        "rows a second": rates["several"],
        "rows a second of one": rates["one"],
        "ratio to one": rates["several"] / rates["one"],
    }


def checkpoint_seconds(kit: Kit) -> list[float]:
    """Of every checkpoint of the first steps; the last one stands just before a line of metrics.jsonl is due."""
    times = []
    for step in islice(kit.reading(kit.state.data), Log.every - 1):
        kit.take(step)
        started = time.perf_counter()
        kit.state.save(kit.job.run)
        times.append(time.perf_counter() - started)
    return times


def seconds_to_line(arguments: Sequence[str], curves: Path, threads: int) -> float:
    """From the start of a process to the first line in its metrics.jsonl; it is killed then. RuntimeError if it ends before."""
    started = time.perf_counter()
    process = in_new_process(arguments, threads)
    try:
        while not (curves.is_file() and curves.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
            time.sleep(0.02)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()


def interruption(
    settings: Path, profile: Profile, data: Path, run: Path, threads: int
) -> dict[str, Any]:
    """Checkpoints written, and a training that goes on from the last one until its first step is taken."""
    stage = max(profile.stages)
    saved = checkpoint_seconds(kit_for(profile, stage, data, run))
    gc.collect()  # the other process wants the card's memory
    command = ["-m", *training_command(settings, stage, data, run), "--resume"]
    resumed = seconds_to_line(command, run / CURVES, threads)
    return {
        "checkpoint": {"seconds": max(saved), "seconds of each": saved},
        "resume": {"seconds": resumed},
    }


def table(stages: dict[int, dict[str, Any]]) -> str:
    """What was found of the stages, a column each: seconds, and ratios."""
    lines = {"": [f"stage {number}" for number in stages]}
    found = list(stages.values())
    for group in ("seconds", "seconds with reading", "where"):
        for name in found[0][group]:
            lines[f"{group}: {name}"] = [f"{one[group][name]:.3f}" for one in found]
    for name in ("ratio to bare", "ratio to bare, logits where learnt", "share of data"):
        lines[name] = [f"{one[name]:.3f}" for one in found]
    width = max(map(len, lines))
    return "\n".join(
        name.ljust(width) + "".join(cell.rjust(10) for cell in cells)
        for name, cells in lines.items()
    )


def measure(
    profile: Profile, data: Path, work: Path, rounds: int, threads: int, steps: int
) -> dict[str, Any]:
    """Everything; prints the table of the stages."""
    stages = {}
    for number in profile.stages:
        kit = kit_for(profile, number, data, work / f"stage{number}")
        stages[number] = measure_stage(kit, rounds)
        del kit
        gc.collect()
    print(table(stages))
    settings = work / "profile.yaml"
    settings.write_text(str(profile))
    result = {f"stage {number}": found for number, found in stages.items()} | of_all_stages(stages)
    result |= interruption(settings, profile, data, work / "resumed", threads)
    if not torch.cuda.is_available():  # there processes take a card each
        result["processes"] = processes(settings, profile, data, work, steps, threads)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--data", type=Path, help="a dataset with features (a small toy world)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30, help="of the training that is shared")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    profile = Profile.load(options.profile)
    result = {"machine": machine(), "date": date.today().isoformat(), "profile": profile.name}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data = (options.data or toy_world(profile, work / "toy")).absolute()
        result |= measure(profile, data, work, options.rounds, options.threads, options.steps)
    reached = verdicts(result, AT_MOST, AT_LEAST)
    keep(result | {"reached": reached}, "training")


if __name__ == "__main__":
    main()
