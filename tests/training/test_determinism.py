"""One seed, one set of weights and one reply: whatever order the threads of a process come in, and where a training was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
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
# What decides how many threads a process takes; a user's has none of it.
OF_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TALK = """
import sys
from pathlib import Path

import torch

from anytoany_lib.chat import Session
from anytoany_lib.config import resolve
from anytoany_lib.kept_replies import reply_to
from anytoany_lib.model import AnyToAny
from anytoany_lib.sampling import Sampling

out, model = Path(sys.argv[1]), AnyToAny.from_pretrained(resolve("ckpt/tiny/run"))
quick = Sampling(temperature=0.7, steps=2, frames=4)
asked = ["Draw a red circle.", "Play a high beep.", "Film a red circle moving left."]
session = Session(model, seed=1, sampling=quick)
for words in asked:
    list(session.send(words))
session.save(out / "talk")
(out / "replies").mkdir()
prompts = [[{"role": "user", "content": words}] for words in asked[:2]]
reply_to(model, prompts, out / "replies", "replies", seed=2, sampling=quick)
print(torch.get_num_threads())
"""


@pytest.fixture(scope="module")
def small(four_bits: Profile, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Profile tiny, of its language model the first layers, with stages of small steps."""
    cut = shallow(four_bits, tmp_path_factory.mktemp("llm"))
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


# Stage 3 trains all that stage 1 does, and more.
@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.long), 3])
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


def test_a_process_as_users_start_it_gives_the_same_replies_again(profile: Profile, tmp_path: Path):
    """A conversation with a picture, a sound and a clip, and replies in a batch as the evaluation draws them: all bytes."""
    environment = {name: told for name, told in os.environ.items() if name not in OF_THREADS}
    made = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", TALK, str(folder)],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        # One core gives one thread, of which nothing is to be learnt here but that it works.
        assert int(done.stdout) > 1 or len(os.sched_getaffinity(0)) == 1
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        made.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    kinds = {Path(name).suffix for name in made[0]}
    assert {".png", ".wav", ".mp4", ".safetensors"} <= kinds
    assert made[0] == made[1]
