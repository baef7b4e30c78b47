"""Replies read aloud: sentences are said while the reply comes, and stay beside its words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scripts import QUICK, kinds
from tones import RATE, Tones, say

from anytoany_lib.chat import export, view
from anytoany_lib.chat.html import part_html
from anytoany_lib.chat.session import Session
from anytoany_lib.generation.events import (
    Done,
    Event,
    MediaReady,
    MediaStarted,
    PartialReply,
    TextDelta,
)
from anytoany_lib.messages import Message
from anytoany_lib.modalities import SPEECH
from anytoany_lib.speech.aloud import Spoken, read_aloud, say_message
from anytoany_lib.speech.models import SpeechMissing, speech_of
from anytoany_lib.speech.spoken_parts import Sound, joined, sound_part


def never() -> bool:
    return False


def reply(*items: str | Event) -> Iterator[Event]:
    """Events of a reply: texts as they grow, then its message."""
    parts = PartialReply()
    for item in items:
        event = TextDelta(item) if isinstance(item, str) else item
        parts.take(event)
        yield event
    yield Done(parts.message(), "stop")


def text_of(events: list[Event]) -> list[str]:
    return [
        event.sentence if isinstance(event, Spoken) else type(event).__name__ for event in events
    ]


def test_a_sentence_is_said_as_soon_as_it_is_whole():
    image = {"type": "image", "image": "a picture"}
    events = list(
        read_aloud(
            reply(
                "One", ". Tw", "o. Three", MediaStarted(1, "image"), " Four", MediaReady(1, image)
            ),
            say,
            never,
        )
    )
    assert text_of(events) == [
        *("TextDelta", "TextDelta", "One.", "TextDelta", "Two.", "MediaStarted", "Three"),
        *("TextDelta", "MediaReady", "Four", "Done"),
    ]
    message = events[-1].message
    assert kinds(message) == ["text", "image", "text"] and SPEECH not in message["content"][1]
    first, third = (message["content"][n][SPEECH] for n in (0, 2))
    assert len(third[0]) == len(say("Four")[0])
    pauses = len(first[0]) - sum(len(say(one)[0]) for one in ("One.", "Two.", "Three"))
    assert pauses == 2 * RATE // 4 and first[1] == RATE


def test_a_part_has_all_that_was_said_of_it_and_an_event_its_own_sentence():
    spoken = [e for e in read_aloud(reply("One. Two. Three."), say, never) if isinstance(e, Spoken)]
    assert [len(e.sound[0]) for e in spoken] == [len(say(e.sentence)[0]) for e in spoken]
    lengths = [len(e.part[SPEECH][0]) for e in spoken]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == len(joined([e.sound for e in spoken])[0])


def test_the_words_and_their_order_are_as_without_a_voice():
    items = [" ", MediaStarted(1, "audio"), "Here. ", "It rings."]
    silent, aloud = list(reply(*items)), list(read_aloud(reply(*items), say, never))
    assert [e for e in aloud if not isinstance(e, Spoken)][:-1] == silent[:-1]
    heard = aloud[-1].message["content"]
    assert [{k: v for k, v in part.items() if k != SPEECH} for part in heard] == silent[-1].message[
        "content"
    ]
    assert SPEECH in heard[-1]


def test_once_stopped_no_further_sentence_is_said():
    said: list[str] = []

    def noted(sentence: str) -> Sound:
        said.append(sentence)
        return say(sentence)

    events = list(read_aloud(reply("One. ", "Two. ", "Three."), noted, lambda: len(said) > 0))
    assert said == ["One."] and isinstance(events[-1], Done)
    part = events[-1].message["content"][0]
    assert part["text"] == "One. Two. Three." and len(part[SPEECH][0]) == len(say("One.")[0])


def test_a_voice_that_fails_ends_the_reply_with_its_error():
    def broken(sentence: str) -> Sound:
        raise RuntimeError("hoarse")

    with pytest.raises(RuntimeError, match="hoarse"):
        list(read_aloud(reply("One. Two."), broken, never))


def test_a_message_that_stands_is_said_part_by_part():
    message: Message = {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "One. Two."},
            {"type": "image", "image": "a picture"},
            {"type": "text", "text": "Three."},
        ],
    }
    found = [(event.index, event.sentence) for event in say_message(message, say, never)]
    assert found == [(0, "One."), (0, "Two."), (2, "Three.")]


# --- in a chat ---


@pytest.fixture
def session(model, scripted) -> Session:
    scripted(["It rings. Here", "image", " it is.", "STOP"], ["Yes.", "STOP"])
    made = Session(model, sampling=QUICK)
    made.speech = Tones()
    return made


def test_a_session_reads_aloud_and_its_next_turn_reads_the_words_alone(session, model):
    silent = Session(model, sampling=QUICK)
    session.read_replies_aloud(True)
    events = list(session.send("Hello"))
    assert [e.sentence for e in events if isinstance(e, Spoken)] == ["It rings.", "Here", "it is."]
    reply = session.messages[-1]
    assert kinds(reply) == ["text", "image", "text"]
    assert all(SPEECH in part for part in reply["content"] if part["type"] == "text")
    silent.messages = [
        {**m, "content": [{k: v for k, v in p.items() if k != SPEECH} for p in m["content"]]}
        for m in session.messages
    ]
    assert model.messages.encode(session.messages).ids == model.messages.encode(silent.messages).ids
    list(session.send("And?"))
    assert session.messages[-1]["content"][0]["text"] == "Yes."


def test_what_was_said_is_saved_loaded_and_exported(session, model, tmp_path):
    session.read_replies_aloud(True)
    list(session.send("Hello"))
    session.save(tmp_path / "kept")
    again = Session.load(tmp_path / "kept", model)
    before, after = (one.messages[-1]["content"][0] for one in (session, again))
    assert after["text"] == before["text"] and after[SPEECH][1] == RATE
    np.testing.assert_allclose(after[SPEECH][0], before[SPEECH][0], atol=2**-14)
    page = export.page(again.messages)
    assert page.count("<audio controls") == 2 and 'download="audio.wav"' in page
    assert part_html(after).count("<audio") == 1 and "It rings. Here" in part_html(after)


def test_a_reply_that_stands_is_read_aloud_when_asked(session):
    list(session.send("Hello"))
    with pytest.raises(ValueError, match="nothing to read aloud: there is no message 7"):
        session.read_aloud(7)
    events = list(session.read_aloud(1))
    assert [e.sentence for e in events[:-1]] == ["It rings.", "Here", "it is."]
    assert isinstance(events[-1], Done) and events[-1].message is session.messages[1]
    assert sound_part(session.messages[1]["content"][0])["caption"] == "It rings. Here"


def test_speech_is_read_as_words_and_keeps_its_sound(session, tmp_path, model):
    session.speech = Tones("Draw a red bell.")
    recording = (np.zeros(RATE, np.float32), RATE)
    list(session.send([{"type": "audio", "audio": recording}]))
    part = session.messages[0]["content"][0]
    assert part["text"] == "Draw a red bell." and part["type"] == "text"
    assert np.array_equal(part[SPEECH][0], recording[0])
    typed = [{"role": "user", "content": "Draw a red bell."}]
    assert model.messages.encode(session.messages[:1]).ids == model.messages.encode(typed).ids
    loaded = Session.load(session.save(tmp_path / "kept"), model).messages[0]["content"][0]
    assert loaded["text"] == part["text"] and loaded[SPEECH].suffix == ".wav"


def test_where_the_file_of_a_recording_is_gone_its_words_stand(tmp_path):
    part = {"type": "text", "text": "Draw a red bell.", SPEECH: tmp_path / "gone.wav"}
    shown = part_html(part)
    assert "Draw a red bell." in shown and "its sound cannot be played: missing" in shown
    assert view.piece_of(part)["text"] == "Draw a red bell." and "data" not in view.piece_of(part)
    assert "missing" in export.page([{"role": "user", "content": [part]}])


@pytest.mark.parametrize(("hears", "text"), [(False, "Draw."), (True, "")])
def test_other_sounds_and_those_that_are_not_to_be_heard_stay_sounds(session, hears, text):
    session.speech, session.hears = Tones(text), hears
    list(session.send([{"type": "audio", "audio": (np.zeros(RATE, np.float32), RATE)}]))
    assert kinds(session.messages[0]) == ["audio"]


def test_without_the_extra_the_chat_goes_on_and_reading_aloud_says_what_it_needs(
    model, scripted, monkeypatch
):
    scripted(["Yes.", "STOP"])
    monkeypatch.setattr("anytoany_lib.speech.models.find_spec", lambda name: None)
    session = Session(model, sampling=QUICK)
    list(session.send([{"type": "audio", "audio": (np.zeros(RATE, np.float32), RATE)}]))
    assert kinds(session.messages[0]) == ["audio"]
    for ask in (lambda: session.read_replies_aloud(True), lambda: session.read_aloud(1)):
        with pytest.raises(SpeechMissing, match=r"pip install \"anytoany\[speech\]\""):
            ask()
    assert not session.aloud


def test_a_voice_that_was_not_fetched_is_named_with_the_command(monkeypatch, tmp_path, profile):
    monkeypatch.setattr("anytoany_lib.speech.models.find_spec", lambda name: True)
    monkeypatch.setattr("anytoany_lib.speech.models.resolve", lambda folder: tmp_path / folder)
    with pytest.raises(
        SpeechMissing, match="ckpt/hibari-tts: anytoany fetch --profile .* --speech"
    ):
        speech_of(profile.speech).check("voice")
