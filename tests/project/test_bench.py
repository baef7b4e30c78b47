"""The benchmarks run and measure what they say, at small size: on a card they are the same code at full size."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from resuming import with_stage
from torch.distributed.run import get_args_parser

from anytoany_lib.config import Profile
from anytoany_lib.messages import IGNORED
from anytoany_lib.model import AnyToAny
from anytoany_lib.training import stage_data
from anytoany_lib.training.checkpoint import newest
from anytoany_lib.training.trackers import Log

BENCH = Path(__file__).resolve().parents[2] / "bench"
NAMES = [
    "record",
    "steps",
    "chat",
    "manifests",
    "features",
    "training",
    "company",
    "gpu",
    "decoders",
]


@pytest.fixture(scope="module")
def bench() -> dict[str, ModuleType]:
    """The scripts of bench/ as modules, which import each other by name."""
    loaded = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        for name in NAMES:
            spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
            loaded[name] = module
        yield loaded


@pytest.mark.long
def test_manifests_are_measured_and_their_memory_does_not_grow_with_the_rows(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench["manifests"], "FEW", 4_000)
    monkeypatch.setattr(bench["manifests"], "RANDOM_READS", 50)
    found = bench["manifests"].measure(40_000, tmp_path)
    for form in ("jsonl", "json"):
        build, read = (found[form]["40000"][what] for what in ("build", "read"))
        assert build["rows"] == 40_000 and read["rows"] == 36_000
        assert build["rows_per_second"] > 0 and read["random_rows_per_second"] > 0
        assert found[form]["build_memory_growth_mb"] < 40


def test_features_are_measured_beside_the_bare_models(bench, profile: Profile, tmp_path: Path):
    features = bench["features"]
    captions = features.caption_rates(profile, "audio", count=16, rounds=1, work=tmp_path)
    images = features.media_rates(profile, "image", count=4, rounds=1, work=tmp_path)
    for found in (captions, images):
        expected = found["a second"] / found["bare a second"]
        assert found["ratio to bare"] == pytest.approx(expected, rel=0.1)
    assert captions["bare batch"] in features.BATCH_SIZES and captions["ratio to single files"] > 0


def test_a_chat_is_measured_beside_what_it_has_to_reach(bench, model: AnyToAny, scripted):
    chat = bench["chat"]
    rates = chat.text_rates(model, tokens=4, rounds=1)
    assert rates["tokens"] == 4 and rates["ratio to bare"] == pytest.approx(
        rates["a second"] / rates["bare a second"]
    )
    turns = chat.first_texts(model, conversations=1)
    assert len(turns["seconds of each"]) == 4 and min(turns["seconds of each"]) > 0
    made = chat.diffusion(model, "image", rounds=1)
    assert made["ratio to bare"] == pytest.approx(made["seconds"] / made["bare seconds"])
    scripted(["Look:", "image", "STOP"], ["Only words", "STOP"])
    assert 0 < chat.seconds_to_stop(model, "image") < 5
    with pytest.raises(RuntimeError, match="not answered with image"):
        chat.seconds_to_stop(model, "image")


def test_decoders_are_measured_beside_their_pipelines(bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench["decoders"], "_LATENTS", 2)
    found = bench["decoders"].measure(1, ("sana_sprint",))
    for part in ("sana_sprint 1", "sana_sprint 2", "autoencoder of full width"):
        one, other, ratio = found[part].values()
        assert min(one, other) > 0 and ratio == one / other
    assert len(bench["record"].verdicts(found, bench["decoders"].AT_MOST, {})) == 2


def test_verdicts_name_what_is_not_reached_and_leave_out_what_was_not_measured(bench):
    found = {"text": {"ratio to bare": 0.95}, "stop": {"seconds": 0.7}, "page": {}}
    limits = (bench["chat"].AT_MOST, bench["chat"].AT_LEAST)
    assert bench["record"].verdicts(found, *limits) == {
        "text: ratio to bare": "0.95, at least 0.9: yes",
        "stop: seconds": "0.7, at most 0.5: NO",
    }


def test_a_step_is_timed_beside_other_programs_which_end_with_it(bench, monkeypatch):
    company, started = bench["company"], []
    real = company.subprocess.Popen

    def popen(*arguments, **named):
        started.append(real(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(company.subprocess, "Popen", popen)
    options = ["--profile=tiny", "--threads=1", "--steps=1"]
    found = company.in_company(1, "1000", options)
    assert found["seconds"] > 0 and found["noise"] == 0  # of a single step none is known
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_what_company_costs_is_relative_to_being_alone(bench, monkeypatch):
    company = bench["company"]
    monkeypatch.setenv(company.SPINS, "1000")
    seconds = {(0, "1000"): 2.0, (0, company.OWN): 2.0, (1, "1000"): 3.0, (1, company.OWN): 6.0}
    seconds |= {(2, spins): 4.0 for spins in ("1000", company.OWN)}

    def in_company(programs: int, spins: str, _) -> dict[str, float]:
        return {"seconds": seconds[programs, spins], "noise": programs / 10}

    monkeypatch.setattr(company, "in_company", in_company)
    found = company.measure([])
    assert found["beside one"]["ratio to idle"] == 1.5
    assert found["beside one"]["ratio to OpenMP's own"] == 0.5
    assert found["beside one"]["noise"] == 0.1
    assert found["verdicts"]["beside one: ratio to idle"] == "1.5, at most 1.9: yes"


@pytest.fixture(scope="module")
def small(profile: Profile) -> Iterator[Profile]:
    """Profile tiny with stage 3 alone, two rows a step, three steps sorted by length together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_data, "_WINDOW_BATCHES", 3)
        stages = {3: with_stage(profile, 3, batch_size=2).stages[3]}
        yield profile.model_copy(update={"stages": stages})


@pytest.fixture(scope="module")
def kit(bench, small: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """The kit's training of that stage, before its first step."""
    return bench["training"].kit_for(small, 3, toy_data, tmp_path_factory.mktemp("bench") / "run")


def test_a_training_step_is_measured_in_all_its_forms(
    bench,
    small: Profile,
    toy_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    training = bench["training"]
    monkeypatch.setattr(training, "WARMUP", 0)
    monkeypatch.setattr(training, "interruption", lambda *_: {"resume": {"seconds": 20}})
    monkeypatch.setattr(training, "processes", lambda *_: {"ratio to one": 0.95})
    result = training.measure(small, toy_data, tmp_path, rounds=1, threads=1, steps=10)
    found = result["stage 3"]
    seconds, whole = found["seconds"], found["seconds with reading"]
    ratio = seconds[training.AS_IS] / seconds[training.BARE]
    assert result["step"]["ratio to bare"] == found["ratio to bare"] == pytest.approx(ratio)
    assert set(whole) == set(training.FORMS) and min(whole.values()) > 0
    assert min(found["where"].values()) > 0
    assert whole[training.AS_IS] > found["where"]["data"] > 0
    assert result["whole"]["seconds"] == pytest.approx(
        small.stages[3].steps * whole[training.AS_IS]
    )
    reached = bench["record"].verdicts(result, training.AT_MOST, training.AT_LEAST)
    measured = set(training.AT_MOST | training.AT_LEAST) - {"checkpoint: seconds"}
    assert set(reached) == measured
    assert reached["resume: seconds"] == "20, at most 15: NO"
    assert Profile.load(tmp_path / "profile.yaml") == small
    assert "where: backward" in capsys.readouterr().out


def test_what_is_switched_off_leaves_rows_and_features_as_they_are(bench, kit):
    training = bench["training"]
    forms = training.readings(kit)
    in_epoch = -(-len(kit.state.data) // 2)
    read = {
        name: list(islice(kit.reading(forms[name]), in_epoch))
        for name in (training.AS_IS, training.NO_BUCKETS)
    }
    kept, drawn = (sorted(n for step in steps for n in step.names) for steps in read.values())
    assert kept == drawn
    cached, computed = (next(kit.reading(forms[name])) for name in (training.AS_IS, training.LIVE))
    for (one, _), (other, _) in zip(cached.parts, computed.parts, strict=True):
        assert torch.equal(one.ids, other.ids) and one.targets.keys() == other.targets.keys()
        assert torch.allclose(one.media, other.media, atol=1e-2)
    every = training.everywhere(cached)
    assert all((batch.labels != IGNORED).all() for batch, _ in every.parts)


def test_the_bare_step_leaves_the_weights_as_they_are(bench, kit):
    lora = {n: p for n, p in kit.state.model.named_parameters() if "lora_" in n}
    before = {name: parameter.detach().clone() for name, parameter in lora.items()}
    step = next(kit.reading(kit.state.data))
    for everywhere in (True, False):
        bench["steps"].bare_step(kit.state.model, everywhere)(step)
    assert all(torch.equal(before[name], parameter) for name, parameter in lora.items())
    assert all(parameter.grad is None for parameter in lora.values())


def test_launchers_pass_on_what_the_training_is_told(bench, tmp_path: Path):
    training = bench["training"]
    command = training.training_command(tmp_path / "p.yaml", 3, tmp_path / "data", tmp_path / "run")
    told = get_args_parser().parse_args([*training.torchrun(2)[2:], *command])
    assert told.module and told.nproc_per_node == "2"
    assert [told.training_script, *told.training_script_args] == command


def test_a_resumed_training_is_timed_until_its_first_line(bench, kit, tmp_path: Path):
    training = bench["training"]
    kit.state.step = 0
    assert min(training.checkpoint_seconds(kit)) > 0
    assert newest(kit.job.run).name == f"{Log.every - 1:06d}"
    curves = tmp_path / "metrics.jsonl"
    written = (
        f"import pathlib, time; pathlib.Path({str(curves)!r}).write_text('line'); time.sleep(60)"
    )
    assert 0 < training.seconds_to_line(["-c", written], curves, threads=1) < 30
    with pytest.raises(RuntimeError, match="ended with 3"):
        training.seconds_to_line(["-c", "raise SystemExit(3)"], tmp_path / "none", threads=1)
    lines = [{"step": 5, "seconds": 10.0}, {"step": 10, "seconds": 12.0}]
    curves.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training.steps_a_second(curves) == 2.5


def test_a_bench_says_what_changed_since_it_was_committed(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    record, results = bench["record"], tmp_path / "results"
    monkeypatch.setattr(record, "RESULTS", results)
    before = {
        "machine": "Some CPU x2",
        "date": "2026-01-02",
        "profile": "tiny",
        "step": {"seconds": 2.0, "bare": 1.0, "gone": 3},
        "each": [1.0, 0.0],
    }

    def printed(result: dict) -> str:
        record.keep(result, "steps")
        _, end, told = capsys.readouterr().out.partition("\n}\n")
        assert end and json.loads((results / "steps-some-cpu-x2.json").read_text()) == result
        return told.strip()

    assert printed(before) == "no result of Some CPU x2 is committed to compare with"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y.z"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "measured"]):
        subprocess.run([*git, *command], check=True)
    unchanged = "since 2026-01-02 on Some CPU x2 0 of 5 numbers changed by more than noise"
    assert printed(before) == unchanged
    nearly = {"seconds": 2.08, "bare": 1.0, "gone": 3}
    assert [line.split() for line in printed(before | {"step": nearly}).splitlines()] == [
        f"{unchanged}:".split(),
        ["what", "was", "is", "ratio", "noise", "changed"],
        ["step:", "seconds", "2", "2.08", "1.04", "5%"],
    ]
    slower = {"seconds": 2.5, "bare": 1.0, "new": 4}
    told = printed(before | {"step": slower, "each": [1.0, 0.5]}).splitlines()
    assert told[0] == "since 2026-01-02 on Some CPU x2 4 of 5 numbers changed by more than noise:"
    assert [line.split() for line in told[2:]] == [
        ["step:", "seconds", "2", "2.5", "1.25", "5%", "yes"],
        ["step:", "gone", "3", "–", "–", "5%", "yes"],
        ["each:", "1", "0", "0.5", "–", "5%", "yes"],
        ["step:", "new", "–", "4", "–", "5%", "yes"],
    ]
    assert "committed result is of profile tiny" in printed(before | {"profile": "nextgpt-7b"})


def test_what_differs_by_less_than_the_rounds_do_is_noise(bench):
    record = bench["record"]
    even, uneven = np.tile([[1.0, 2.0]], (9, 1)), np.array([[1.0], [2.0], [3.0]] * 3)
    assert record.noise(even) == 0
    rng = np.random.default_rng(0)
    drawn = 1 + 0.1 * rng.standard_normal((100, 400))
    spread = np.median(drawn, axis=0).std()  # how far medians of 100 rounds are apart
    each = np.median([record.noise(drawn[:, [n]]) for n in range(400)])
    assert each == pytest.approx(2 * spread, rel=0.15)
    before = {"loud": {"noise": record.noise(uneven), "seconds": 1.0}, "still": {"seconds": 1.0}}
    assert before["loud"]["noise"] > 0.3
    now = {"loud": {"noise": 0.1, "seconds": 1.3}, "still": {"noise": 0.0, "seconds": 1.3}}
    rows = {row["what"]: row["changed"] for row in record.changes(before, now)}
    assert rows == {"loud: seconds": "", "still: seconds": "yes"}


def test_a_cards_check_is_compared_with_what_it_looked_at_before(bench, tmp_path: Path):
    options = SimpleNamespace(out=tmp_path, profile="nextgpt-7b", cap=15, dtype="auto")
    before = json.loads(
        (BENCH / "results" / "gpu-nextgpt-7b-nvidia-h100-80gb-hbm3.json").read_text()
    )
    check = bench["gpu"].Check(options, tmp_path)
    assert "not compared" in check.compared()
    for name in ("four-bits", "talking"):
        check.result["sections"][name] = json.loads(json.dumps(before["sections"][name]))
    told = check.compared()
    assert re.match(r"since 2026-\d\d-\d\d on NVIDIA H100 80GB HBM3 0 of \d+ numbers changed", told)
    check.result["sections"]["talking"]["seconds"] *= 2
    (row,) = check.compared().splitlines()[2:]
    assert row.split()[:2] == ["sections:", "talking:"] and row.split()[-1] == "yes"
