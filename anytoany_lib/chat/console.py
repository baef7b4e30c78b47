"""The chat in a terminal: text streams, media are saved as files whose paths are printed.

anytoany chat [--run RUN]                                a conversation; /attach FILE and /quit are its commands
anytoany chat "What is this?" --attach photo.png         one message and its reply
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from anytoany_lib.chat.access import RUN_HELP, run_named
from anytoany_lib.chat.session import Session
from anytoany_lib.chat.uploads import part_of, pasted_path
from anytoany_lib.chat.view import remark
from anytoany_lib.generation.enlarged import enlargement, shown_of
from anytoany_lib.generation.events import Done, Event, Events, MediaReady, TextDelta
from anytoany_lib.media import media_files
from anytoany_lib.messages import Part, medium_of
from anytoany_lib.model import AnyToAny
from anytoany_lib.speech.aloud import Spoken
from anytoany_lib.speech.spoken_parts import sound_part
from anytoany_lib.system import terminal

_GREETING = (
    "Ctrl-C stops a reply, Ctrl-D or /quit ends, /attach FILE sends a file with the next message."
)


class _Output:
    """Standard output: a reply's text as it comes, everything else on lines of its own."""

    def __init__(self) -> None:
        self._last = ""  # the text that was printed last, "" after a line

    def text(self, delta: str) -> None:
        """Prints more of the reply's text; the space before its first word goes."""
        delta = delta if self._last else delta.lstrip()
        print(delta, end="", flush=True)
        self._last = delta or self._last

    def end_line(self) -> None:
        """Ends the line that text stands on, if there is one."""
        if self._last and not self._last.endswith("\n"):
            print()
        self._last = ""

    def line(self, text: str) -> None:
        """Prints a line of its own."""
        self.end_line()
        print(text, flush=True)


def attached_part(text: str) -> Part:
    """The file that was named, as a part of a message. ValueError if it is no path or no medium that can be read."""
    path = pasted_path(text)
    part = part_of(path, str(path))
    media_files.as_media(part["type"], path)  # a broken file is refused before a message is written
    return part


def save_numbered(part: Part, out: Path, name: str = "") -> list[Path]:
    """Saves a part's medium in the folder `out` under its kind, or `name`, and the next free number, and beside an enlarged one
    what was made.

    Returns their paths, the one to be shown first.
    """
    kind = part["type"]
    name = name or kind
    out.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := out / f"{name}-{number}{media_files.SUFFIX[kind]}").exists():
        number += 1
    saved = [media_files.save(kind, path, shown_of(part))]
    if "enlarged" in part:
        as_made = path.with_stem(f"{path.stem}-as-made")
        saved.append(media_files.save(kind, as_made, medium_of(part)))
    return saved


def _sounds(event: Event) -> list[Part]:
    """What was read aloud of a reply, once that has ended."""
    parts = event.message["content"] if isinstance(event, Done) else []
    return list(filter(None, map(sound_part, parts)))


def print_reply(events: Events, out: Path) -> None:
    """Prints a reply as it is drawn, and saves its media in the folder `out`. Ctrl-C ends the reply alone."""
    output = _Output()
    with closing(events):
        try:
            for event in events:
                for spoken in _sounds(event):
                    output.line(str(save_numbered(spoken, out, "speech")[0]))
                if isinstance(event, TextDelta):
                    output.text(event.text)
                elif isinstance(event, MediaReady) and not isinstance(event, Spoken):
                    shown, *made = save_numbered(event.part, out)
                    if made:
                        output.line(f"[{enlargement(event.part)}; as made: {made[0]}]")
                    output.line(str(shown))
                elif text := remark(event):
                    output.line(f"[{text}]")
            output.end_line()
        except KeyboardInterrupt:
            output.line("[stopped]")


def converse(session: Session, out: Path) -> None:
    """Reads messages from standard input until it ends; whoever types them is greeted and prompted."""
    typed = sys.stdin.isatty()
    if typed:
        print(_GREETING)
    attached: list[Part] = []
    while True:
        try:
            line = input("> " if typed else "").strip()
        except (EOFError, KeyboardInterrupt):
            print(end="\n" if typed else "")  # the shell's prompt begins on a line of its own
            return
        if line in ("/quit", "/exit"):
            return
        command, _, rest = line.partition(" ")
        try:
            if command == "/attach":
                attached.append(attached_part(rest))
                print(
                    f"[{attached[-1]['type']} attached: it goes with the next message]", flush=True
                )
                continue
            if not line:
                continue
            events = session.send([*attached, {"type": "text", "text": line}])
        except ValueError as error:  # a file or a message that cannot be sent
            print(f"[{error}]", flush=True)
            continue
        attached = []
        print_reply(events, out)


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
    parser.add_argument("--run", help=RUN_HELP)
    parser.add_argument("--attach", action="append", default=[], metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("out/chat"), help="folder for media")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--aloud", action="store_true", help="say replies: their sound goes to the folder for media"
    )
    options = parser.parse_args(arguments)
    try:
        attached = [attached_part(name) for name in options.attach]
    except ValueError as error:
        parser.error(str(error))
    # The bars of what is loaded in the middle of a reply would stand between its texts.
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    model = AnyToAny.from_pretrained(run_named(options.run))
    session = Session(model, options.seed)
    session.read_replies_aloud(options.aloud)
    if options.message is None:
        converse(session, options.out)
        return
    try:
        events = session.send([*attached, {"type": "text", "text": options.message}])
    except ValueError as error:
        parser.error(str(error))
    print_reply(events, options.out)
