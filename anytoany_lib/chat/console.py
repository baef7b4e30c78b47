"""The chat in a terminal: text streams, media are saved as files whose paths are printed.

anytoany chat [--run RUN]                                a conversation; /attach FILE and /quit are its commands
anytoany chat "What is this?" --attach photo.png         one message and its reply
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from anytoany_lib.chat.access import run_named
from anytoany_lib.chat.session import Session
from anytoany_lib.chat.uploads import pasted_path
from anytoany_lib.generation.events import (
    Done,
    Event,
    Loading,
    MediaFailed,
    MediaReady,
    MediaStarted,
    TextDelta,
    TurnsDropped,
)
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import Part, medium_of
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import terminal

_GREETING = (
    "Ctrl-C stops a reply, Ctrl-D or /quit ends, /attach FILE sends a file with the next message."
)


def part_of(text: str) -> Part:
    """A file that was named, as a part of a message. MediaError if it is no medium, ValueError if it is no path."""
    path = pasted_path(text)
    kind = media_files.kind_in(path)
    media_files.as_media(kind, path)  # what cannot be read is refused before a message is written
    return {"type": kind, kind: path}


def tell(events: Iterable[Event], out: Path, say: Callable[[str], None]) -> None:
    """Says the events of a reply as they happen, and saves its media in the folder `out`."""
    for event in events:
        match event:
            case TurnsDropped(count):
                say(f"[the oldest {count} messages were left out: there is no room for them]\n")
            case Loading(what):
                say(f"[loading the {what}]\n")
            case TextDelta(text):
                say(text)
            case MediaStarted(_, kind):
                say(f"[{kind}]")
            case MediaReady(_, part):
                say(f"\n{_save(part, out)}")
            case MediaFailed(_, error):
                say(f"\n[could not be made: {error}]")
            case Done(_, reason):
                say("\n" if reason == "stop" else f"\n[{reason}]\n")


def _save(part: Part, out: Path) -> Path:
    """Saves a medium under the next free number and returns its path."""
    kind = part["type"]
    out.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := out / f"{kind}-{number}{media_files.SUFFIX[kind]}").exists():
        number += 1
    return media_files.save(kind, path, medium_of(part))


def answer(session: Session, content: list[Part], out: Path) -> None:
    """One turn: Ctrl-C ends the reply and not the conversation."""

    def say(text: str) -> None:
        print(text, end="", flush=True)

    events = session.send(content)
    try:
        tell(events, out, say)
    except KeyboardInterrupt:
        events.close()
        say("\n[stopped]\n")


def converse(session: Session, out: Path) -> None:
    """Reads messages from the terminal until it ends."""
    print(_GREETING)
    attached: list[Part] = []
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/attach "):
                attached.append(part_of(line.removeprefix("/attach ")))
            elif line:
                answer(session, [*attached, {"type": "text", "text": line}], out)
                attached = []
        except (MediaError, ValueError) as error:
            print(f"[{error}]")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a conversation, or one message and its reply."""
    parser = terminal.parser(
        "chat",
        __doc__.splitlines()[0],
        "",
        '"Draw a red bell."',
        '"What is this?" --attach cat.png',
    )
    parser.add_argument("message", nargs="?", help="say only this (default: a conversation)")
    parser.add_argument("--run", help="a run folder (default: the newest of profile tiny)")
    parser.add_argument("--attach", action="append", default=[], metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("out/chat"), help="folder for media")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        attached = [part_of(name) for name in given.attach]
    except (MediaError, ValueError) as error:
        parser.error(str(error))
    session = Session(AnyToAny.from_pretrained(run_named(given.run)), given.seed)
    if given.message is None:
        converse(session, given.out)
    else:
        answer(session, [*attached, {"type": "text", "text": given.message}], given.out)
