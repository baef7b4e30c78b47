"""The chat in a terminal: the shipped run, real files, real signals, and what is printed."""

from __future__ import annotations

import functools
import io
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from anytoany_lib.chat import console
from anytoany_lib.config import resolve
from anytoany_lib.generation import decoding
from anytoany_lib.model import AnyToAny

RUN = ["--run", str(resolve("ckpt/tiny/run"))]


@pytest.fixture(autouse=True, scope="module")
def loaded_once():
    """The command as it is, but for one load of the run instead of one for each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnyToAny, "from_pretrained", functools.cache(AnyToAny.from_pretrained))
        yield


@pytest.fixture
def bell(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a bell.png")
    return tmp_path / "a bell.png"


def pipe(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_one_message_with_a_medium_gets_a_picture(tmp_path, bell, capfd):
    out = tmp_path / "made"
    console.main(["Draw a red bell.", "--attach", str(bell), *RUN, "--out", str(out)])
    printed, errors = capfd.readouterr()
    assert "%|" not in errors, "bars of what is loaded stand between the texts"
    assert "[loading the encoder model]\n" in printed
    text, path, made = (
        "red bell.\n[drawing a picture]\n",
        out / "image-1.png",
        out / "image-1-as-made.png",
    )
    assert text in printed and printed.endswith(f"\n[enlarged 4 x; as made: {made}]\n{path}\n")
    assert "\n\n" not in printed
    assert Image.open(path).size == (256, 256) and Image.open(made).size == (64, 64)


def test_a_conversation_through_a_pipe(tmp_path, bell, capsys, monkeypatch):
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    pipe(
        monkeypatch,
        f"/attach '{bell}'",
        f"/attach {notes}",
        f"/attach {tmp_path / 'nowhere.png'}",
        "/attach",
        "",
        "What is this?",
        "Draw a red bell.",
        "/quit",
        "This is not read.",
    )
    sent = []
    send = console.Session.send

    def noted(session, content):
        sent.append([part["type"] for part in content])
        return send(session, content)

    monkeypatch.setattr(console.Session, "send", noted)
    console.main([*RUN, "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[image attached: it goes with the next message]"
    assert "notes.txt: expected a picture, a sound or a clip" in lines[1]
    assert "nowhere.png: missing" in lines[2] and "expected the path of a file" in lines[3]
    assert sent == [["image", "text"], ["text"]]  # a file goes with one message
    assert lines[-1] == str(tmp_path / "image-1.png") and (tmp_path / "image-1.png").is_file()
    assert not any(line.startswith(">") for line in lines), "nobody is there to be prompted"


def test_whoever_types_is_greeted_and_prompted(capsys, monkeypatch):
    pipe(monkeypatch, "/nothing is a command but these", "/exit")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    console.main(RUN)
    printed = capsys.readouterr().out
    assert printed.startswith("Ctrl-C stops a reply") and printed.count("> ") == 2


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["Look", "--attach", "{folder}/notes.txt"], "notes.txt: expected a picture"),
        (["Look", "--attach", "{folder}/broken.png"], "broken.png: unreadable"),
        (["Look", "--attach", "https://host.invalid/a.png"], "is an address"),
        (["  "], "the message is empty"),
    ],
)
def test_what_cannot_be_sent_is_said_as_an_error_of_usage(tmp_path, capsys, arguments, cause):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as ended:
        console.main([*(one.format(folder=tmp_path) for one in arguments), *RUN])
    printed, errors = capsys.readouterr()
    assert ended.value.code == 2 and cause in errors and printed == ""


def test_an_interrupt_ends_the_reply_and_not_the_conversation(capsys, monkeypatch, tmp_path):
    """A real signal comes while the third word of the first reply is drawn."""
    # A shell's background jobs, and what they start, ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    usual, interrupted = decoding._chooser, []

    def chooser(model, *options):
        if interrupted:
            return usual(model, *options)
        words = iter(model.messages.text_ids("one two three four"))

        def choose(logits, rows):
            interrupted.append(next(words))
            if len(interrupted) == 3:
                signal.raise_signal(signal.SIGINT)
            return interrupted[-1:]

        return choose

    monkeypatch.setattr(decoding, "_chooser", chooser)
    pipe(monkeypatch, "Count", "Draw a red bell.")
    try:
        console.main([*RUN, "--out", str(tmp_path)])
    finally:
        signal.signal(signal.SIGINT, before)
    printed = capsys.readouterr().out
    assert "\n[stopped]\n" in printed and "four" not in printed
    assert printed.startswith("one") and printed.endswith(f"\n{tmp_path / 'image-1.png'}\n")


def test_media_are_numbered_and_never_replaced(tmp_path):
    part = {"type": "image", "image": Image.new("RGB", (8, 8))}
    (tmp_path / "image-1.png").write_text("somebody's")
    saved = [console.save_numbered(part, tmp_path) for _ in range(2)]
    assert [[path.name for path in one] for one in saved] == [["image-2.png"], ["image-3.png"]]
    assert (tmp_path / "image-1.png").read_text() == "somebody's"
