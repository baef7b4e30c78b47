"""Models that take turns on a card that cannot hold them all."""

from __future__ import annotations

import pytest
import torch

from anytoany_lib.residence import HOST, Residence


class Card:
    """A device with room for so many units, which counts what is on it."""

    def __init__(self, room: int):
        self.device, self.room, self.used = torch.device("meta"), room, 0


class Model:
    def __init__(self, card: Card, size: int):
        self.card, self.size, self.where, self.moves = card, size, HOST, 0

    def to(self, device: torch.device) -> None:
        if device == self.where:
            return
        if device != HOST and self.card.used + self.size > self.card.room:
            raise torch.OutOfMemoryError
        self.card.used += self.size if device != HOST else -self.size
        self.where, self.moves = device, self.moves + 1

    def work(self, extra: int = 0) -> str:
        assert self.where == self.card.device
        if self.card.used + extra > self.card.room:
            raise torch.OutOfMemoryError
        return "done"


@pytest.fixture
def card() -> Card:
    return Card(10)


def test_nothing_moves_while_all_fit(card: Card):
    residence, models = Residence(card.device), [Model(card, 3) for _ in range(3)]
    for _ in range(3):
        for name, model in zip("abc", models, strict=True):
            assert residence.run(name, model, model.work) == "done"
    assert [model.moves for model in models] == [1, 1, 1]


def test_the_one_idle_longest_leaves_first(card: Card):
    residence = Residence(card.device)
    a, b, c = (Model(card, 4) for _ in range(3))
    for name, model in (("a", a), ("b", b), ("a", a), ("c", c)):
        residence.run(name, model, model.work)
    assert (a.where, b.where, c.where) == (card.device, HOST, card.device)


def test_room_is_made_for_what_the_work_itself_needs(card: Card):
    residence, a, b = Residence(card.device), Model(card, 4), Model(card, 4)
    residence.run("a", a, a.work)
    assert residence.run("b", b, lambda: b.work(extra=5)) == "done"
    assert (a.where, b.where) == (HOST, card.device)


def test_what_does_not_fit_alone_is_said(card: Card):
    residence, a, huge = Residence(card.device), Model(card, 4), Model(card, 11)
    residence.run("a", a, a.work)
    with pytest.raises(RuntimeError, match="the video model does not fit .* memory plan"):
        residence.run("video", huge, huge.work)
    with pytest.raises(RuntimeError, match="the a model does not fit"):
        residence.run("a", a, lambda: a.work(extra=20))
    assert residence.run("a", a, a.work) == "done"


def test_all_leave_for_somebody_else_and_come_back(card: Card):
    residence, a, b = Residence(card.device), Model(card, 4), Model(card, 4)
    for name, model in (("a", a), ("b", b)):
        residence.run(name, model, model.work)
    residence.leave()
    assert (a.where, b.where, card.used) == (HOST, HOST, 0)
    assert residence.run("a", a, a.work) == "done" and card.used == 4


def test_on_a_cpu_nothing_is_asked_to_move(card: Card):
    model = Model(card, 99)
    assert Residence(HOST).run("a", model, lambda: "done") == "done"
    assert model.moves == 0
