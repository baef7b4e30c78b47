"""The whole job in one command: the numbered notebooks in order, each in a kernel of its own, through papermill.

    anytoany demo [--profile tiny --from 04 --steps-scale 0.1 --media 600 ...]

Executed notebooks go to OUT, run folders to RUNS. A notebook that fails ends it, with its name and its error;
`--from` goes on there. It ends with the any-to-any matrix and where everything lies.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import papermill
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from anytoany_lib.config import Profile, resolve
from anytoany_lib.system import terminal
from anytoany_lib.system.files import write_json

CHECKOUT = Path(__file__).resolve().parents[1]
NOTEBOOKS = CHECKOUT / "notebooks"
TIMES = "demo.json"


class NotebookError(RuntimeError):
    """A notebook that failed; the message holds its name, the cell, the error, and where to see it."""


class PeakMemory:
    """The most memory that this process and its children held together, in bytes, while the `with` lasted.

    Resident sizes are added up, so what processes share counts more than once: a bound from above.
    """

    def __init__(self, every: float = 0.5):
        self.bytes = 0
        self._every, self._ended = every, threading.Event()

    def __enter__(self) -> PeakMemory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while True:
            held = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:  # it ended since it was listed
                    continue
            self.bytes = max(self.bytes, held)
            if self._ended.wait(self._every):
                return


def execute(notebook: Path, parameters: dict[str, Any], out: Path) -> tuple[float, int]:
    """Runs one notebook with parameters into OUT; returns its seconds and peak memory in bytes.

    NotebookError if a cell fails or the kernel dies; the notebook as far as it got is in OUT all the same.
    """
    out.mkdir(parents=True, exist_ok=True)
    # Kernels import the library that this code belongs to, installed or not.
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    executed, started = out / notebook.name, time.perf_counter()
    with PeakMemory() as peak:
        try:
            papermill.execute_notebook(
                notebook,
                executed,
                parameters,
                progress_bar=sys.stderr.isatty(),
                extra_arguments=[
                    "--log-level=ERROR"
                ],  # kernels warn that localhost is not encrypted
            )
        except PapermillExecutionError as error:
            raise NotebookError(
                f"{notebook.name} failed in code cell {error.exec_count}, {error.ename}: {error.evalue}\n"
                f"as far as it got, and where it failed: {executed}"
            ) from error
        except (DeadKernelError, CellTimeoutError) as error:
            raise NotebookError(
                f"{notebook.name}: its kernel died ({error}); memory ran out, most likely: "
                f"{peak.bytes / 1e9:.1f} GB were in use\nas far as it got: {executed}"
            ) from error
    return time.perf_counter() - started, peak.bytes


def _max_steps(profile: Profile, stage: int, scale: float) -> int:
    """What a training notebook is told; 0 is the profile's own number. NotebookError for a part of what is not steps."""
    steps = profile.stages[stage].steps
    if steps is None and scale != 1:
        raise NotebookError(
            f"--steps-scale {scale:g}: stage {stage} of profile {profile.name} counts epochs, not steps; leave it out, or "
            "give the stage steps in a profile of your own"
        )
    return 0 if steps is None else max(1, round(scale * steps))


def notebooks_to_run(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """The notebooks in order, and what each is told. NotebookError if the steps cannot be scaled."""
    profile = Profile.load(options.profile)
    runs = Path(options.runs or f"ckpt/runs/{profile.name}")
    stages = [str(runs / f"stage{number}") for number in (1, 2, 3)]
    steps = [_max_steps(profile, stage, options.steps_scale) for stage in (1, 2, 3)]
    common = {"PROFILE": str(options.profile), "SEED": options.seed}
    data = common | {"DATA": str(options.data)}
    toyworld = {
        "MEDIA": options.media,
        "CONVERSATIONS": options.conversations,
        "PER_TASK": options.per_task,
    }
    trained = [data | {"RUN": run, "MAX_STEPS": n} for run, n in zip(stages, steps, strict=True)]
    return [
        ("00_setup", common),
        ("01_checkpoints", common),
        ("02_data", data | toyworld),
        ("03_embeddings", data),
        ("04_stage1_input_alignment", trained[0]),
        ("05_stage2_output_alignment", trained[1] | {"INIT": stages[0]}),
        ("06_stage3_instruction_tuning", trained[2] | {"INIT": stages[1]}),
        ("07_chat", common | {"RUN": stages[2]}),
        ("08_evaluate", {"RUN": stages[2], "BOUND": options.bound, "SEED": options.seed}),
        ("09_compare", {"RUNS": stages[1:], "SEED": options.seed}),
    ]


def run(options: argparse.Namespace) -> Path:
    """Runs the notebooks from `options.start` on; returns the run folder of stage 3. Raises NotebookError."""
    out = resolve(options.out)
    steps = [step for step in notebooks_to_run(options) if step[0][:2] >= options.start]
    if not steps:
        raise NotebookError(f"no notebook from {options.start!r} on: expected 00 to 09")
    times = out / TIMES
    kept = json.loads(times.read_text()) if options.start > "00" and times.is_file() else {}
    notebooks = {name: found for name, found in kept.items() if name[:2] < options.start}
    started, most = time.perf_counter(), 0
    for name, parameters in steps:
        print(f"{name} ...", flush=True)
        seconds, peak = execute(NOTEBOOKS / f"{name}.ipynb", parameters, out)
        most = max(most, peak)
        notebooks[name] = {"seconds": round(seconds, 1), "peak_memory_bytes": peak}
        write_json(times, notebooks)
        print(f"{name}: {seconds:.0f} s, peak memory {peak / 1e9:.2f} GB", flush=True)
    print(
        f"together: {(time.perf_counter() - started) / 60:.1f} min, peak memory {most / 1e9:.2f} GB"
    )
    return resolve(dict(notebooks_to_run(options))["08_evaluate"]["RUN"])


def summary(folder: Path, out: Path) -> str:
    """The matrix of a run, and where everything lies."""
    # Not before the end: what it imports would count into the memory of every notebook.
    from anytoany_lib.evaluation.matrix import matrix_text
    from anytoany_lib.system.runs import METRICS

    metrics = json.loads((folder / METRICS).read_text())
    return (
        f"\n{matrix_text(metrics)}\n\nexecuted notebooks: {out.resolve()}\n"
        f"run folders:        {folder.parent.resolve()}\n"
        f"metrics.json:       {(folder / METRICS).resolve()}"
    )


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are the whole job."""
    made = terminal.parser(
        "demo", "Run the numbered notebooks in order.", "--profile tiny --steps-scale 0.1"
    )
    made.add_argument("--profile", default="tiny")
    made.add_argument("--data", default="data/toy", help="dataset to make and to train on")
    made.add_argument("--runs", help="folder of the run folders (default: ckpt/runs/PROFILE)")
    made.add_argument("--out", default="out", help="folder of the executed notebooks")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--from", dest="start", default="00", help="number of the first notebook")
    made.add_argument("--steps-scale", type=float, default=1.0, help="part of each stage's steps")
    made.add_argument("--media", type=int, default=1600, help="captioned media of the toy world")
    made.add_argument("--conversations", type=int, default=4200, help="conversations about them")
    made.add_argument("--per-task", type=int, default=6, help="test rows of each task")
    made.add_argument(
        "--bound", type=int, default=2, help="rows of each cell whose baselines are measured"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: run the notebooks and print the matrix. Raises NotebookError."""
    options = parser().parse_args(arguments)
    print(summary(run(options), resolve(options.out)))
