"""Replies that end before their time: stopped, interrupted, without a decoder, without a word, without memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from scripts import QUICK, WORDS, count_reads, kinds, picture, words

from anytoany_lib.chat.session import Session
from anytoany_lib.config import Profile
from anytoany_lib.generation import decoding, media_models, replies
from anytoany_lib.generation.events import Done, Loading, MediaFailed, MediaProgress, MediaStarted
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny


@pytest.fixture(scope="module")
def model(four_bits: Profile) -> AnyToAny:
    """An untrained model as it ships, in 4 bits, whose replies to what is said here are of more than six tokens."""
    return AnyToAny.from_profile(four_bits, seed=0).requires_grad_(False).eval()


@pytest.fixture
def lengths(monkeypatch):
    return count_reads(monkeypatch)


def stopped_after(session: Session, events, ripe: Callable[[object], bool]) -> tuple[Done, float]:
    """Stops a session from another thread at the first event that is ripe; its Done, and the seconds that took."""
    for event in events:
        if ripe(event):
            began = time.monotonic()
            threading.Thread(target=session.stop).start()
    return event, time.monotonic() - began


def test_stop_from_another_thread_ends_diffusion(model, scripted):
    scripted(["Look", "image", "STOP"])
    session = Session(model, sampling=Sampling(steps=500))
    event, seconds = stopped_after(
        session, session.send("Go"), lambda e: isinstance(e, MediaProgress) and e.done == 2
    )
    assert seconds < 0.5
    assert event == Done(
        {"role": "assistant", "content": [{"type": "text", "text": "Look"}]}, "stopped"
    )
    assert session.messages[-1] is event.message and not session.busy


class Painter:
    """A decoder that takes its time, as loading or an autoencoder does: it paints when it is allowed to."""

    def __init__(self):
        self.allowed, self.begun = threading.Event(), []

    def working_bytes(self, *lengths):
        return 0

    def generate(self, conditions, seeds, steps, guidance, on_step, **more):
        on_step(1, 1, None)
        self.begun.append(len(self.begun))
        assert self.allowed.wait(20)
        return [{"image": picture()}]


def test_stop_does_not_wait_for_a_decoder_and_the_next_picture_does(model, scripted, monkeypatch):
    scripted(["Look", "image", "STOP"], ["Fine.", "STOP"], ["image", "STOP"])
    painter = Painter()
    monkeypatch.setitem(model.media_models._decoders, "image", painter)
    session = Session(model)
    event, seconds = stopped_after(
        session, session.send("Go"), lambda e: isinstance(e, MediaProgress)
    )
    assert seconds < 0.5 and event.finish_reason == "stopped" and kinds(event.message) == ["text"]
    assert words(list(session.send("Talk"))[-1].message) == "Fine."  # without the decoder
    events = session.send("Again")
    assert isinstance(next(events), MediaStarted) and painter.begun == [0]
    threading.Timer(0.3, painter.allowed.set).start()
    assert kinds(list(events)[-1].message) == ["image"] and painter.begun == [0, 1]


def test_stop_does_not_wait_for_a_decoder_to_load(model, scripted, monkeypatch):
    scripted(["Look", "image", "STOP"])
    loading, allowed = threading.Event(), threading.Event()

    def load(*arguments):
        loading.set()
        assert allowed.wait(20)
        return Painter()

    monkeypatch.setattr(model.media_models, "_decoders", {})
    monkeypatch.setattr(media_models, "Decoder", load)
    session = Session(model)
    events = session.send("Go")
    assert [type(next(events)).__name__ for _ in range(2)] == ["TextDelta", "MediaStarted"]
    assert next(events) == Loading("image")
    threading.Thread(target=lambda: loading.wait(20) and session.stop()).start()
    began = time.monotonic()
    (done,) = events
    assert time.monotonic() - began < 0.5 and loading.is_set()
    assert done.finish_reason == "stopped" and words(done.message) == "Look"
    allowed.set()
    model.media_models.worker.submit(lambda: None).result()  # what was left has come to its end


def test_stop_before_the_first_token_ends_with_the_pass_that_is_running(
    model, lengths, monkeypatch
):
    session = Session(model, sampling=WORDS)
    read = AnyToAny.hidden_states

    def slow(self, *arguments, **more):
        session.stop()
        return read(self, *arguments, **more)

    monkeypatch.setattr(AnyToAny, "hidden_states", slow)
    (done,) = session.send("Hello")
    assert done == Done({"role": "assistant", "content": []}, "stopped") and len(lengths) == 1
    assert [message["role"] for message in session.messages] == ["user"]
    monkeypatch.setattr(AnyToAny, "hidden_states", read)
    assert list(session.retry())[-1].finish_reason == "length"


def test_stop_acts_between_tokens_that_show_nothing(model, lengths, monkeypatch):
    session = Session(model)
    piece, drawn = model.messages.text_ids("日")[0], []  # of a character, whose rest never comes

    def chooser(*_):
        def choose(logits, rows):
            drawn.append(piece)
            if len(drawn) == 3:
                session.stop()
            return [piece]

        return choose

    monkeypatch.setattr(decoding, "_chooser", chooser)
    (done,) = session.send("Go")
    assert done.finish_reason == "stopped" and len(drawn) == 3 and len(lengths) == 4


def test_an_interrupt_ends_a_reply_and_keeps_what_was_finished(model, scripted):
    scripted(["Look", "image", "STOP"], ["Fine.", "STOP"])
    session = Session(model, sampling=Sampling(steps=500))
    events = session.send("Go")
    next(event for event in events if isinstance(event, MediaProgress))
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    assert not session.busy and kinds(session.messages[-1]) == ["text"]
    assert words(list(session.send("And?"))[-1].message) == "Fine."


def test_a_failing_decoder_costs_its_medium_only(model, scripted, monkeypatch):
    scripted(["Look", "image", " and", "audio", "STOP"], ["image", "STOP"], ["Fine", "STOP"])

    class Broken:
        def working_bytes(self, *lengths):
            return 0

        def generate(self, *arguments, **settings):
            raise ValueError("out of paint")

    monkeypatch.setitem(model.media_models._decoders, "image", Broken())
    session = Session(model, sampling=QUICK)
    events = list(session.send("Draw"))
    (failed,) = [event for event in events if isinstance(event, MediaFailed)]
    assert failed.index == 1 and str(failed.error) == "out of paint"
    assert kinds(session.messages[-1]) == ["text", "text", "audio"]
    assert events[-1].finish_reason == "stop"
    *_, done = session.retry()
    assert done.message["content"] == []
    assert [m["role"] for m in session.messages] == ["user"]
    list(session.send("Talk"))  # the unanswered turn before it does not stand in the way
    assert [m["role"] for m in session.messages] == ["user", "user", "assistant"]


def test_a_model_that_says_nothing_breaks_no_later_turn(model, scripted):
    scripted(["STOP"], ["Yes", "STOP"], ["No", "STOP"])
    session = Session(model)
    (done,) = session.send("Hello?")
    assert done == Done({"role": "assistant", "content": []}, "stop")
    assert [m["role"] for m in session.messages] == ["user"]
    list(session.send("Are you there?"))
    assert [m["role"] for m in session.messages] == ["user", "user", "assistant"]
    list(session.retry())
    assert words(session.messages[-1]) == "No"


@pytest.fixture
def card(model, monkeypatch):
    """A language model whose passes fail for want of memory, by the rule that is appended; what was asked of the rest."""
    rules, happened, read, leave = [], [], AnyToAny.hidden_states, AnyToAny.make_room

    def hidden_states(self, *arguments, **more):
        happened.append("pass")
        if any(rule(happened) for rule in rules):
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED: 20 GiB, as cublas says it")
        return read(self, *arguments, **more)

    def make_room(self):
        happened.append("room")
        leave(self)

    monkeypatch.setattr(AnyToAny, "hidden_states", hidden_states)
    monkeypatch.setattr(AnyToAny, "make_room", make_room)
    return rules, happened


def test_where_there_is_no_room_the_others_leave_and_the_reply_comes(model, card):
    rules, happened = card
    session = Session(model, sampling=WORDS)
    *_, first = session.send("Hello")
    rules.append(lambda happened: "room" not in happened)
    *_, done = session.send("And now?")
    assert done.finish_reason == "length" and happened.count("room") == 1
    *_, alone = replies.stream(model, session.messages[:-1], 1, WORDS)
    assert done.message == alone.message and session.messages[1] == first.message


def test_no_room_on_the_device_is_told_with_what_to_do(model, card):
    rules, happened = card
    session = Session(model, sampling=WORDS)
    list(session.send("Hello"))
    happened.clear()
    rules.append(lambda happened: True)
    with pytest.raises(torch.OutOfMemoryError, match="shorten the history.*smaller profile.*20"):
        list(session.send("And now?"))
    assert happened == ["pass", "room", "pass", "room"]
    assert session._cache.positions == [] and session._cache.past_key_values.get_seq_length() == 0
    rules.clear()
    assert not session.busy and list(session.retry())[-1].finish_reason == "length"


def test_what_was_said_before_there_was_no_room_is_kept_and_not_said_again(model, card):
    rules, happened = card
    session = Session(model, sampling=WORDS)
    rules.append(lambda happened: happened.count("pass") == 4)
    said = []
    with pytest.raises(torch.OutOfMemoryError, match="shorten the history"):
        said += session.send("Hello")  # grows as far as it comes
    assert happened == ["pass"] * 4 + ["room"]
    assert words(session.messages[-1]) == "".join(event.text for event in said).strip() != ""
