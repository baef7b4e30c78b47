"""Training and talking in 16 bits, as cards do it: the scaler and the steps it skips, numbers that overflow, casts."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import shallow, weights, with_stage
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from anytoany_lib import train
from anytoany_lib.chat.session import Session
from anytoany_lib.config import Dtype, Profile
from anytoany_lib.generation.events import Done
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.llm import load_llm, unpack
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.training.checkpoint import newest
from anytoany_lib.training.distributed import Ranks
from anytoany_lib.training.trackers import Log

STEPS, SCALE = 3, 2.0**10


def in_type(profile: Profile, dtype: Dtype) -> Profile:
    """The profile with a language model that computes in this type."""
    llm = profile.llm.model_copy(update={"dtype": dtype})
    return profile.model_copy(update={"llm": llm})


@pytest.fixture(scope="module")
def as_t4(four_bits: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Profile tiny, of its language model the first layers, as a T4 computes it, with stages of a few small steps."""
    fit = {"rows": 2, "steps": 2, "batch_size": 2}
    small = in_type(shallow(four_bits, tmp_path_factory.mktemp("llm")), "float16")
    settings = {"batch_size": 1, "accumulation": 2, "steps": STEPS, "warmup": 0.0}
    for stage, fits in ((1, {}), (2, {"fit_before": fit, "fit_after": fit}), (3, {})):
        small = with_stage(small, stage, **settings, **{"fit_after": {"steps": 0}} | fits)
    return small


@pytest.fixture(scope="module")
def too_large() -> Any:
    """Scalers begin with a scale that is too large for float16, and every step has its line in metrics.jsonl."""
    first = {"init_scale": SCALE * 2.0**60, "backoff_factor": 2.0**-60}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, **first))
        patch.setattr(Log, "every", 1)
        yield


@pytest.fixture(scope="module")
def stages(
    too_large, as_t4: Profile, toy_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """All three stages, one upon the other."""
    made, folder = [None], tmp_path_factory.mktemp("t4")
    for stage in (1, 2, 3):
        run = folder / f"stage{stage}"
        made.append(train.train(as_t4, stage, toy_data, run, made[-1]))
    return made[1:]


def curve(run: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (run / runs.CURVES).read_text().splitlines()]
    return [{n: v for n, v in line.items() if "second" not in n} for line in lines]


def test_three_stages_train_as_on_a_t4_and_count_the_steps_that_overflow(stages: list[Path]):
    for run in stages:
        record, lines = runs.read_record(run), curve(run)
        assert record["computes_in"] == "float16" and record["profile"]["llm"]["dtype"] == "float16"
        assert 0 < record["skipped_steps"] < STEPS == len(lines)
        assert lines[-1]["skipped_steps"] == record["skipped_steps"]
        assert all(map(math.isfinite, record["validation"].values()))
        # The schedule, cosine without warm-up, moves in every step that is taken and in no other.
        top = max(line["learning_rate"] for line in lines)
        for line in lines:
            taken = line["step"] - line["skipped_steps"]
            rate = top * 0.5 * (1 + math.cos(math.pi * taken / STEPS))
            assert line["learning_rate"] == pytest.approx(rate, abs=1e-9)


def test_a_stopped_training_goes_on_with_its_scale_and_its_count(
    as_t4: Profile, stages: list[Path], toy_data: Path, tmp_path: Path, monkeypatch
):
    run, update = tmp_path / "run", train._update
    with monkeypatch.context() as patch:
        patch.setattr(train, "_update", lambda *a: 1 / 0 if a[3].step == 2 else update(*a))
        with pytest.raises(ZeroDivisionError):
            train.train(as_t4, 3, toy_data, run, stages[1], save_every=1)
    state = torch.load(newest(run) / "state.pt", weights_only=True)
    assert state["skipped"] == 1 and state["scaler"]["scale"] == SCALE
    train.train(as_t4, 3, toy_data, run, stages[1], resume=True)
    assert weights(run) == weights(stages[2])
    assert curve(run) == curve(stages[2])
    assert runs.read_record(run)["skipped_steps"] == runs.read_record(stages[2])["skipped_steps"]


def test_gradients_that_overflow_at_any_scale_end_the_training(
    as_t4: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    backward = train.Accelerator.backward

    def spoilt(accelerator, loss, **more):
        backward(accelerator, loss * torch.tensor(math.inf), **more)

    monkeypatch.setattr(train.Accelerator, "backward", spoilt)
    small = {"init_scale": 2.0, "backoff_factor": 0.5}
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, **small))
    with pytest.raises(RuntimeError, match="step 1: gradients overflow float16.*llm.dtype: bfl"):
        train.train(as_t4, 1, toy_data, tmp_path / "run")


@pytest.mark.parametrize(
    ("dtype", "scaled"), [("auto", False), ("float16", True), ("bfloat16", False)]
)
def test_the_type_of_the_profile_is_computed_in_and_decides_on_a_scaler(
    as_t4: Profile, tmp_path: Path, dtype: Dtype, scaled: bool
):
    llm = load_llm(in_type(as_t4, dtype), torch.device("cpu"))
    expected = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert llm.dtype == llm.get_input_embeddings().weight.dtype == expected
    assert (Ranks(tmp_path, [], dtype).accelerator.scaler is not None) == scaled


def test_a_type_that_is_none_is_refused(profile: Profile):
    settings = profile.model_dump(mode="json")
    settings["llm"]["dtype"] = "fp16"
    with pytest.raises(ValueError, match=r"llm.dtype.*'float16'"):
        Profile.parse(settings, "here")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_not_finite_end_a_reply_and_the_session_goes_on(
    model: AnyToAny, monkeypatch, temperature: float
):
    sampling = Sampling(kinds=[], max_new_tokens=4, temperature=temperature)
    session, logits, calls = Session(model, sampling=sampling), AnyToAny.logits, []

    def overflowing(self, hidden):
        calls.append(1)
        return logits(self, hidden) * (math.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(AnyToAny, "logits", overflowing)
    with pytest.raises(RuntimeError, match="logits are not finite in torch.float32; its weights"):
        list(session.send("Hello"))
    assert not session.busy and session._cache.positions == []
    assert isinstance(list(session.retry())[-1], Done)


def test_a_reply_that_overflows_float16_says_what_to_do(stages: list[Path]):
    model = AnyToAny.from_pretrained(stages[2])
    with torch.no_grad():
        model.causal_lm.get_decoder().norm.weight.fill_(60_000)
    with pytest.raises(RuntimeError, match=r"float16.*set llm.dtype: bfloat16 or float32 in the"):
        model.chat([{"role": "user", "content": "Hello"}])


class Operations(TorchDispatchMode):
    """Counts what torch does within, by its name."""

    def __init__(self):
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        self.count[operation.__name__] += 1
        return operation(*arguments, **named or {})


@torch.no_grad()
def a_token(model: AnyToAny) -> tuple[Counter[str], torch.Tensor]:
    """What torch does to read a token and give the logits of the next, and those (1, V)."""
    ids, nothing = torch.tensor([[5]]), torch.empty(0, 2, dtype=torch.long)
    with Operations() as operations:
        inputs = model.embed_inputs(ids, torch.empty(0), nothing)
        mask = torch.ones_like(ids)
        hidden = model.hidden_states(inputs, mask, past_key_values=DynamicCache())
        logits = model.logits(hidden[:, -1])
    return operations.count, logits


def test_a_model_that_talks_on_a_card_casts_nothing_for_lora(as_t4: Profile):
    model = AnyToAny.from_profile(in_type(as_t4, "bfloat16")).eval()
    unpack(model.llm)
    model.add_lora()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    before, expected = a_token(model)
    model.cast_for_talking()
    after, found = a_token(model)
    matrices = sum("lora_A" in name for name, _ in model.named_parameters())
    assert matrices == 2 * 4
    # Of each the input and what comes of it; of the new tokens' rows one a table, and the states that meet them.
    assert before - after == {"_to_copy.default": 2 * matrices + 2} and not after - before
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), atol=0.02, rtol=0)


def test_on_a_cpu_a_loaded_run_is_as_it_was_trained(stages: list[Path]):
    model = AnyToAny.from_pretrained(stages[2])
    kinds = {p.dtype for name, p in model.named_parameters() if "lora_" in name}
    assert kinds == {torch.float32} == {p.dtype for p in model.token_rows.parameters()}
    assert model.causal_lm.dtype == torch.float16
    assert AnyToAny.from_pretrained(stages[2], dtype="float32").causal_lm.dtype == torch.float32
