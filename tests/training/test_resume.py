"""A training that is killed, interrupted, starved of disk or led astray: what is left of it, and how it goes on."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from resuming import shallow, started, wait_for, weights, with_stage

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.data.manifests import read_manifest, write_manifest
from anytoany_lib.data.rows import Row
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import interrupts, runs
from anytoany_lib.system.files import Busy
from anytoany_lib.system.peak_memory import Phases
from anytoany_lib.training import checkpoint, fitting
from anytoany_lib.training.checkpoint import CHECKPOINT, TrainingState, newest
from anytoany_lib.training.fitting import fit_output_projections
from anytoany_lib.training.setup import Job
from anytoany_lib.training.trackers import Log

STEPS = 8


@pytest.fixture(scope="module")
def small(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Profile tiny with the first layers of its language model: what is compared here is two trainings of the same."""
    return shallow(profile, tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def quick(small: Profile) -> Profile:
    """The same with a stage 1 of small steps, two batches each, that also trains LoRA with dropout."""
    rates = {"input_projection": 5e-3, "token_rows": 1e-2, "lora": 1e-3}
    lora = small.lora.model_copy(update={"dropout": 0.1, "targets": ["q_proj"]})
    profile = with_stage(small, 1, batch_size=2, accumulation=2, learning_rates=rates)
    return profile.model_copy(update={"lora": lora})


def trained(profile: Profile, data: Path, run: Path, **settings: Any) -> Path:
    """A training that goes on if there is something to go on with."""
    told = {"max_steps": STEPS, "resume": newest(run) is not None} | settings
    return train.train(profile, 1, data, run, **told)


def curve(run: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (run / runs.CURVES).read_text().splitlines()]
    return [{n: v for n, v in line.items() if "second" not in n} for line in lines]


def interrupting(step: int) -> Callable[[dict[str, Any]], None]:
    """An `on_log` that presses the stop button when it is told of a step."""

    def on_log(line: dict[str, Any]) -> None:
        if line["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_log


@pytest.fixture(scope="module")
def unbroken(quick: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(quick, toy_data, tmp_path_factory.mktemp("unbroken") / "run")


@pytest.fixture(scope="module")
def stopped(
    quick: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A run that was stopped from the notebook after three steps, and what was said then."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt) as said:
        patch.setattr(Log, "every", 3)
        trained(quick, toy_data, run, on_log=interrupting(3))
    return run, str(said.value)


@pytest.fixture
def left(stopped: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(stopped[0], tmp_path / "left")


def in_its_process(profile: Profile, data: Path, run: Path) -> None:
    """A training whose steps take so long that there is time to end it among them."""
    torch.set_num_threads(1)
    update = train._update
    train._update = lambda *arguments: (time.sleep(0.5), update(*arguments))
    trained(profile, data, run, save_every=1)


def stuck_in_a_write(profile: Profile, data: Path, run: Path) -> None:
    """A training whose third checkpoint never gets beyond its weights."""
    real = torch.save

    def save(state: Any, path: Path) -> None:
        if state["step"] == 2:
            path.write_bytes(b"half a checkp")
            (run / "stuck").touch()
            time.sleep(600)
        real(state, path)

    torch.save = save
    in_its_process(profile, data, run)


def test_killed_at_random_moments_it_ends_with_the_weights_of_an_unbroken_run(
    quick: Profile, toy_data: Path, unbroken: Path, tmp_path: Path
):
    run, rng, reached = tmp_path / "run", random.Random(4), []
    for _ in range(3):
        before = newest(run)
        process = started(in_its_process, quick, toy_data, run)
        wait_for(lambda before=before: newest(run) not in (None, before), process)
        time.sleep(rng.uniform(0, 1))
        process.kill()
        process.join()
        reached.append(int(newest(run).name))
    assert reached == sorted(set(reached)) and reached[-1] < STEPS
    assert weights(trained(quick, toy_data, run)) == weights(unbroken)
    assert curve(run) == curve(unbroken)
    assert newest(run) is None and (run / runs.RECORD).is_file()


def test_killed_while_it_writes_a_checkpoint_the_one_before_is_good(
    quick: Profile, toy_data: Path, unbroken: Path, tmp_path: Path
):
    run = tmp_path / "run"
    process = started(stuck_in_a_write, quick, toy_data, run)
    wait_for((run / "stuck").exists, process)
    process.kill()
    process.join()
    assert newest(run).name == "000001" and (run / CHECKPOINT / ".000002.part").is_dir()
    assert weights(trained(quick, toy_data, run)) == weights(unbroken)
    assert not (run / CHECKPOINT).exists()


def test_a_stop_is_saved_says_how_to_go_on_and_loses_nothing(
    quick: Profile, toy_data: Path, unbroken: Path, stopped, left: Path, monkeypatch
):
    assert stopped[1].startswith("step 3 of 8 is saved: go on with resume=True (RESUME in the")
    assert sorted(path.name for path in (left / CHECKPOINT).iterdir())[-1] == "000003"
    handler = signal.getsignal(signal.SIGINT)
    real, began, first = train._check_losses, time.process_time(), []

    def noted(*arguments: Any) -> None:
        first.append(time.process_time() - began)  # seconds of this process: others may be busy
        real(*arguments)

    monkeypatch.setattr(train, "_check_losses", noted)
    assert weights(trained(quick, toy_data, left)) == weights(unbroken)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(first) == STEPS - 3 and first[0] <= 15


def test_a_second_interrupt_does_not_wait():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as came:
        assert not came()
        signal.raise_signal(signal.SIGINT)
        assert came()
        signal.raise_signal(signal.SIGINT)
    with interrupts.deferred(alone=False) as came:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    elsewhere = []

    def work() -> None:
        with interrupts.deferred() as came:
            elsewhere.append(came())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert elsewhere == [False]


def test_stopped_in_the_fits_that_follow_it_goes_on_with_them(
    small: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    fit = {"rows": 4, "steps": 3, "batch_size": 4}
    small = with_stage(small, 2, batch_size=2, steps=2, fit_before=fit, fit_after=fit)
    whole = train.train(small, 2, toy_data, tmp_path / "whole")
    real, calls = fit_output_projections, []

    def stopped_the_second_time(model: AnyToAny, *arguments: Any) -> dict[str, float]:
        calls.append(1)
        found = real(model, *arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(fitting, "fit_output_projections", stopped_the_second_time)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="all 2 steps are saved: go on with resume=True"):
        train.train(small, 2, toy_data, run)
    monkeypatch.undo()
    train.train(small, 2, toy_data, run, resume=True)
    assert weights(run) == weights(whole)
    records = [runs.read_record(folder) for folder in (run, whole)]
    assert records[0]["fitted"] == records[1]["fitted"] and len(records[0]["fitted"]) == 6
    assert records[0]["validation"] == records[1]["validation"]
    phases = ("loading", "fits before", "training", "fits after", "validation")
    for record in records:
        assert tuple(sorted(record["peak_memory_by_phase"])) == tuple(sorted(phases))
        peaks = [peak["host"] for peak in record["peak_memory_by_phase"].values()]
        assert 1e8 < min(peaks) <= max(peaks) <= record["peak_memory_bytes"]["host"]
    with pytest.raises(FileNotFoundError, match="nothing to resume: .* is finished"):
        train.train(small, 2, toy_data, run, resume=True)


def test_the_highest_peak_is_of_the_phases_before_a_resume_too(monkeypatch):
    own = {"host": 10**9}  # two readings of the real one may differ by some pages
    monkeypatch.setattr("anytoany_lib.system.peak_memory.peak_memory_bytes", lambda: own)
    phases = Phases()
    assert phases.highest() == own
    with phases.phase("loading"):
        assert len(bytes(1000))
    phases.peaks["training"] = {"host": 10**15}
    assert phases.highest() == {"host": 10**15}
    with phases.phase("training"):
        assert len(bytes(1000))
    assert phases.peaks["training"]["host"] == 10**15 > phases.peaks["loading"]["host"] > 0


def test_a_dataset_that_has_changed_is_refused(
    quick: Profile, toy_data: Path, left: Path, tmp_path: Path
):
    data = tmp_path / "data"
    shutil.copytree(toy_data, data)
    shutil.move(left, tmp_path / "run")
    write_manifest(list(read_manifest(data, "train"))[1:], data, "train")
    there = weights(tmp_path / "run")
    with pytest.raises(ValueError, match=r"000003: the dataset has changed since .*fingerprint"):
        trained(quick, data, tmp_path / "run")
    assert weights(tmp_path / "run") == there


def test_other_settings_are_refused_by_their_names(quick: Profile, tmp_path: Path):
    def record(profile: Profile = quick, **settings: Any) -> dict[str, Any]:
        job = Job(profile, 1, Path("data"), tmp_path, None, 0, None, 1)
        fixed = {"stage": 1, "steps": 8, "seed": 0, "init": None, "data": {"data/toy": "ab"}}
        return {"profile": job.profile.model_dump(mode="json")} | fixed | settings

    def refused(now: dict[str, Any]) -> str:
        with pytest.raises(ValueError) as said:
            checkpoint._check_same(record(), now, tmp_path)
        return str(said.value)

    assert "seed was 0, is 1" in refused(record(seed=1))
    assert "steps was 8, is 9" in refused(record(steps=9))
    assert "init was None, is ckpt/x" in refused(record(init="ckpt/x"))
    other = with_stage(quick, 1, accumulation=1)
    assert "profile.stages.1.accumulation was 2, is 1" in refused(record(other))
    assert "start anew without --resume" in refused(record(other))
    assert "fingerprint ab, now cd" in refused(record(data={"data/toy": "cd"}))
    checkpoint._check_same(record(), record(data={"elsewhere": "ab"}), tmp_path)
    older = record()
    del older["profile"]["stages"]["1"]["accumulation"]
    checkpoint._check_same(older, record(with_stage(quick, 1, accumulation=1)), tmp_path)


def test_a_start_without_resume_gives_an_older_checkpoint_up(
    quick: Profile, toy_data: Path, left: Path, capsys
):
    train.train(quick, 1, toy_data, left, max_steps=1, seed=3)
    assert "000003 is given up when training begins" in capsys.readouterr().out
    assert runs.read_record(left)["seed"] == 3 and not (left / CHECKPOINT).exists()


# --- losses that lead nowhere ---


def test_a_loss_that_is_no_number_names_step_rows_and_the_last_good_checkpoint(
    quick: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    real, calls, run = AnyToAny.forward, [], tmp_path / "run"

    def forward(model: AnyToAny, *arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        factor = float("nan") if len(calls) > 6 else 1.0
        return {name: factor * loss for name, loss in real(model, *arguments).items()}

    monkeypatch.setattr(AnyToAny, "forward", forward)
    with pytest.raises(RuntimeError) as said:
        trained(quick, toy_data, run, save_every=1)
    assert "stage 1, step 3: the loss is nan (text;" in str(said.value)
    assert f"the last good checkpoint is {run / CHECKPOINT / '000002'}" in str(said.value)
    names = {row.id for row in read_manifest(toy_data, "train")}
    rows = str(said.value).split(" on rows ")[1].split(";")[0].split(", ")
    assert len(rows) == 4 and names.issuperset(rows)


@pytest.mark.parametrize(
    ("losses", "explodes"),
    [
        ([0.1, 19.0], False),
        ([0.1, 21.0], True),
        ([30.0, 500.0], False),
        ([30.0, 700.0], True),
        ([float("inf")], True),
    ],
)
def test_a_loss_far_above_its_first_explodes(tmp_path: Path, quick, losses, explodes: bool):
    state = SimpleNamespace(first={}, step=7, scaler=None)
    job = Job(quick, 1, tmp_path, tmp_path, None, 0, None, 1)
    train._check_losses({"image": losses[0]}, job, state, []) if len(losses) > 1 else None
    if not explodes:
        return train._check_losses({"image": losses[-1], "text": 0.0}, job, state, [])
    with pytest.raises(RuntimeError, match=r"step 7: the loss is .*\(image; .*initial weights"):
        train._check_losses({"image": losses[-1]}, job, state, ["a"])
    return None


def test_learning_rates_are_above_nothing_and_finite(profile: Profile):
    for rate in (0, -1e-3, float("inf")):
        settings = profile.model_dump()
        settings["stages"][1]["learning_rates"]["token_rows"] = rate
        with pytest.raises(ValueError, match=r"stages\.1\.learning_rates\.token_rows"):
            Profile.parse(settings, "test")


def talk(name: str, *turns: str) -> Row:
    roles = ("user", "assistant")
    said = [{"type": "text", "text": ""}]
    messages = [
        {"role": roles[n % 2], "content": [said[0] | {"text": text}]}
        for n, text in enumerate(turns)
    ]
    return Row(name, "test", messages, {})


def test_rows_without_an_answer_or_beyond_the_context_are_counted(
    small: Profile, toy_data: Path, tmp_path: Path
):
    """One that can be read, one that loses its first turn, one of a turn that is too long, one that nobody answers."""
    long = " ".join(["word"] * 60)
    rows = [
        talk("short", "Hello", "Hello!"),
        talk("cut", long, "Yes.", "And now?", "No."),
        talk("long", long + long, "Yes."),
        talk("silent", "Hello"),
    ]
    data = tmp_path / "data"
    write_manifest(rows, data, "train")
    write_manifest(rows, data, "validation")
    stage = {"reads": "instructions", "steps": None, "epochs": 1, "batch_size": 1}
    small = with_stage(small, 1, learning_rates={"token_rows": 1e-2}, **stage)
    llm = small.llm.model_copy(update={"context": 64})
    run = train.train(small.model_copy(update={"llm": llm}), 1, data, tmp_path / "run")
    record = runs.read_record(run)
    assert (record["steps"], record["empty_steps"]) == (4, 2)
    assert (record["cut"], record["left_out"]) == (1, 1)
    assert record["validation"]["text"] > 0
    write_manifest(rows[2:3], data, "train")
    with pytest.raises(ValueError, match="no row fits into 64 tokens"):
        train.train(small.model_copy(update={"llm": llm}), 1, data, tmp_path / "no", max_steps=3)


# --- two at once ---


def refused(profile: Profile, data: Path, run: Path, said: Path) -> None:
    """A training that writes down why it may not begin."""
    try:
        in_its_process(profile, data, run)
    except Busy as error:
        said.write_text(str(error))


def test_of_two_trainings_in_one_run_the_second_names_the_first_which_ends_whole(
    quick: Profile, toy_data: Path, unbroken: Path, tmp_path: Path
):
    run, said = tmp_path / "run", tmp_path / "said"
    first = started(in_its_process, quick, toy_data, run)
    wait_for(lambda: newest(run), first)
    os.kill(first.pid, signal.SIGSTOP)  # so that it cannot have ended before the second begins
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    try:
        second = started(refused, quick, toy_data, run, said)
        second.join(120)
        assert second.exitcode == 0
        assert f"{run}: process {first.pid} (" in said.read_text()
        assert "trains in it: wait for it to end, or name another folder" in said.read_text()
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.join(240)
    assert first.exitcode == 0
    assert weights(run) == weights(unbroken) and curve(run) == curve(unbroken)


# --- disk and memory ---


def test_a_full_disk_leaves_the_last_checkpoint_and_room_lets_it_go_on(
    quick: Profile, toy_data: Path, unbroken: Path, tmp_path: Path, monkeypatch
):
    run, real = tmp_path / "run", torch.save

    def save(state: dict[str, Any], path: Path) -> None:
        if state["step"] == 2:
            path.write_bytes(b"half a checkp")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(state, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match=r"step 2: .*No space left.*last good one is .*000001"):
        trained(quick, toy_data, run, save_every=1)
    assert sorted(path.name for path in (run / CHECKPOINT).glob("0*")) == ["000000", "000001"]
    monkeypatch.undo()
    assert weights(trained(quick, toy_data, run)) == weights(unbroken)


def test_room_is_asked_for_by_what_is_trained(tmp_path: Path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    checkpoint.check_room(tmp_path, 10**7)
    with pytest.raises(OSError, match="1024 MiB of disk are free, a run needs 2108"):
        checkpoint.check_room(tmp_path, 5 * 10**7)


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_loaded(
    quick: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    def refuse(**place: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write where others may not
    monkeypatch.setattr(train, "new_training", None)
    with pytest.raises(PermissionError, match="run cannot be written.*Read-only file system"):
        trained(quick, toy_data, tmp_path / "run")
    with pytest.raises(ValueError, match="at least 1; found 0"):
        trained(quick, toy_data, tmp_path / "run", save_every=0)


class Small(torch.nn.Module):
    """What a checkpoint asks of a model."""

    adapter = None

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 2)

    def bridges(self) -> dict[str, torch.nn.Module]:
        return {"line": self.line}

    def load(self, folder: Path) -> None:
        runs.read_tensors(folder, self.bridges(), None)


def small_state(quick: Profile) -> TrainingState:
    model = Small()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
    data = SimpleNamespace(cut=set(), left_out=set())
    record = {"profile": quick.model_dump(mode="json"), "stage": 1, "steps": 9, "seed": 0}
    record |= {"init": None, "data": {"data/toy": "ab"}}
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    return TrainingState(model, optimiser, schedule, scaler, data, None, record, 4)


def one_step(state: TrainingState) -> None:
    loss = state.model.line(torch.ones(1, 2)).square().sum()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.schedule.step()
    state.optimiser.zero_grad()
    state.step += 1


def test_optimiser_schedule_scaler_and_counts_are_taken_over(quick: Profile, tmp_path: Path):
    one = small_state(quick)
    one_step(one)
    one.scaler.update(8.0)
    one.data.cut |= {3, 5}
    one.first, one.recent, one.empty = {"text": 2.0}, [({"text": 2.0}, 7)], 1
    one.save(tmp_path)
    other = small_state(quick)
    other.load(tmp_path)
    assert other.scaler.get_scale() == one.scaler.get_scale() == 8.0
    assert other.data.cut == {3, 5} and (other.step, other.empty) == (1, 1)
    assert other.recent == one.recent and other.first == one.first
    one_step(one)
    one_step(other)
    assert torch.equal(one.model.line.weight, other.model.line.weight)
    assert other.schedule.get_last_lr() == one.schedule.get_last_lr()


def test_what_a_step_draws_depends_on_seed_step_and_process_alone(quick: Profile):
    def drawn(step: int, rank: int) -> float:
        state.step = step
        state.seed_step(rank)
        return torch.rand(()).item()

    state = small_state(quick)
    first = drawn(5, 0)
    assert len({first, drawn(6, 0), drawn(5, 1)}) == 3
    assert drawn(5, 0) == first


def test_a_checkpoint_takes_less_than_a_second(
    quick: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    real, taken = TrainingState.save, []

    def timed(state: TrainingState, run: Path) -> None:
        began = time.perf_counter()
        real(state, run)
        taken.append(time.perf_counter() - began)

    monkeypatch.setattr(TrainingState, "save", timed)
    trained(quick, toy_data, tmp_path / "run", max_steps=2, save_every=1)
    assert len(taken) == 3 and min(taken) <= 1  # others may be busy for one of them


def growth(profile: Profile, data: Path, run: Path, steps: int, after: int) -> float:
    """MB by which a training's own memory grows between step `after` and the last one, each a mean over 10 steps."""
    own = psutil.Process()
    sizes: dict[int, float] = {}

    def on_log(line: dict[str, Any]) -> None:
        sizes[line["step"]] = own.memory_full_info().uss / 1e6

    train.train(profile, 1, data, run, max_steps=steps, on_log=on_log)
    early = (sizes[after] + sizes[after + 5]) / 2
    return (sizes[steps] + sizes[steps - 5]) / 2 - early


@pytest.mark.parametrize(
    ("steps", "after"), [(30, 10), pytest.param(500, 50, marks=pytest.mark.long)]
)
def test_memory_does_not_grow_with_the_steps(
    small: Profile, toy_data: Path, tmp_path: Path, steps: int, after: int
):
    two = with_stage(small, 1, batch_size=2)
    assert growth(two, toy_data, tmp_path / "run", steps, after) < 40
