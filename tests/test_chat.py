"""The chat engine and, without a browser, the widget: history, stopping, editing, keeping, escaping, uploads."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
from PIL import Image

from anytoany_lib import generation, media, recall
from anytoany_lib import model as model_module
from anytoany_lib.chat import Session, medium_of
from anytoany_lib.containers import MediaError
from anytoany_lib.events import (
    Done,
    Loading,
    MediaFailed,
    MediaProgress,
    MediaReady,
    MediaStarted,
    TextDelta,
    TurnsDropped,
)
from anytoany_lib.model import AnyToAny
from anytoany_lib.rendering import show
from anytoany_lib.sampling import Sampling
from anytoany_lib.widget import Chat, kind_of, uploaded

QUICK = Sampling(steps=2)
WORDS = Sampling(kinds=(), max_new_tokens=6)


@pytest.fixture
def scripted(model: AnyToAny, monkeypatch: pytest.MonkeyPatch):
    """Replaces the choice of tokens (and nothing else): each call gives the next reply. Returns the seeds asked for."""
    seeds = []

    def install(*replies: list[str]) -> list[int]:
        waiting = iter(replies)

        def chooser(model, sampling, of_rows):
            seeds.extend(of_rows)
            tokens = iter([t for item in next(waiting) for t in _tokens(model, item)])
            return lambda logits: [next(tokens)]

        monkeypatch.setattr(generation, "_chooser", chooser)
        return seeds

    return install


def _tokens(model: AnyToAny, item: str) -> list[int]:
    if item in model.vocabulary.signals:
        return [model.vocabulary.signals[item][0]]
    return model.messages.stop if item == "STOP" else model.messages.text_ids(item)


@pytest.fixture
def lengths(model: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens the language model read in each of its passes."""
    found, read = [], AnyToAny.hidden_states

    def noted(self, inputs, *arguments, **more):
        found.append(inputs.shape[1])
        return read(self, inputs, *arguments, **more)

    monkeypatch.setattr(AnyToAny, "hidden_states", noted)
    return found


def picture(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (48, 32), colour)


def sound() -> tuple[np.ndarray, int]:
    return np.sin(np.arange(16_000) / 8).astype(np.float32) / 2, 16_000


def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)


def words(message: dict) -> str:
    return "".join(part.get("text", "") for part in message["content"])


def stopped_after(session: Session, events, ripe: Callable[[object], bool]) -> tuple[Done, float]:
    """Stops a session from another thread at the first event that is ripe; its Done, and the seconds that took."""
    for event in events:
        if ripe(event):
            began = time.monotonic()
            threading.Thread(target=session.stop).start()
    return event, time.monotonic() - began


def kinds(message: dict) -> list[str]:
    return [part["type"] for part in message["content"]]


def test_a_reply_with_every_medium_joins_the_history(model, scripted):
    scripted(["Here", "image", " and", "audio", "video", "STOP"], ["Fine.", "STOP"])
    session = Session(model, sampling=QUICK)
    events = list(session.send("Hello"))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "Here and"
    assert [e.part["type"] for e in events if isinstance(e, MediaReady)] == [
        "image",
        "audio",
        "video",
    ]
    assert sum(isinstance(e, MediaProgress) for e in events) == 6
    user, reply = session.messages
    assert user == {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
    assert isinstance(events[-1], Done) and reply is events[-1].message
    assert kinds(reply) == ["text", "image", "text", "audio", "video"]
    # The second turn reads the first back: generated media as their signals.
    seen = [{"type": "image", "image": picture()}, {"type": "audio", "audio": sound()}]
    list(
        session.send(
            [*seen, {"type": "video", "video": clip()}, {"type": "text", "text": "These?"}]
        )
    )
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 2


def test_turn_n_uses_seed_plus_n_and_a_retry_another(model, scripted):
    seeds = scripted(*[["Yes", "STOP"]] * 5)
    session = Session(model, seed=40)
    for text in ("one", "two", "three"):
        list(session.send(text))
    list(session.retry())
    assert seeds[:3] == [40, 41, 42] and seeds[3] not in seeds[:3]
    assert len(session.messages) == 6
    list(session.edit(0, "another one"))
    assert seeds[4] == 40 and len(session.messages) == 2


def test_same_seed_same_conversation(model):
    replies = []
    for seed in (3, 3, 7):
        session = Session(
            model, seed=seed, sampling=Sampling(temperature=1.0, max_new_tokens=6, steps=1)
        )
        for text in ("What is the capital of France?", "And of Spain?"):
            list(session.send(text))
        replies.append([m["content"] for m in session.messages if m["role"] == "assistant"])
    assert repr(replies[0]) == repr(replies[1]) != repr(replies[2])


def test_edit_undo_clear(model, scripted):
    scripted(*[["Yes", "STOP"]] * 4)
    session = Session(model)
    for text in ("one", "two"):
        list(session.send(text))
    with pytest.raises(ValueError, match="message 1 is no user message"):
        session.edit(1, "x")
    list(session.edit(2, "2"))
    assert [m["content"][0]["text"] for m in session.messages] == ["one", "Yes", "2", "Yes"]
    assert session.undo()["content"][0]["text"] == "2" and len(session.messages) == 2
    session.clear()
    assert session.messages == []
    with pytest.raises(ValueError, match="nothing to retry"):
        session.retry()


def test_bad_content_leaves_the_history_alone(model, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    session = Session(model)
    for content, error in (
        ([{"type": "smell", "smell": 1}], ValueError),
        ([{"type": "image", "image": broken}], MediaError),
        ([{"type": "audio", "audio": tmp_path / "gone.wav"}], MediaError),
        ("  \n", ValueError),
        ([], ValueError),
    ):
        with pytest.raises(error):
            session.send(content)
        assert session.messages == [] and not session.busy


def test_a_reader_who_leaves_keeps_what_was_finished(model, scripted):
    scripted(["Look", "image", "audio", "STOP"], ["Yes", "STOP"])
    session = Session(model, sampling=QUICK)
    events = session.send("Go")
    for event in events:
        if isinstance(event, MediaReady):
            break
    with pytest.raises(RuntimeError, match="still being drawn"):
        session.send("Next")
    events.close()
    assert kinds(session.messages[-1]) == ["text", "image"] and not session.busy
    list(session.send("Next"))
    assert len(session.messages) == 4


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

    def generate(self, conditions, seeds, steps, guidance, on_step, *more):
        on_step(1, 1, None)
        self.begun.append(len(self.begun))
        assert self.allowed.wait(20)
        return [{"image": picture()}]


def test_stop_does_not_wait_for_a_decoder_and_the_next_picture_does(model, scripted, monkeypatch):
    scripted(["Look", "image", "STOP"], ["Fine.", "STOP"], ["image", "STOP"])
    painter = Painter()
    monkeypatch.setitem(model._decoders, "image", painter)
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

    monkeypatch.setattr(model, "_decoders", {})
    monkeypatch.setattr(model_module, "Decoder", load)
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
        def choose(logits):
            drawn.append(piece)
            if len(drawn) == 3:
                session.stop()
            return [piece]

        return choose

    monkeypatch.setattr(generation, "_chooser", chooser)
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
        def generate(self, *arguments):
            raise ValueError("out of paint")

    monkeypatch.setitem(model._decoders, "image", Broken())
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


def test_no_room_on_the_device_is_told_with_what_to_do(model, monkeypatch):
    session = Session(model, sampling=WORDS)
    list(session.send("Hello"))

    def full(self, *arguments, **more):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(AnyToAny, "hidden_states", full)
        with pytest.raises(
            torch.OutOfMemoryError, match="shorten the history.*smaller profile.*20"
        ):
            list(session.send("And now?"))
    assert session._memory.read == [] and session._memory.cache.get_seq_length() == 0
    assert not session.busy and list(session.retry())[-1].finish_reason == "length"


def test_retry_by_index_draws_the_reply_anew_and_drops_what_came_after(model, scripted):
    seeds = scripted(*[["Yes", "STOP"]] * 8)
    session = Session(model, seed=5)
    for text in ("one", "two", "three"):
        list(session.send(text))
    list(session.retry(3))
    assert [words(m) for m in session.messages] == ["one", "Yes", "two", "Yes"]
    list(session.retry(2))
    assert len(set(seeds)) == len(seeds) == 5  # another attempt each time
    list(session.retry(0))
    assert [words(m) for m in session.messages] == ["one", "Yes"] and seeds[-1] != 5
    list(session.send("two"))
    assert seeds[-1] == 6  # a new message is a first attempt
    for index in (4, -1):
        with pytest.raises(ValueError, match=f"no message {index}"):
            session.retry(index)
    assert len(session.messages) == 4


# --- what a turn costs ---


def test_a_turn_reads_its_new_tokens_only_also_after_turns_were_dropped(model, scripted, lengths):
    scripted(*[["Certainly so.", "STOP"]] * 12)
    session = Session(model, sampling=Sampling(max_new_tokens=model.messages.context - 150))
    shown = {"type": "image", "image": picture()}
    question = [shown, {"type": "text", "text": "What about this one?"}]
    counts, costs = [], []
    for _ in range(12):
        lengths.clear()
        first = next(events := session.send(question))
        counts.append(first.count if isinstance(first, TurnsDropped) else 0)
        list(events)
        costs.append(lengths[0])
    new = len(model.messages.encode(session.messages[:1], prompt=True).ids)
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] > 4
    for turn in range(1, 12):
        if counts[turn] == counts[turn - 1]:
            assert costs[turn] <= new + len(model.messages.stop) + 2
    unchanged = sum(a == b for a, b in itertools.pairwise(counts))
    assert unchanged >= 6


def test_dropped_turns_are_counted_as_the_session_has_them(model, scripted):
    scripted(["STOP"], *[["Yes", "STOP"]] * 9)
    session = Session(model, sampling=Sampling(max_new_tokens=model.messages.context - 60))
    session.messages = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    for _ in range(9):
        first = next(events := session.send("Say yes or no to this, please."))
        list(events)
        if isinstance(first, TurnsDropped):
            break
    assert first.count in range(1, len(session.messages) - 2)
    kept = [*session.messages[:1], *session.messages[1 + first.count :]]
    assert kept[1]["role"] == "user"
    assert model.messages.encode(kept).ids[: len(session._memory.read)] == session._memory.read


@pytest.mark.parametrize("end", ["stop", "failure", "edit", "retry"])
def test_what_is_remembered_is_right_whatever_happened_before(model, monkeypatch, end):
    session = Session(model, sampling=WORDS)
    list(session.send("What is the capital of France?"))
    events = session.send("What is the capital of Italy?")
    if end == "stop":
        next(events)
        session.stop()
        assert list(events)[-1].finish_reason == "stopped"
    elif end == "failure":
        next(events)
        with pytest.raises(RuntimeError, match="cut"):
            events.throw(RuntimeError("the wire is cut"))
    elif end == "edit":
        list(events)
        list(session.edit(0, "What is the capital of Spain?"))
    else:
        list(events)
        list(session.retry(1))
    *_, done = session.send("And of Greece?")
    fresh = recall.Memory()
    *_, alone = generation.stream(model, session._prompt()[:-1], 0, WORDS, fresh)
    assert done.message == alone.message and session._memory.read == fresh.read
    kept, anew = (memory.cache.layers[-1].values.float() for memory in (session._memory, fresh))
    assert torch.nn.functional.cosine_similarity(kept, anew, dim=-1).min() > 0.98


def test_content_is_hashed_once_and_a_changed_picture_is_another(
    model, scripted, tmp_path, monkeypatch
):
    scripted(*[["Yes", "STOP"]] * 4)
    hashed, key = [], recall.content_key
    monkeypatch.setattr(recall, "content_key", lambda *m: hashed.append(m) or key(*m))
    path = media.save_image(tmp_path / "a.png", picture("green"))
    drawing = picture("blue")
    session = Session(model)
    list(session.send([{"type": "image", "image": path}, {"type": "image", "image": drawing}]))
    list(session.send("And?"))
    assert len(hashed) == 2
    drawing.paste("red", (0, 0, 48, 32))
    list(session.send([{"type": "image", "image": drawing}]))
    first, second = session.messages[0]["content"][1], session.messages[4]["content"][0]
    assert first["image"].getpixel((0, 0)) != second["image"].getpixel((0, 0))
    assert len(hashed) == 3
    media.save_image(path, picture("white"))
    list(session.send("Look again."))
    assert len(hashed) == 4


def test_a_file_that_vanished_is_still_known_if_it_was_seen(model, scripted, lengths, tmp_path):
    scripted(*[["Yes", "STOP"]] * 4)
    path = media.save_image(tmp_path / "a.png", picture("olive"))
    session = Session(model)
    list(session.send([{"type": "image", "image": path}]))
    path.unlink()
    lengths.clear()
    list(session.send("What was it?"))
    assert lengths[0] < 20  # the rest is remembered
    with pytest.raises(MediaError, match="a.png: missing"):
        session.save(tmp_path / "talk")


def test_a_file_that_vanished_unseen_is_told_in_words(model, scripted, tmp_path):
    scripted(*[["Yes", "STOP"]] * 2)
    path = media.save_image(tmp_path / "a.png", picture("maroon"))
    session = Session(model)
    events = session.send([{"type": "image", "image": path}])
    path.unlink()
    assert list(events)[-1].finish_reason == "stop"
    list(session.send("What was it?"))
    seen = [token for token in session._memory.read if isinstance(token, int)]
    assert "[image: no longer there]" in model.tokenizer.decode(seen)
    assert session.messages[0]["content"][0]["image"] == path


def test_a_message_longer_than_the_context_changes_nothing(model):
    session = Session(model)
    with pytest.raises(ValueError, match=r"takes \d{5,} tokens, more than the \d+ there are room"):
        session.send("many words " * 10_000)
    assert session.messages == [] and not session.busy


def test_the_encoder_is_said_to_load_once(model, scripted, monkeypatch):
    scripted(*[["Yes", "STOP"]] * 2)
    monkeypatch.setattr(model, "_encoder", [])
    session = Session(model)
    for colour, expected in (("teal", [Loading("encoder")]), ("navy", [])):
        events = list(session.send([{"type": "image", "image": picture(colour)}]))
        assert [event for event in events if isinstance(event, Loading)] == expected


# --- keeping ---


def test_the_folder_for_uploads_lives_as_long_as_the_session(model):
    session = Session(model)
    folder = session.folder
    assert folder.is_dir() and session.folder == folder
    (folder / "a.png").write_bytes(b"x")
    del session
    gc.collect()
    assert not folder.exists()


def test_save_replaces_conversations_only(model, scripted, tmp_path):
    scripted(["Yes", "STOP"])
    session = Session(model)
    list(session.send("Hello"))
    mine = tmp_path / "mine"
    mine.mkdir()
    assert session.save(mine).joinpath("messages.json").is_file()  # an empty folder
    session.save(mine)
    for name, content in (("thesis.txt", "years"), ("messages.json", '{"inbox": []}')):
        other = tmp_path / name.split(".")[0]
        other.mkdir()
        (other / name).write_text(content)
        with pytest.raises(ValueError, match="not saved: .* holds .*choose a folder"):
            session.save(other)
        assert (other / name).read_text() == content
    with pytest.raises(ValueError, match="holds a file"):
        session.save(tmp_path / "thesis" / "thesis.txt")


def test_sampling_and_attempts_are_saved_and_restored(model, scripted, tmp_path):
    seeds = scripted(*[["Yes", "STOP"]] * 4)
    sampling = Sampling(temperature=0.5, kinds=("audio",), seconds=1.5)
    session = Session(model, seed=3, sampling=sampling)
    list(session.send("Hello"))
    list(session.retry())
    folder = session.save(tmp_path / "talk")
    loaded = Session.load(folder, model)
    assert loaded.sampling == sampling and loaded.seed == 3
    assert Session.load(folder, model, QUICK).sampling == QUICK
    list(loaded.retry())
    assert len(set(seeds)) == 3


def test_save_and_load(model, scripted, tmp_path):
    scripted(["Here", "image", "audio", "video", "STOP"], ["Yes", "STOP"], ["Yes", "STOP"])
    path = media.save_image(tmp_path / "mine.PNG", picture("blue"))
    session = Session(model, seed=7, sampling=QUICK)
    content = [{"type": "image", "image": path}, {"type": "audio", "audio": sound()}]
    list(session.send([*content, {"type": "text", "text": "<b>Go</b>"}]))
    folder = session.save(tmp_path / "talk")
    path.unlink()
    saved = json.loads((folder / "messages.json").read_text())["messages"]
    assert all((folder / part[part["type"]]).is_file() for part in saved[1]["content"][1:])

    loaded = Session.load(folder, model, QUICK)
    assert [kinds(m) for m in loaded.messages] == [kinds(m) for m in session.messages]
    for before, after in zip(
        session.messages[1]["content"][1:], loaded.messages[1]["content"][1:], strict=True
    ):
        assert before.keys() == after.keys()
    old, new = (m.messages[1]["content"] for m in (session, loaded))
    assert np.array_equal(np.asarray(old[1]["image"]), np.asarray(new[1]["image"]))
    assert np.abs(old[2]["audio"] - new[2]["audio"]).max() < 1e-3
    assert old[3]["video"].shape == new[3]["video"].shape and old[3]["fps"] == new[3]["fps"]
    list(loaded.send("Go on"))
    loaded.save(folder)  # over itself: its own files are copied before the old folder goes
    assert len(Session.load(folder, model).messages) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["talk"]


def test_load_refuses_what_it_did_not_write(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected messages\.json"):
        Session.load(tmp_path, model)
    file = tmp_path / "messages.json"
    file.write_text('{"messages": [')
    with pytest.raises(ValueError, match="not a saved conversation"):
        Session.load(tmp_path, model)
    part = {"type": "image", "image": "../secret.png"}
    record = {"seed": 0, "attempt": 0, "messages": [{"role": "user", "content": [part]}]}
    file.write_text(json.dumps(record))
    with pytest.raises(MediaError, match="outside the folder"):
        Session.load(tmp_path, model)


# --- the widget, without a browser ---


def pieces(chat: Chat, bubble: int) -> list[str]:
    return [piece.value for piece in chat._log.children[bubble].children]


def say(chat: Chat, text: str) -> None:
    chat._input.value = text
    chat._send_button.click()


def test_chat_draws_what_is_sent_and_said(model, scripted, tmp_path):
    scripted(["<script>alert(1)</script>", "image", " and", "audio", "video", "STOP"])
    chat = Chat(model, sampling=QUICK, blocking=True, name="<run>")
    content = media.to_bytes("image", picture())
    file = {"name": "<img src=x>.png", "type": "image/png", "size": len(content)}
    file |= {"content": memoryview(content), "last_modified": datetime.now(timezone.utc)}
    chat._tools.children[0].set_trait("value", (file,))
    assert "&lt;img src=x&gt;.png" in chat._chips.children[0].children[0].value
    say(chat, "<i>Hi</i> & bye")
    assert pieces(chat, 0)[0].startswith('<img src="data:image/png')
    assert "&lt;i&gt;Hi&lt;/i&gt; &amp; bye" in pieces(chat, 0)[1]
    reply = pieces(chat, 1)
    assert "&lt;script&gt;" in reply[0] and "<script" not in "".join(reply)
    assert [text.split(" ")[0] for text in reply] == ["<div", "<img", "<div", "<audio", "<video"]
    assert "ready" in chat._status.value and "&lt;run&gt;" in chat._status.value
    assert chat._input.value == "" and chat._chips.children == ()
    assert chat._stop_button.disabled and not chat._send_button.disabled


def test_chat_shows_errors_and_retries(model, scripted, monkeypatch):
    scripted(["Look", "image", "STOP"], ["Better", "STOP"])

    class Broken:
        def generate(self, *arguments):
            raise RuntimeError("<b>out of paint</b>")

    monkeypatch.setitem(model._decoders, "image", Broken())
    chat = Chat(model, blocking=True)
    say(chat, "")
    assert "empty" in chat._status.value and chat._log.children == ()
    say(chat, "Draw")
    assert "failed" in pieces(chat, 1)[1]
    assert "RuntimeError: &lt;b&gt;out of paint" in pieces(chat, 1)[2]
    assert isinstance(chat.error, RuntimeError)
    chat._retry_button.click()
    assert len(chat._log.children) == 2 and "Better" in pieces(chat, 1)[0]
    chat._clear_button.click()
    assert chat._log.children == () and chat.session.messages == []


def test_chat_goes_on_with_a_session_and_attaches_by_path(model, scripted, tmp_path):
    scripted(["Yes", "STOP"], ["No", "STOP"])
    session = Session(model)
    list(session.send("Hello"))
    chat = Chat(model, session=session, blocking=True)
    assert len(chat._log.children) == 2 and repr(chat) == "Chat(profile tiny, 2 messages)"
    chat._path.value = str(tmp_path / "gone.wav")
    assert "not attached" in chat._status.value
    media.save_audio(tmp_path / "a.wav", *sound())
    media.save_video(tmp_path / "b.mp4", clip(), 4)
    for name in ("a.wav", "b.mp4"):
        chat._path.value = str(tmp_path / name)
    chat._chips.children[0].children[1].click()
    assert len(chat._chips.children) == 1
    chat._send_button.click()
    assert kinds(session.messages[2]) == ["video"] and "<video" in pieces(chat, 2)[0]


def test_uploads_of_ipywidgets_8_and_7():
    eight = ({"name": "a.wav", "type": "audio/wav", "size": 2, "content": memoryview(b"ab")},)
    seven = {"a.wav": {"metadata": {"name": "a.wav", "type": "audio/wav"}, "content": b"ab"}}
    assert uploaded(eight) == uploaded(seven) == [("a.wav", "audio/wav", b"ab")]
    assert kind_of("a.mp4", "") == "video" and kind_of("a", "image/webp") == "image"
    with pytest.raises(ValueError, match=r"notes\.txt"):
        kind_of("notes.txt", "text/plain")


def test_show_is_static_and_escaped(monkeypatch):
    shown = []
    monkeypatch.setattr("anytoany_lib.rendering.display", shown.append)
    reply = [{"type": "audio", "audio": sound()[0], "sampling_rate": 16_000}]
    reply.append({"type": "video", "video": clip(), "fps": 4})
    show(
        [
            {"role": "user", "content": "<script>alert(1)</script>"},
            {"role": "user", "content": [{"type": "image", "image": picture()}]},
            {
                "role": "assistant",
                "content": [*reply, {"type": "image", "caption": "a <b>bell</b>"}],
            },
        ]
    )
    assert [type(item).__name__ for item in shown] == [
        "HTML",
        "HTML",
        "Image",
        "HTML",
        "Audio",
        "Video",
        "HTML",
    ]
    assert all(
        "<script" not in item.data and "<b>bell" not in item.data
        for item in shown
        if type(item).__name__ == "HTML"
    )
    assert medium_of(reply[1])[1] == 4
