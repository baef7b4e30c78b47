"""A run that decides by itself to answer by voice: a token before the words, their part in messages, and what a session says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scripts import QUICK, kinds
from small_nextgpt import small_nextgpt
from small_runs import SHIPPED
from tones import Tones, say

from anytoany_lib.chat import view
from anytoany_lib.chat.console import print_reply
from anytoany_lib.chat.session import Session
from anytoany_lib.config import Profile, SpeechConfig
from anytoany_lib.generation.events import AloudStarted, Done, TextDelta, Voiceless
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import IGNORED, Message, MessageEncoder, Vocabulary
from anytoany_lib.modalities import ALOUD, SAY, SPEECH
from anytoany_lib.model import AnyToAny
from anytoany_lib.speech.aloud import Spoken, read_aloud
from anytoany_lib.system import runs
from anytoany_lib.system.files import write_json
from anytoany_lib.training.setup import _initial_model

MISSING = 'pip install "anytoany[speech]"'


def silent(profile: Profile) -> Profile:
    """The profile without the signal."""
    return profile.model_copy(update={"speech": SpeechConfig()})


def encoder_of(model: AnyToAny, profile: Profile) -> MessageEncoder:
    return MessageEncoder(model.tokenizer, profile, Vocabulary.of(49152, profile))


def asked(text: str = "Say it aloud.") -> Message:
    return {"role": "user", "content": text}


def reply(*parts: dict) -> Message:
    return {"role": "assistant", "content": [*parts]}


def text(words: str, **more: object) -> dict:
    return {"type": "text", "text": words, **more}


def of_kind(events: Sequence, kind: type) -> list:
    return [event for event in events if type(event) is kind]


TALK = [
    asked(),
    reply(text("Here it is. "), text("A bell. It rings.", aloud=True)),
    asked("And now?"),
    reply(text("Listen.", aloud=True), {"type": "image", "caption": "a bell"}, text(" There.")),
]


# --- tokens ---


def test_the_token_is_the_last_one_and_the_others_keep_their_ids(model: AnyToAny):
    without = Vocabulary.of(49152, silent(model.profile))
    assert model.vocabulary.names == (*without.names, SAY) and without.say is None
    assert model.vocabulary.say == len(without) == len(model.vocabulary) - 1
    assert model.vocabulary.signals == without.signals
    record = json.loads((SHIPPED / runs.RECORD).read_text())
    assert Vocabulary.of(49152, Profile.parse(record["profile"], "shipped")) == without
    assert Vocabulary.of(32000, Profile.load("nextgpt-7b")).say is None


def test_it_stands_before_the_words_is_learnt_and_nothing_else_changes(model: AnyToAny):
    own = model.messages.encode(TALK)
    old = encoder_of(model, silent(model.profile)).encode(TALK)
    at = [n for n, id in enumerate(own.ids) if id == model.vocabulary.say]
    assert [id for id in own.ids if id != model.vocabulary.say] == old.ids
    assert [label for label in own.labels if label != model.vocabulary.say] == old.labels
    assert [own.labels[n] for n in at] == [model.vocabulary.say] * 2
    for n, words in zip(at, ("A bell. It rings.", "Listen."), strict=True):
        ids = model.messages.text_ids(words)
        assert own.ids[n + 1 : n + 1 + len(ids)] == ids
    assert [kind for kind, _, at in own.signals] == ["image"]
    bounds = model.messages._encode(TALK, False)[1]
    assert own.ids[bounds[3]] == model.vocabulary.say  # a reply begins with it, not behind it


def test_users_and_what_they_type_cannot_make_it(model: AnyToAny):
    typed = [asked(f"{SAY} hello"), reply(text(f"{SAY} hello")), asked(f" {SAY}")]
    shouted = [
        {"role": role, "content": [text("hello", aloud=True)]} for role in ("system", "user")
    ]
    for talk in (typed, shouted):
        encoded = model.messages.encode(talk)
        assert max(encoded.ids) < model.vocabulary.base_size
        assert all(label == IGNORED or label < 49152 for label in encoded.labels)
    with pytest.raises(ValueError, match="message 1, part 0: 'aloud' is true or false"):
        model.messages.encode([asked(), reply(text("hello", aloud="yes"))])


def test_a_run_of_published_kind_may_begin_one_that_has_it(profile: Profile, tmp_path: Path):
    """LLaMA's words, read together with what stands beside them, and a head of its own, whose rows grow as well."""
    for name in ("llm", "run"):
        (tmp_path / name).mkdir()
    small = small_nextgpt(tmp_path / "llm", profile)
    old = AnyToAny.from_profile(small)
    runs.write_tensors(tmp_path / "run", old.bridges(), None)
    record = {"profile": small.model_dump(mode="json"), "stage": 2, "data": {}}
    write_json(tmp_path / "run" / runs.RECORD, record)
    own = small.model_copy(update={"speech": SpeechConfig(signal=True)})
    model = _initial_model(own, tmp_path / "run", 1)
    for name in ("input", "output"):
        before, rows = (getattr(one.token_rows, name) for one in (old, model))
        assert len(rows) == len(before) + 1 and torch.equal(rows[:-1], before)
    talk = [asked(), reply(text("A bell. It rings.", aloud=True))]
    spoken, typed = (one.messages.encode(talk) for one in (model, old))
    assert [id for id in spoken.ids if id != model.vocabulary.say] == typed.ids
    assert spoken.ids.count(model.vocabulary.say) == spoken.labels.count(model.vocabulary.say) == 1


# --- replies ---


def test_a_reply_has_the_mark_and_not_the_token_and_reads_as_it_was_drawn(model, scripted):
    scripted(["Here it is. ", SAY, "A bell. It rings.", "image", SAY, "There.", "STOP"])
    said = model.chat([asked()], sampling=QUICK)
    assert [part.get(ALOUD, False) for part in said["content"]] == [False, True, False, True]
    assert kinds(said) == ["text", "text", "image", "text"] and SAY not in json.dumps(
        [part.get("text", "") for part in said["content"]]
    )
    drawn = [
        *model.messages.text_ids("Here it is. "),
        model.vocabulary.say,
        *model.messages.text_ids("A bell. It rings."),
        *model.vocabulary.signals["image"],
        model.vocabulary.say,
        *model.messages.text_ids("There."),
    ]
    prompt = model.messages.encode([asked()], prompt=True).ids
    again = model.messages.encode([asked(), said]).ids
    assert again[len(prompt) :][: len(drawn)] == drawn


def test_the_mark_comes_before_the_first_word_and_sentences_are_said_as_they_come(model, scripted):
    scripted(["Quietly. ", SAY, "One. Two", ".", " Three.", "STOP"])
    never = lambda: False  # noqa: E731
    events = list(read_aloud(model.stream([asked()]), say, never, all_parts=False))
    names = [type(event).__name__ for event in events]
    begun = names.index("AloudStarted")
    assert "TextDelta" in names[:begun] and "Spoken" not in names[:begun]
    assert [e.sentence for e in of_kind(events, Spoken)] == ["One.", "Two.", "Three."]
    assert names.index("Spoken") < len(names) - 1 - names[::-1].index("TextDelta")
    assert of_kind(events, AloudStarted) == [AloudStarted(1)]
    first, second = events[-1].message["content"]
    assert SPEECH not in first and SPEECH in second and second["text"] == "One. Two. Three."


def test_a_mark_without_words_leaves_nothing_and_many_of_them_end_at_the_limit(model, scripted):
    scripted([SAY, "STOP"], [SAY] * 9)
    events = list(model.stream([asked()]))
    assert len(of_kind(events, AloudStarted)) == 1
    assert events[-1] == Done({"role": "assistant", "content": []}, "stop")
    *_, done = model.stream([asked()], sampling=Sampling(max_new_tokens=4))
    assert done.finish_reason == "length" and not done.message["content"]


# --- a session ---


@pytest.fixture
def session(model, scripted) -> Session:
    scripted(*[["Here: ", SAY, "One. Two.", "STOP"]] * 3)
    made = Session(model, sampling=QUICK)
    made.speech = Tones()
    return made


def test_a_session_says_what_is_marked_and_with_the_switch_on_all(session):
    events = list(session.send("Say it."))
    assert [e.sentence for e in of_kind(events, Spoken)] == ["One.", "Two."]
    session.read_replies_aloud(True)
    events = list(session.send("Say it."))
    assert [e.sentence for e in of_kind(events, Spoken)] == ["Here:", "One.", "Two."]


def test_where_there_is_no_voice_the_words_stand_and_that_is_told_once(session, tmp_path, capsys):
    session.speech.lacks = lambda what: MISSING
    events = list(session.send("Say it."))
    assert of_kind(events, Voiceless) == [Voiceless(MISSING)] and not of_kind(events, Spoken)
    shown = view.Reply()
    for event in events:
        shown.take(event)
    assert [piece["kind"] for piece in shown.pieces] == ["text", "text", "note"]
    assert MISSING in shown.pieces[-1]["text"]
    print_reply(iter_of(events), tmp_path)
    assert capsys.readouterr().out == f"Here: One. Two.\n[this was to be said aloud; {MISSING}]\n"
    assert not of_kind(list(session.send("And?")), Voiceless)
    assert "".join(e.text for e in of_kind(events, TextDelta)) == "Here: One. Two."


def iter_of(events: list):
    """Events that stand, as a reply that comes."""
    yield from events


def test_the_terminal_and_pages_show_what_was_said_as_the_switch_does(session, tmp_path, capsys):
    events = list(session.send("Say it."))
    print_reply(iter_of(events), tmp_path)
    assert capsys.readouterr().out == f"Here: One. Two.\n{tmp_path / 'speech-1.wav'}\n"
    shown = view.Reply()
    for event in events:
        shown.take(event)
    assert ["data" in piece for piece in shown.pieces] == [False, True]


def test_a_stopped_reply_keeps_its_mark_and_says_no_more(session):
    events = session.send("Say it.")
    said = next(event for event in events if isinstance(event, Spoken))
    session.stop()
    rest = list(events)
    assert said.sentence == "One." and not of_kind(rest, Spoken)
    part = session.messages[-1]["content"][-1]
    assert rest[-1].finish_reason == "stopped" and part[ALOUD] and SPEECH in part


def test_the_mark_is_saved_loaded_and_read_by_the_next_turn(session, model, tmp_path):
    list(session.send("Say it."))
    again = Session.load(session.save(tmp_path / "kept"), model)
    assert [part.get(ALOUD) for part in again.messages[-1]["content"]] == [None, True]
    ids = model.messages.encode(again.messages).ids
    assert ids == model.messages.encode(session.messages).ids
    assert ids.count(model.vocabulary.say) == 1


# --- weights ---


def test_a_run_without_the_token_begins_one_that_has_it(profile, capsys):
    """All its weights stay; the new row begins as those of new tokens do."""
    model = _initial_model(profile, SHIPPED, 0)
    stored = runs.tensors_in(SHIPPED / runs.TENSORS)
    own = runs.trainable_tensors(model.bridges())
    rows = stored.pop("token_rows.input")
    for name, tensor in stored.items():
        assert torch.equal(own[name], tensor.float()), name
    assert torch.equal(own["token_rows.input"][:-1], rows.float())
    words = model.causal_lm.get_input_embeddings().weight.float()
    new = own["token_rows.input"][-1]
    assert len(rows) + 1 == len(own["token_rows.input"]) == len(model.vocabulary.names)
    away = (new - words.mean(0)).std() / words.std()
    assert 0.05 < away < 0.2 and model.adapter is not None
    assert f"{SAY}: {SHIPPED} has no such token" in capsys.readouterr().out
    with pytest.raises(ValueError, match="token_rows.input"):
        model.load(SHIPPED)


def test_a_run_folder_says_whether_it_has_the_token(model, profile, tmp_path: Path):
    runs.write_tensors(tmp_path, model.bridges(), None)
    record = {"profile": profile.model_dump(mode="json"), "stage": 2, "data": {}}
    write_json(tmp_path / runs.RECORD, record)
    loaded = AnyToAny.from_pretrained(tmp_path)
    assert loaded.vocabulary == model.vocabulary
    assert torch.equal(loaded.token_rows.input, model.token_rows.input)
