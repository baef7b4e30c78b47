"""The chat engine: history, editing, retrying, keeping, static output."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
from scripts import QUICK, clip, kinds, picture, sound, words

from anytoany_lib.chat.html import show
from anytoany_lib.chat.session import Session
from anytoany_lib.generation.events import Done, MediaProgress, MediaReady, TextDelta
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import medium_of


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
    path = media_files.save_image(tmp_path / "mine.PNG", picture("blue"))
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
    assert new[1]["enlarged"].size == (256, 256) and new[1]["image"].size == (64, 64)
    assert new[3]["enlarged"].shape == (8, 256, 256, 3) and "enlarged" not in new[2]
    assert np.array_equal(np.asarray(old[1]["enlarged"]), np.asarray(new[1]["enlarged"]))
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


def test_show_is_static_and_escaped(monkeypatch):
    shown = []
    monkeypatch.setattr("anytoany_lib.chat.html.display", shown.append)
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
