"""One seed, one set of weights: whatever order the threads of a process come in, and where a training was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resuming import shallow, started, weights, with_stage

from anytoany_lib import train
from anytoany_lib.config import Profile
from anytoany_lib.llm import TokenRows
from anytoany_lib.training import finish
from anytoany_lib.training.checkpoint import newest

STEPS, THREADS = 4, 2


@pytest.fixture(scope="module")
def small(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Profile tiny, of its language model the first layers, with stages of small steps."""
    cut = shallow(profile, tmp_path_factory.mktemp("llm"))
    for stage in (1, 3):
        cut = with_stage(cut, stage, batch_size=6, fit_after={"steps": 0})
    return cut


def with_threads(profile: Profile, stage: int, data: Path, run: Path, stop: int | None) -> None:
    """A training by two threads, which may end before a step."""
    torch.set_num_threads(THREADS)
    finish._validation = lambda *_: {}  # what is compared are weights
    update = train._update
    train._update = lambda *a: 1 / 0 if a[3].step == stop else update(*a)
    told = {"max_steps": STEPS, "save_every": 1, "resume": newest(run) is not None}
    train.train(profile, stage, data, run, **told)


@pytest.mark.parametrize("stage", [1, 3])
def test_two_threads_give_the_same_bytes_and_so_does_a_training_that_goes_on(
    small: Profile, toy_data: Path, tmp_path: Path, stage: int
):
    made = []
    for name, stops in (("one", [None]), ("other", [None]), ("resumed", [2, None])):
        for stop in stops:
            process = started(with_threads, small, stage, toy_data, tmp_path / name, stop)
            process.join()
        made.append(weights(tmp_path / name))
    assert made[0] and made[0] == made[1] == made[2]


def test_gradients_of_new_tokens_do_not_depend_on_who_comes_first():
    class Model:
        def __init__(self):
            generator = torch.Generator().manual_seed(0)
            self.table = torch.nn.Embedding.from_pretrained(
                torch.randn(50, 64, generator=generator)
            )
            self.config = self

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return self.table

        get_output_embeddings = get_input_embeddings

        def get_text_config(self) -> Model:
            return self

        tie_word_embeddings = True

    torch.manual_seed(0)
    rows = TokenRows(Model(), 3)
    ids = torch.randint(40, 53, (64, 200))
    there = torch.randn(64, 200, 64)
    threads, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(THREADS)
        for _ in range(5):
            rows.zero_grad()
            (rows.embed(ids, Model().table) * there).sum().backward()
            found.append(rows.input.grad.clone())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])
    expected = torch.stack([there[ids == 50 + n].double().sum(0) for n in range(3)])
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-3)
