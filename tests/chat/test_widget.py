"""The chat widget without a browser: what it tells the page, and what it does with what the page says."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import Screen
from tones import Tones

from anytoany_lib.chat import settings, uploads
from anytoany_lib.chat.session import Session
from anytoany_lib.chat.widget import Chat
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files

QUICK = Sampling(steps=4, preview_every=2)


class Page(Screen):
    """A page beside its chat: what the kernel tells goes through no socket."""

    def __init__(self, chat: Chat):
        opened = chat._everything()
        super().__init__(json.loads(json.dumps(opened, default=lambda _: "bytes")))
        self.chat = chat
        chat.send = self.hear

    def do(self, what: str, *buffers: bytes, **told: Any) -> None:
        self.chat._hear(None, {"do": what, **told}, list(buffers))


@pytest.fixture
def page(model):
    return Page(Chat(model, sampling=QUICK, blocking=True, name="<run>"))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A picture, a sound and a clip."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    tone = np.sin(np.arange(16_000) / 8).astype(np.float32) / 2
    return {
        "image": media_files.save_image(tmp_path / "a.png", Image.new("RGB", (48, 32), "red")),
        "audio": media_files.save_audio(tmp_path / "a.wav", tone, 16_000),
        "video": media_files.save_video(tmp_path / "a.mp4", noise, 4),
    }


def test_a_reply_grows_on_the_page_and_every_medium_takes_its_place(page, scripted):
    scripted(["A bell,", "image", " its ring,", "audio", " and", "video", "STOP"])
    page.do("send", text=" Draw <b>it</b> ")
    assert page.said(0) == ["Draw <b>it</b>"] and "<b>" not in page.bubbles[0]["pieces"][0]["html"]
    assert page.said(1) == ["A bell,", "image", "its ring,", "audio", "and", "video"]
    assert page.bubbles[1]["pieces"][1]["data"].startswith(b"\x89PNG")
    assert page.status == {"state": "ready", "text": "ready"} and page.title.startswith("<run>")
    making = [t["piece"] for t in page.history if t.get("piece", {}).get("kind") == "making"]
    pictures = [piece for piece in making if piece["medium"] == "image"]
    assert [piece.get("done", 0) for piece in pictures] == [0, 1, 2, 3, 4]
    assert [piece.get("mime") for piece in pictures].count("image/jpeg") == 2
    states = [
        t["values"]["status"]["text"] for t in page.history if "status" in t.get("values", {})
    ]
    assert states[0] == "thinking" and {"drawing a picture", "making a sound"} <= set(states)


def test_a_page_that_opens_later_is_told_everything(page, scripted):
    scripted(["One", "image", "STOP"])
    page.do("send", text="Hello")
    opened = page.chat.get_state("snapshot")["snapshot"]
    assert [bubble["role"] for bubble in opened["bubbles"]] == ["user", "assistant"]
    assert opened["bubbles"][1]["pieces"][1]["data"].startswith(b"\x89PNG")
    assert opened["limit"] == uploads.LIMIT and opened["examples"]


def test_editing_retrying_taking_back(page, scripted, files):
    seeds = scripted(*([text, "STOP"] for text in ("One", "Two", "Three", "Four", "Five")))
    page.do("path", path=str(files["image"]))
    page.do("send", text="First")
    page.do("send", text="Second")
    assert [page.said(n)[-1] for n in range(4)] == ["First", "One", "Second", "Two"]
    page.do("retry", bubble=1)  # an earlier reply: what came after it goes
    assert [page.said(n)[-1] for n in range(len(page.bubbles))] == ["First", "Three"]
    assert seeds[0] == seeds[1] - 1 and seeds[2] not in seeds[:2]
    page.do("edit", bubble=0)
    assert (page.editing, page.written) == (0, "First")
    assert [one["kind"] for one in page.attached] == ["image"]
    page.do("send", text="Better")
    assert [page.said(n) for n in range(2)] == [["image", "Better"], ["Four"]]
    assert page.editing is None and page.attached == [] and page.written == ""
    page.do("edit", bubble=0)
    page.do("cancel")
    assert page.editing is None and len(page.bubbles) == 2
    page.do("undo")
    assert page.bubbles == [] and page.written == "Better" and len(page.attached) == 1
    page.do("undo")
    assert page.status["state"] == "problem" and "nothing to undo" in page.status["text"]
    page.do("send", text="")
    page.do("clear")
    assert page.bubbles == [] and page.chat.session.messages == []


def test_failures_are_told_with_their_cause_and_can_be_retried(page, scripted, monkeypatch):
    scripted(["Look:", "image", " there", "STOP"], ["Better", "STOP"], ["STOP"])

    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(page.chat.session.model, "render", broken)
    page.do("send", text="Draw")
    assert page.said(1) == ["Look:", "OSError: no space left", "there"]
    page.do("retry", bubble=1)
    assert page.said(1) == ["Better"]
    page.do("send", text="Say nothing")
    assert page.said(3) == ["the model ended its turn without saying anything"]
    page.do("send", text="   ")
    assert "empty" in page.status["text"] and len(page.bubbles) == 4
    page.do("send", text="word " * 20_000)
    assert "token" in page.status["text"] and len(page.bubbles) == 4


def test_whatever_ends_a_reply_stands_in_its_bubble(page, monkeypatch):
    def failing(*_, **__):
        yield from ()
        raise MemoryError("the card is full")

    monkeypatch.setattr(page.chat.session, "_draw", failing)
    page.do("send", text="Hello")
    assert page.said(1) == ["MemoryError: the card is full"]
    assert isinstance(page.chat.error, MemoryError) and page.status["state"] == "problem"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as a kernel has it while a cell runs; the processes of a parallel test run ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_at_the_very_end_of_a_reply_has_nothing_left_to_stop(
    page, scripted, interruptible
):
    hear, came = page.chat.send, []

    def interrupted(told: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        hear(told, buffers)
        if not came and "note" in str(told):  # that it was stopped
            came.append(signal.raise_signal(signal.SIGINT))

    def stop(told: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        hear(told, buffers)
        if "One" in str(told):
            page.chat.send = interrupted
            signal.raise_signal(signal.SIGINT)

    page.chat.send = stop
    scripted(["One two three", "STOP"])
    page.do("send", text="Count.")
    assert came and page.said(1)[-1] == "stopped"
    assert page.status == {"state": "ready", "text": "ready"} and not page.chat.session.busy
    with pytest.raises(KeyboardInterrupt):  # from here on an interrupt is what it was
        signal.raise_signal(signal.SIGINT)


def test_stop_and_what_is_refused_while_a_reply_is_drawn(model, scripted):
    scripted(["Wait:", "image", "STOP"])
    page = Page(Chat(model, sampling=Sampling(steps=1000), blocking=False))
    page.do("send", text="Draw")
    until = time.monotonic() + 60
    while not any(t.get("piece", {}).get("done") for t in page.history):
        assert time.monotonic() < until
        time.sleep(0.01)
    for what in ({"do": "send", "text": "Again"}, {"do": "clear"}, {"do": "edit", "bubble": 0}):
        page.do(**{"what": what.pop("do")}, **what)
        assert len(page.bubbles) == 2
    began = time.monotonic()
    page.do("stop")
    while page.chat.session.busy or page.status["state"] == "busy":
        time.sleep(0.01)
    assert time.monotonic() - began < 0.5
    assert page.said(1) == ["Wait:", "image not made", "stopped"]
    assert threading.active_count() < 50


def test_files_arrive_in_chunks_and_only_media_are_attached(page, files, monkeypatch):
    for kind, path in files.items():
        page.upload(f"../<{kind}>{path.suffix}", path.read_bytes())
    assert [one["kind"] for one in page.attached] == list(files)
    assert [bool(one["thumbnail"]) for one in page.attached] == [True, False, True]
    folder = page.chat.session.folder
    assert all(one.medium.parent == folder for one in page.chat._attached)
    page.do("remove", id=page.attached[1]["id"])
    assert [one["kind"] for one in page.attached] == ["image", "video"]
    for name, data in (("notes.txt", b"text"), ("empty.wav", b""), ("text.mp4", b"text" * 999)):
        page.upload(name, data)
        assert page.status["text"].startswith("not attached") and len(page.attached) == 2
    page.do("chunk", b"x", id="late", name="late.png", mime="", at=5, size=9)
    assert "lost on its way" in page.status["text"]
    page.do("chunk", b"x", id="big", name="big.png", mime="", at=0, size=uploads.LIMIT + 1)
    assert "use a path" in page.status["text"]
    page.do("path", path=str(folder / "gone.wav"))
    assert "gone.wav" in page.status["text"] and len(page.attached) == 2

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    page.upload("c.png", files["image"].read_bytes())
    assert "No space left" in page.status["text"] and len(page.attached) == 2


def test_a_recording_of_the_browser_is_a_sound(page, tmp_path):
    import av

    path, tone = tmp_path / "r.webm", np.sin(np.arange(48_000) / 20).astype(np.float32)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone, "flt", "mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    page.upload("recording.webm", path.read_bytes(), "audio/webm")
    assert [one["kind"] for one in page.attached] == ["audio"]


def test_settings_hold_from_the_next_reply_on(page, scripted):
    values = {one["name"]: one["value"] for one in page.settings}
    assert values["steps"] == 4 and values["image"] is True and values["seed"] == 0
    text = {name: "" if value is None else value for name, value in values.items()}
    page.do("settings", values=text | {"temperature": "0.7", "video": False, "seed": "5"})
    session = page.chat.session
    assert session.seed == 5 and session.sampling == Sampling(
        temperature=0.7, steps=4, preview_every=2, kinds=("image", "audio", "speech")
    )
    before = session.sampling
    for wrong, told in (("steps", "many"), ("top_p", "3"), ("frames", "-1"), ("seconds", "0")):
        page.do("settings", values=text | {wrong: told})
        assert page.status["state"] == "problem" and told in page.status["text"]
        assert session.sampling is before
    seeds = scripted(["Yes", "STOP"])
    page.do("send", text="Hello")
    assert seeds == [5]


def test_every_field_has_a_name_of_its_own(model):
    found = settings.fields(model.profile, Sampling(), 0)
    assert len({one["name"] for one in found}) == len(found) and all(one["tip"] for one in found)


def test_what_is_kept_and_what_is_given_back(page, scripted, files, tmp_path):
    scripted(["Here", "image", "STOP"], ["Yes", "STOP"])
    page.do("path", path=str(files["audio"]))
    page.do("send", text="Draw what you hear")
    page.do("download", bubble=1, piece=1)
    page.do("download", bubble=1, piece=1, made=True)
    page.do("download", bubble=0, piece=0)
    given = {name: data for name, _, data in page.delivered}
    assert list(given) == ["image-enlarged.png", "image.png", "a.wav"]
    sizes = [Image.open(io.BytesIO(given[name])).size for name in list(given)[:2]]
    assert sizes == [(256, 256), (64, 64)]
    assert given["a.wav"] == files["audio"].read_bytes()
    shown = page.bubbles[1]["pieces"][1]
    assert (shown["label"], shown["enlarged"]) == ("image (enlarged 4 x)", "enlarged 4 x")
    page.do("page")
    assert page.delivered[3][:2] == ("conversation.html", "text/html")
    assert b"data:audio" in page.delivered[3][2]
    page.do("save", path=str(tmp_path / "kept"))
    assert page.status["state"] == "ready" and (tmp_path / "kept/messages.json").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("dear to somebody")
    page.do("save", path=str(tmp_path / "other"))
    assert page.status["state"] == "problem" and (tmp_path / "other/thesis.txt").is_file()
    page.do("edit", bubble=0)
    assert page.editing == 0 and len(page.attached) == 1
    page.do("load", path=str(tmp_path / "kept"))
    assert page.editing is None and page.attached == [] and page.written == ""
    assert [page.said(n) for n in range(2)] == [["audio", "Draw what you hear"], ["Here", "image"]]
    page.do("send", text="And now?")
    assert page.said(3) == ["Yes"]
    page.do("load", path=str(tmp_path / "nothing"))
    assert "no conversation" in page.status["text"] and len(page.bubbles) == 4


def test_a_chat_goes_on_with_a_session(model, scripted):
    scripted(["Yes", "STOP"])
    session = Session(model)
    list(session.send("Hello"))
    page = Page(Chat(model, session=session, blocking=True))
    assert [page.said(n) for n in range(2)] == [["Hello"], ["Yes"]]
    assert repr(page.chat) == "Chat(profile tiny, 2 messages)"


def test_switching_to_another_run_keeps_the_conversation(page, scripted, model, monkeypatch):
    scripted(["Yes", "STOP"], ["No", "STOP"])
    page.do("send", text="Hello")
    page.do("switch", run="ckpt/none")
    assert page.status["state"] == "problem" and "ckpt/none" in page.status["text"]
    monkeypatch.setattr("anytoany_lib.chat.widget.AnyToAny.from_pretrained", lambda run: model)
    page.do("switch", run="ckpt/tiny/run")
    assert page.title.startswith("ckpt/tiny/run") and page.run == "ckpt/tiny/run"
    page.do("send", text="And?")
    assert page.said(3) == ["No"]


def test_replies_are_played_as_they_come_and_have_a_player_when_they_have_ended(page, scripted):
    scripted(["It rings. It is red.", "STOP"])
    page.chat.session.speech = Tones()
    values = {field["name"]: field["value"] for field in page.settings}
    page.do(
        "settings", values={n: "" if v is None else v for n, v in values.items()} | {"aloud": True}
    )
    assert page.chat.session.aloud and page.hears
    page.do("send", text="What is it?")
    assert [told["op"] for told in page.history].count("say") == 2
    said = page.bubbles[1]["pieces"][0]
    assert said["text"] == "It rings. It is red." and said["mime"] == "audio/wav"
    assert said["data"].startswith(b"RIFF") and said["label"] == "audio: It rings. It is red."
    page.do("download", bubble=1, piece=0)
    assert page.delivered[0][:2] == ("audio.wav", "audio/wav")


def test_a_message_that_stands_is_read_aloud_and_what_is_missing_is_said(
    page, scripted, monkeypatch
):
    scripted(["It rings.", "image", "STOP"])
    page.do("send", text="Draw it")
    page.chat.session.speech = Tones()
    page.do("read", bubble=1)
    assert page.status == {"state": "ready", "text": "ready"}
    assert page.bubbles[1]["pieces"][0]["data"].startswith(b"RIFF")
    assert page.said(1) == ["It rings.", "image"]
    monkeypatch.setattr("anytoany_lib.speech.models.find_spec", lambda name: None)
    page.chat.session.switch(page.chat.session.model)
    page.do("read", bubble=1)
    assert page.status["state"] == "problem" and "anytoany[speech]" in page.status["text"]


def test_a_spoken_question_shows_its_words_and_its_sound(page, scripted, files):
    scripted(["Yes.", "STOP"])
    page.chat.session.speech = Tones("Is it red?")
    page.do("path", path=str(files["audio"]))
    page.do("send", text="")
    assert page.said(0) == ["Is it red?"] and page.bubbles[0]["pieces"][0]["mime"] == "audio/wav"
    page.do("download", bubble=0, piece=0)
    assert page.delivered[0][2] == files["audio"].read_bytes()
