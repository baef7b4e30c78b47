"""What a turn of a chat costs: its new tokens and the media not seen before, also when old turns were dropped."""

from __future__ import annotations

import itertools

import pytest
import torch
from scripts import WORDS, count_reads, picture

from anytoany_lib.chat.session import Session
from anytoany_lib.generation import kv_cache, replies
from anytoany_lib.generation.events import Loading, TurnsDropped
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.media_files import content_key


@pytest.fixture
def lengths(monkeypatch):
    return count_reads(monkeypatch)


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
    assert (
        model.messages.encode(kept).ids[: len(session._cache.positions)] == session._cache.positions
    )


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
    fresh = kv_cache.PrefixCache()
    *_, alone = replies.stream(model, session._prompt()[:-1], 0, WORDS, fresh)
    known = len(fresh.positions)  # the session has read the reply's end too
    assert done.message == alone.message and session._cache.positions[:known] == fresh.positions
    kept, anew = (
        cache.past_key_values.layers[-1].values[..., :known, :].float()
        for cache in (session._cache, fresh)
    )
    assert torch.nn.functional.cosine_similarity(kept, anew, dim=-1).min() > 0.98


def test_content_is_hashed_once_and_a_changed_picture_is_another(
    model, scripted, tmp_path, monkeypatch
):
    scripted(*[["Yes", "STOP"]] * 4)
    hashed, key = [], content_key
    monkeypatch.setattr(kv_cache, "content_key", lambda *m: hashed.append(m) or key(*m))
    path = media_files.save_image(tmp_path / "a.png", picture("green"))
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
    media_files.save_image(path, picture("white"))
    list(session.send("Look again."))
    assert len(hashed) == 4


def test_a_file_that_vanished_is_still_known_if_it_was_seen(model, scripted, lengths, tmp_path):
    scripted(*[["Yes", "STOP"]] * 4)
    path = media_files.save_image(tmp_path / "a.png", picture("olive"))
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
    path = media_files.save_image(tmp_path / "a.png", picture("maroon"))
    session = Session(model)
    events = session.send([{"type": "image", "image": path}])
    path.unlink()
    assert list(events)[-1].finish_reason == "stop"
    list(session.send("What was it?"))
    seen = [token for token in session._cache.positions if isinstance(token, int)]
    assert "[image: no longer there]" in model.tokenizer.decode(seen)
    assert session.messages[0]["content"][0]["image"] == path


def test_a_message_longer_than_the_context_changes_nothing(model):
    session = Session(model)
    with pytest.raises(ValueError, match=r"takes \d{5,} tokens, more than the \d+ there are room"):
        session.send("many words " * 10_000)
    assert session.messages == [] and not session.busy


def test_the_encoder_is_said_to_load_once(model, scripted, monkeypatch):
    scripted(*[["Yes", "STOP"]] * 2)
    monkeypatch.setattr(model.media_models, "_encoder", None)
    session = Session(model)
    for colour, expected in (("teal", [Loading("encoder")]), ("navy", [])):
        events = list(session.send([{"type": "image", "image": picture(colour)}]))
        assert [event for event in events if isinstance(event, Loading)] == expected
