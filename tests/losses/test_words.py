"""Losses of words chunk by chunk: the numbers and gradients of all positions at once, in a chunk's memory."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes  # noqa: F401  what is counted asks for its operators
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anytoany_lib.config import Profile
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.losses import words
from anytoany_lib.memory.live_storages import LiveStorages
from anytoany_lib.model import AnyToAny
from anytoany_lib.training.setup import trained_parts
from anytoany_lib.training.stage_data import StageData

POSITIONS, WIDTH, OLD, NEW = 23, 16, 50, 3


class Case:
    """A frozen head with trained rows behind it, hidden states that need a gradient, and another model at some positions."""

    def __init__(self, dtype: torch.dtype = torch.float32, reference: bool = True):
        torch.manual_seed(0)
        self.head = nn.Linear(WIDTH, OLD, bias=False, dtype=dtype).requires_grad_(False)
        self.rows = nn.Linear(WIDTH, NEW, bias=False)
        self.states = (3 * torch.randn(POSITIONS, WIDTH)).to(dtype).requires_grad_()
        self.words = torch.randint(OLD + NEW, (POSITIONS,))
        held = torch.zeros(POSITIONS, dtype=torch.bool)
        held[[0, 1, 7, 12, 22]] = True  # none in some of the chunks
        theirs = (3 * torch.randn(int(held.sum()), WIDTH)).to(dtype)
        self.reference = words.Reference(held, theirs, self.head) if reference else None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.head(states).float(), self.rows(states.float())], -1)

    def losses(self) -> dict[str, torch.Tensor]:
        given = (self.states, self.words, self.logits, (self.rows, self.head), OLD + NEW)
        return words.word_losses(*given, self.reference)

    def expected(self) -> dict[str, torch.Tensor]:
        """By PyTorch's own functions, all positions at once."""
        logits = self.logits(self.states)
        losses = {"text": F.cross_entropy(logits, self.words)}
        if self.reference is not None:
            target = self.head(self.reference.states).float().log_softmax(-1)
            own = logits[self.reference.held].log_softmax(-1)[:, :OLD]
            losses["divergence"] = F.kl_div(own, target, reduction="batchmean", log_target=True)
        return losses

    def gradients(self, losses: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        loss = losses["text"] + 0.3 * losses.get("divergence", 0.0)
        return list(torch.autograd.grad(1024 * loss, [self.states, self.rows.weight]))


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("positions", [1, 5, 22, 23, 100])
def test_chunks_lose_what_all_positions_lose(monkeypatch, positions: int, reference: bool):
    monkeypatch.setattr(words, "CHUNK_BYTES", positions * 4 * (OLD + NEW))
    case = Case(reference=reference)
    found, expected = case.losses(), case.expected()
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-6)
    for ours, theirs in zip(case.gradients(found), case.gradients(expected), strict=True):
        assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
    with torch.no_grad():
        for name, loss in case.losses().items():
            assert loss.item() == pytest.approx(expected[name].item(), rel=1e-6)


def test_in_half_precision_gradients_are_as_near_the_exact_ones_as_without_chunks(monkeypatch):
    """The kept gradients are of sums, so that nothing of a mean over many positions underflows."""
    exact, half = Case(), Case(torch.float16)
    with torch.no_grad():
        half.states.copy_(exact.states)
        half.head.weight.copy_(exact.head.weight)
    half.reference = words.Reference(exact.reference.held, exact.reference.states.half(), half.head)
    wanted = exact.gradients(exact.expected())

    def errors(gradients: list[torch.Tensor]) -> list[float]:
        pairs = zip(gradients, wanted, strict=True)
        return [((g.float() - w).norm() / w.norm()).item() for g, w in pairs]

    whole = errors(half.gradients(half.expected()))
    monkeypatch.setattr(words, "CHUNK_BYTES", 5 * 4 * (OLD + NEW))
    for ours, theirs in zip(errors(half.gradients(half.losses())), whole, strict=True):
        assert 0 < ours < 1.1 * theirs + 1e-4


def test_no_more_than_a_chunk_of_logits_is_alive(monkeypatch):
    """On shapes, 1,024 positions over 152,000 words: a fifth of what they take at once."""
    positions, width, known = 1024, 4096, 152_000

    def peak() -> int:
        with torch.device("meta"), LiveStorages() as live:
            head = nn.Linear(width, known, bias=False, dtype=torch.float16).requires_grad_(False)
            states = torch.empty(positions, width, dtype=torch.float16, requires_grad=True)
            target = torch.empty(positions, dtype=torch.long)
            live.add(head, states)
            before = live.live
            losses = words.word_losses(
                states, target, lambda chunk: head(chunk).float(), (head,), known
            )
            losses["text"].backward()
            return live.peak - before

    logits, kept = 4 * positions * known, 2 * positions * width
    chunked = peak()
    assert chunked == pytest.approx(3 * words.CHUNK_BYTES + 2 * kept, rel=0.05)
    monkeypatch.setattr(words, "CHUNK_BYTES", logits)
    assert peak() == pytest.approx(3 * logits, rel=0.05)
    assert chunked < 3 * logits / 4


@pytest.fixture(scope="module")
def trained(profile: Profile) -> AnyToAny:
    model = AnyToAny.from_profile(profile, seed=0)
    trained_parts(model, profile.stages[3])
    torch.manual_seed(0)
    with torch.no_grad():
        for name, matrix in model.llm.named_parameters():
            if "lora_B" in name:
                matrix.normal_(std=0.02)  # so that it is another than the untouched one
    return model


def test_a_models_step_in_chunks_is_its_step(
    monkeypatch, profile: Profile, trained: AnyToAny, toy_data: Path
):
    """Stage 3 of the real language model, rows held to the untouched one among them."""
    features = DatasetFeatures(profile, toy_data)
    data = StageData(toy_data, "train", "instructions", trained.messages, features, seed=0)
    batch = next(batch for _, batch in data.batches(4) if batch.plain.any())
    steps = []
    for size in (words.CHUNK_BYTES, 7 * 4 * len(trained.vocabulary)):
        monkeypatch.setattr(words, "CHUNK_BYTES", size)
        losses = trained(batch, divergence=True)
        (losses["text"] + losses["divergence"]).backward()
        grads = {n: p.grad for n, p in trained.named_parameters() if p.grad is not None}
        steps.append(({name: loss.item() for name, loss in losses.items()}, grads))
        trained.zero_grad()
    (whole, expected), (chunked, found) = steps
    assert whole["divergence"] > 0.01
    assert chunked == pytest.approx(whole, rel=1e-4) and found.keys() == expected.keys()
    for name, gradient in expected.items():  # float32 through thirty layers
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
