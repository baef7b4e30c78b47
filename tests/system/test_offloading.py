"""Models that take turns on a card that cannot hold them all."""

from __future__ import annotations

import pytest
import torch

from anytoany_lib.system import peak_memory
from anytoany_lib.system.offloading import HOST, Residence, bytes_of, frozen_dtype


class Card:
    """A device with room for so many units, which counts what is on it; a gauge for those who ask."""

    def __init__(self, room: int):
        self.device, self.room, self.used = torch.device("meta"), room, 0
        self._base = self._peak = 0

    def take(self, units: int) -> None:
        if self.used + units > self.room:
            raise torch.OutOfMemoryError
        self.used += units
        self._peak = max(self._peak, self.used)

    def free(self) -> int:
        return self.room - self.used

    def begin(self) -> None:
        self._base = self._peak = self.used

    def taken(self) -> int:
        return self._peak - self._base


class Model:
    """A model of so many pieces of a unit, moved one after the other as a module moves its tensors."""

    def __init__(self, card: Card, size: int):
        self.card, self.nbytes, self.moves, self.tries = card, size, 0, 0
        self.pieces = [HOST] * size
        self.broken_after: int | None = None

    @property
    def where(self) -> torch.device:
        (only,) = set(self.pieces)  # whole somewhere
        return only

    def to(self, device: torch.device) -> None:
        if set(self.pieces) == {device}:
            return
        for n, piece in enumerate(self.pieces):
            if device != HOST and n == self.broken_after:
                self.broken_after = None
                raise KeyboardInterrupt
            if piece != device:
                self.card.take(-1 if device == HOST else 1)
                self.pieces[n] = device
        self.moves += 1

    def work(self, extra: int = 0) -> str:
        assert self.where == self.card.device
        self.tries += 1
        self.card.take(extra)
        self.card.used -= extra
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


def test_room_is_made_before_the_work_begins_where_it_is_known_what_it_takes(card: Card):
    residence, a, b = Residence(card.device, card), Model(card, 4), Model(card, 4)
    residence.run("a", a, a.work)
    assert residence.run("b", b, lambda: b.work(extra=3), working=3) == "done"
    assert b.tries == 1 and (a.where, b.where) == (HOST, card.device)


def test_what_a_work_did_take_corrects_what_was_counted_for_it(card: Card):
    residence, a, b = Residence(card.device, card), Model(card, 3), Model(card, 3)

    def draw(extra: int, working: int) -> str:
        return residence.run("b", b, lambda: b.work(extra), working)

    draw(extra=4, working=1)  # counted a quarter of what it takes
    residence.run("a", a, a.work)
    tries = b.tries
    draw(extra=6, working=2)  # 8 units then, and the other one has to go
    assert b.tries == tries + 1 and a.where == HOST
    residence.run("b", b, b.work, working=8)
    residence.run("a", a, a.work)
    draw(extra=1, working=8)  # counted far more than it takes, as is known by now
    assert a.where == b.where == card.device


def test_a_count_that_is_too_high_for_the_card_is_tried_all_the_same(card: Card):
    residence, a = Residence(card.device, card), Model(card, 4)
    assert residence.run("a", a, lambda: a.work(extra=6), working=100) == "done"


@pytest.mark.parametrize("words", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDA out of memory."])
def test_libraries_that_have_no_memory_make_others_leave_too(card: Card, words: str):
    residence, a, b = Residence(card.device), Model(card, 4), Model(card, 4)
    residence.run("a", a, a.work)

    def work() -> str:
        if a.where != HOST:
            raise RuntimeError(words)
        return b.work()

    assert residence.run("b", b, work) == "done"
    with pytest.raises(RuntimeError, match="shapes"):
        residence.run("b", b, lambda: torch.ones(2, 3) @ torch.ones(2, 3))


def test_what_does_not_fit_alone_is_said_and_leaves_nothing_behind(card: Card):
    residence, a, huge = Residence(card.device), Model(card, 4), Model(card, 11)
    residence.run("a", a, a.work)
    with pytest.raises(RuntimeError, match="the video model does not fit .* memory plan"):
        residence.run("video", huge, huge.work)
    assert huge.where == HOST and card.used == 0
    with pytest.raises(RuntimeError, match="the a model does not fit"):
        residence.run("a", a, lambda: a.work(extra=20))
    assert residence.run("a", a, a.work) == "done"


def test_a_model_stopped_on_its_way_is_whole_in_host_memory(card: Card):
    residence, a = Residence(card.device), Model(card, 4)
    a.broken_after = 2
    with pytest.raises(KeyboardInterrupt):
        residence.run("a", a, a.work)
    assert a.where == HOST and card.used == 0
    assert residence.run("a", a, a.work) == "done" and card.used == 4


def test_a_model_that_host_memory_has_no_room_for_is_whole_on_the_device(card: Card):
    residence, a = Residence(card.device), Model(card, 4)
    residence.run("a", a, a.work)
    to = a.to

    def full(device: torch.device) -> None:
        if device == HOST:
            a.pieces[0] = HOST
            card.take(-1)
            raise MemoryError
        to(device)

    a.to = full
    with pytest.raises(MemoryError):
        residence.leave()
    assert a.where == card.device
    a.to = to
    residence.leave()
    assert a.where == HOST and card.used == 0


def test_all_leave_for_somebody_else_and_come_back(card: Card):
    residence, a, b = Residence(card.device), Model(card, 4), Model(card, 4)
    for name, model in (("a", a), ("b", b)):
        residence.run(name, model, model.work)
    residence.leave()
    assert (a.where, b.where, card.used) == (HOST, HOST, 0)
    assert residence.run("a", a, a.work) == "done" and card.used == 4


def test_on_a_cpu_nothing_is_asked_to_move(card: Card):
    model = Model(card, 99)
    assert Residence(HOST).run("a", model, lambda: "done", 10**15) == "done"
    assert model.moves == 0


def test_frozen_models_compute_in_half_precision_on_a_card_alone():
    assert frozen_dtype(torch.device("cuda", 1)) == torch.float16
    assert frozen_dtype(HOST) == torch.float32
    norm = torch.nn.BatchNorm1d(3)  # two vectors, and three buffers of which one is a count
    assert bytes_of(norm.half()) == 4 * 3 * 2 + 8


def test_a_part_that_is_measured_takes_nothing_from_its_phase(monkeypatch: pytest.MonkeyPatch):
    peaks = [5]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: peaks[0])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device=None: peaks.__setitem__(0, 1)
    )
    monkeypatch.setattr(peak_memory.Phases, "device_before", 0)
    monkeypatch.setattr(peak_memory.Phases, "device_in_phase", 0)
    measured = peak_memory.Phases()
    with measured.phase("chat"):
        peaks[0] = 3
        peak_memory.begin_device_peak(torch.device("cuda", 0))
        peaks[0] = 2
    assert measured.peaks["chat"]["device"] == 3
    assert peak_memory.peak_memory_bytes()["device"] == 5
