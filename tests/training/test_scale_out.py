"""Several processes and several batches a step learn what one process with one batch does; one that dies ends the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import resuming
import torch
from accelerate import Accelerator
from resuming import as_rank, started, wait_for, with_stage
from safetensors.torch import load_file
from sharding import launched as launch_environment

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.training import fsdp
from anytoany_lib.training.checkpoint import newest
from anytoany_lib.training.distributed import Ranks
from anytoany_lib.training.setup import Job
from anytoany_lib.training.stage_data import StageData
from anytoany_lib.training.trackers import Log

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4


def small(profile: Profile, batch_size: int, accumulation: int) -> Profile:
    """Stage 3 with five rows a step, however they are split: one of two processes has more than the other."""
    fit = {"rows": 4, "steps": 0, "batch_size": 4}
    settings = {"batch_size": batch_size, "accumulation": accumulation, "steps": STEPS}
    return with_stage(profile, 3, fit_before=fit, fit_after=fit, **settings)


@pytest.fixture(scope="module")
def shallow(four_bits: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Profile tiny with the first two layers of its language model: what is compared here is two trainings of the same."""
    return resuming.shallow(four_bits, tmp_path_factory.mktemp("shallow"))


@pytest.fixture(scope="module")
def alone(shallow: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by one process, all rows of a step at once."""
    run = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "every", 1)
        return train.train(small(shallow, 5, 1), 3, toy_data, run)


def curve(run: Path) -> list[dict[str, float]]:
    """Every step's losses."""
    lines = [json.loads(line) for line in (run / runs.CURVES).read_text().splitlines()]
    known = ("step", "learning_rate", "text", "image", "audio", "video")
    return [{name: line[name] for name in known if name in line} for line in lines]


def assert_alike(run: Path, other: Path, within: float = 1e-4) -> None:
    """Losses and weights are those of the other run, but for the order of additions."""
    for one, two in zip(curve(run), curve(other), strict=True):
        assert one == pytest.approx(two, rel=within, abs=within)
    for file in (runs.TENSORS, f"{runs.ADAPTER}/{runs.ADAPTER_TENSORS}"):
        mine, others = load_file(run / file), load_file(other / file)
        for name, tensor in others.items():
            # Adam takes a whole step even where a gradient is a rounding error.
            apart = (mine[name] - tensor).abs().float()
            assert apart.mean() <= 1e-2 * tensor.abs().mean() + 1e-5, name


def as_one_of(
    rank: int, world: int, port: int, profile: Profile, data: Path, run: Path, slow: bool
) -> None:
    """A process of several; what it raises it leaves beside the run."""
    as_rank(rank, world, port)
    torch.set_num_threads(1)
    Log.every = 1
    told = {"resume": newest(run) is not None, "save_every": 1}
    if slow:
        told["on_log"] = lambda line: time.sleep(3)
    try:
        train.train(profile, 3, data, run, **told)
    except Exception as error:
        (run.parent / f"error{rank}").write_text(str(error))
        raise


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def two_of(profile: Profile, data: Path, run: Path, slow: bool = False) -> list[BaseProcess]:
    port = free_port()
    return [started(as_one_of, rank, 2, port, profile, data, run, slow) for rank in range(2)]


def as_divided(
    rank: int, port: int, how: str, profile: Profile, data: Path, run: Path, dies_at: int | None
) -> None:
    """A process of two under FSDP, as accelerate launches it; it may die before it takes a step."""
    os.environ |= launch_environment(how)
    real = train._update

    def update(accelerator: Any, optimiser: Any, job: Job, state: Any, read: Any) -> None:
        if state.step == dies_at:
            raise SystemExit("killed")
        layer = state.model.causal_lm.get_decoder().layers[0].mlp.up_proj.weight
        assert layer.to_local().numel() == layer.numel() // 2
        real(accelerator, optimiser, job, state, read)

    train._update = update
    as_one_of(rank, 2, port, profile, data, run, slow=False)


def divided(
    how: str, profile: Profile, data: Path, run: Path, dies_at: int | None = None
) -> list[int | None]:
    """The exit codes of two processes by a configuration of FSDP."""
    told = (free_port(), how, profile, data, run, dies_at)
    processes = [started(as_divided, rank, *told) for rank in range(2)]
    for process in processes:
        process.join(180)
    return [process.exitcode for process in processes]


def test_batches_that_are_added_up_learn_what_one_does(
    shallow: Profile, toy_data: Path, alone: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(Log, "every", 1)
    run = train.train(small(shallow, 1, 5), 3, toy_data, tmp_path / "run")
    assert len(curve(run)) == STEPS and {"text", "image"} <= {
        n for line in curve(run) for n in line
    }
    assert_alike(run, alone)


def test_two_processes_have_the_curve_of_one(
    shallow: Profile, toy_data: Path, alone: Path, tmp_path: Path
):
    processes = two_of(small(shallow, 1, 5), toy_data, tmp_path / "run")
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_alike(tmp_path / "run", alone)


def test_a_process_that_dies_ends_the_other_and_one_alone_goes_on(
    shallow: Profile, toy_data: Path, alone: Path, tmp_path: Path, monkeypatch
):
    run = tmp_path / "run"
    first, second = two_of(small(shallow, 5, 1), toy_data, run, slow=True)
    wait_for(lambda: newest(run) is not None and newest(run).name >= "000001", second)
    second.kill()
    first.join(60)
    assert first.exitcode not in (None, 0)
    said = (tmp_path / "error0").read_text()
    assert "process 0 of 2: another one has died" in said and "resume=True" in said
    assert not (run / runs.RECORD).exists() and int(newest(run).name) < STEPS
    monkeypatch.setattr(Log, "every", 1)
    train.train(small(shallow, 5, 1), 3, toy_data, run, resume=True)
    assert_alike(run, alone, within=1e-3)


def waits(rank: int, port: int, folder: Path) -> None:
    """The second process waits for the first, which does not come."""
    as_rank(rank, 2, port)
    ranks = Ranks(folder, [])
    if ranks.first:
        (folder / "here").touch()
        time.sleep(600)
    try:
        with ranks.together("Start it again"):
            ranks.wait()
    except RuntimeError as error:
        (folder / "said").write_text(str(error))
        raise


def test_who_waits_for_a_process_that_dies_does_not_wait_long(tmp_path: Path):
    port = free_port()
    first, second = (started(waits, rank, port, tmp_path) for rank in range(2))
    wait_for((tmp_path / "here").exists, first)
    time.sleep(1)
    first.kill()
    second.join(60)
    assert second.exitcode == 1
    assert "another one has died or does not answer. Start it" in (tmp_path / "said").read_text()


def test_one_process_is_followed_by_two(
    shallow: Profile, toy_data: Path, alone: Path, tmp_path: Path, monkeypatch
):
    run, real = tmp_path / "run", train._update

    def dies(accelerator: Any, optimiser: Any, job: Job, state: Any, read: Any) -> None:
        if state.step == 2:
            raise SystemExit("killed")
        real(accelerator, optimiser, job, state, read)

    monkeypatch.setattr(train, "_update", dies)
    monkeypatch.setattr(Log, "every", 1)
    with pytest.raises(SystemExit):
        train.train(small(shallow, 5, 1), 3, toy_data, run, save_every=1)
    processes = two_of(small(shallow, 5, 1), toy_data, run)
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_alike(run, alone, within=1e-3)


def test_under_fsdp_two_learn_what_one_does_and_either_goes_on(
    shallow: Profile, toy_data: Path, alone: Path, tmp_path: Path, monkeypatch
):
    run, other = tmp_path / "run", tmp_path / "other"
    assert divided("fsdp-qlora", small(shallow, 1, 5), toy_data, run, dies_at=2) == [1, 1]
    assert newest(run).name == "000002"
    shutil.copytree(run, other)
    assert divided("zero2", small(shallow, 1, 5), toy_data, run) == [0, 0]
    assert_alike(run, alone)
    monkeypatch.setattr(Log, "every", 1)
    train.train(small(shallow, 1, 5), 3, toy_data, other, resume=True)
    assert_alike(other, alone)
    assert AnyToAny.from_pretrained(run).adapter is not None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed: launch it with .*zero2.yaml"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "set fsdp_version: 2"),
    ],
)
def test_launches_that_training_does_not_know_are_refused(
    tmp_path: Path, monkeypatch, asked: dict[str, str], said: str
):
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        Ranks(tmp_path, [])


def test_under_fsdp_what_cannot_be_divided_is_refused(profile: Profile):
    with pytest.raises(ValueError, match="set optimiser: adamw"):
        fsdp.check(with_stage(profile, 3, optimiser="paged-adamw-8bit").stages[3], Accelerator())


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_share_an_epoch_without_loss_or_repetition(
    profile: Profile, toy_data: Path, model: AnyToAny, world: int
):
    """The last step of an epoch has a row or two only: fewer than there are processes."""
    store = DatasetFeatures(profile, toy_data)

    def data() -> StageData:
        return StageData(toy_data, "train", "comprehension", model.messages, store, seed=2)

    rows = len(data())
    size = next(n for n in range(6, rows) if rows % n == 1)
    in_epoch = -(-rows // size)
    ranks = [list(islice(data().steps(size, 2, 0, r, world), in_epoch)) for r in range(world)]
    names: Counter[str] = Counter()
    for of_ranks in zip(*ranks, strict=True):
        assert all(step.names == of_ranks[0].names for step in of_ranks)
        names.update(of_ranks[0].names)
        parts = [part for step in of_ranks for part in step.parts]
        real = [(batch, shares) for batch, shares in parts if sum(shares.values())]
        assert sum(len(batch.ids) for batch, _ in real) == len(of_ranks[0].names)
        assert sum(shares["text"] for _, shares in parts) == pytest.approx(1)
        assert all(step.parts for step in of_ranks) and max(len(b.ids) for b, _ in parts) <= 2
    assert len(names) == rows and set(names.values()) == {1}


class Meeting:
    """Processes of a training as threads, which gather what each of them gives."""

    def __init__(self, world: int):
        self._world, self._barrier = world, threading.Barrier(world)
        self._given: list[list[Any]] = [[] for _ in range(world)]

    def gather_of(self, rank: int) -> Callable[[list[Any]], list[Any]]:
        def gather(items: list[Any]) -> list[Any]:
            self._given[rank] = items
            self._barrier.wait(60)
            everything = [item for given in self._given for item in given]
            self._barrier.wait(60)  # before anybody gives anew
            return everything

        return gather


@pytest.mark.parametrize("world", [1, 2, 4, 64])
def test_each_process_reads_its_share_of_the_rows_and_all_take_the_steps_of_one(
    profile: Profile, toy_data: Path, model: AnyToAny, world: int
):
    store = DatasetFeatures(profile, toy_data)
    size, meeting = 64, Meeting(world)
    counts, steps = Counter(), {}

    class Counted(StageData):
        def __init__(self, rank: int):
            super().__init__(toy_data, "train", "instructions", model.messages, store, seed=3)
            self.rank = rank

        def _encode(self, index: int, epoch: int) -> Any:
            counts[self.rank] += 1
            return super()._encode(index, epoch)

        def _collate(self, rows: list, latents: bool) -> list[str]:
            return [row.name for row in rows]  # who computes what is the question, not with what

    def take(rank: int, gather: Any) -> list[Any]:
        own = Counted(rank).steps(size, 8, 0, max(rank, 0), world, gather=gather)
        return list(islice(own, 4))

    with ThreadPoolExecutor(world) as pool:
        work = {r: pool.submit(take, r, meeting.gather_of(r)) for r in range(world)}
        steps = {rank: future.result() for rank, future in work.items()}
    rows = len(Counted(0))
    epochs = -(-4 // -(-rows // size))
    assert (
        max(counts.values()) <= epochs * -(-rows // world) and sum(counts.values()) == epochs * rows
    )
    for rank, taken in steps.items():
        alone = Counted(-1).steps(size, 8, 0, rank, world)
        for one, other in zip(taken, islice(alone, 4), strict=True):
            assert one == other


def test_more_processes_than_rows_a_step_are_refused(profile: Profile, tmp_path: Path):
    job = Job(small(profile, 2, 2), 3, tmp_path, tmp_path, None, 0, None, 1)
    job.check_share(4)
    with pytest.raises(ValueError, match="5 processes, but a step of stage 3 reads 4 rows"):
        job.check_share(5)


def launched(launcher: list[str], data: Path, run: Path, profile: Path) -> str:
    told = ["--profile", str(profile), "--stage", "1", "--data", str(data), "--run", str(run)]
    command = [sys.executable, "-m", *launcher, "-m", "anytoany_lib.train", *told]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["--max-steps", "2", "--save-every", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def small_file(shallow: Profile, folder: Path) -> Path:
    """A profile's file that names the first layers of the language model, with a stage 1 of small steps."""
    file, llm = folder / "small.yaml", f"llm: {{folder: {shallow.llm.folder}}}"
    file.write_text(f"like: tiny\nname: tiny\n{llm}\nstages: {{1: {{batch_size: 2}}}}\n")
    return file


def test_accelerate_launches_it(shallow: Profile, toy_data: Path, tmp_path: Path):
    file = small_file(shallow, tmp_path)
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--main_process_port", "0"]
    printed = launched(launcher, toy_data, tmp_path / "run", file)
    assert printed.strip().splitlines().count(str(tmp_path / "run")) == 1
    assert runs.read_record(tmp_path / "run")["steps"] == 2


def test_an_interrupted_launcher_leaves_a_checkpoint(
    shallow: Profile, toy_data: Path, tmp_path: Path
):
    file, run = small_file(shallow, tmp_path), tmp_path / "run"
    told = ["--profile", str(file), "--stage", "1", "--data", str(toy_data), "--run", str(run)]
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, "-m", *launcher, "-m", "--", "anytoany_lib.train", *told]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # A shell's background jobs, and what they start, ignore interrupts.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=said, preexec_fn=heeds
        )
        while not (run / runs.CURVES).is_file() or not (run / runs.CURVES).stat().st_size:
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) != 0
    step = int(newest(run).name)
    steps = shallow.stages[1].steps
    assert (
        step and f"step {step} of {steps} is saved: go on with" in (tmp_path / "said").read_text()
    )
