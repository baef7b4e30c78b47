"""What stands in the chat's bubbles, as data: one piece for every text, medium, placeholder or note.

A piece is a dict with a "kind": "text" (html made safe, and the text itself; with the sound of its words, if they were said), "image", "audio", "video", "depth" ... (bytes and MIME
type, and whether they are "enlarged"), "making" (how far a medium is, perhaps with a first look at it), "note", "error", or "dots" while nothing was said
yet. The pages draw them (`static/chat.js`, `gradio_app`); a terminal prints the `remark` of an event alone.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from anytoany_lib.chat.access import without_places
from anytoany_lib.chat.html import MAKING, SHOWN_WIDTH, label_of, preview, text_html
from anytoany_lib.generation.enlarged import enlargement
from anytoany_lib.generation.events import (
    Done,
    Event,
    Events,
    Loading,
    MediaFailed,
    MediaProgress,
    MediaReady,
    MediaStarted,
    PartialReply,
    TextDelta,
    TurnsDropped,
    Voiceless,
)
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import Part, medium_of
from anytoany_lib.speech.aloud import Spoken
from anytoany_lib.speech.spoken_parts import sound_part

Piece = dict[str, Any]


@dataclass
class Bubble:
    """One turn on the screen: its pieces, and the message of the session that it shows or answers."""

    role: str
    message: int
    pieces: list[Piece] = field(default_factory=list)


EXAMPLES = (  # messages that an empty page offers
    "Draw a red bell.",
    "Play the sound of a train.",
    "Film a green drum moving left.",
    "What is the capital of France?",
)
REDRAW_SECONDS = 0.08  # text grows on a page at most this often
PREVIEW_EVERY = 3  # diffusion steps between two first looks at a picture
_REASON = {"stopped": "stopped", "length": "cut at the length limit"}
_SILENT = "the model ended its turn without saying anything"


def remark(event: Event) -> str:
    """The chat's own words about an event; "" for one that needs none."""
    match event:
        case TurnsDropped(count=count):
            return f"too long for the model: its first {count} messages are not read"
        case Loading(what=what):
            return f"loading the {what} {'model' if what == 'encoder' else 'decoder'}"
        case MediaStarted(kind=kind):
            return MAKING[kind]
        case Spoken():
            return ""
        case MediaReady(part=part):
            return f"{part['type']} ready"
        case MediaFailed(error=error):
            return error_text(error)
        case Voiceless(reason=reason):
            return f"this was to be said aloud; {reason}"
        case Done(finish_reason=reason):
            return _REASON.get(reason, "")
    return ""


def error_text(error: BaseException) -> str:
    """An error with its kind, as it is shown."""
    return f"{type(error).__name__}: {error}"


def text_piece(text: str) -> Piece:
    """Markdown that somebody wrote."""
    return {"kind": "text", "html": text_html(text), "text": text}


def note(text: str) -> Piece:
    """A plain sentence of the chat's own."""
    return {"kind": "note", "text": text}


def problem(error: BaseException) -> Piece:
    """An error with its cause; the page offers a retry beside it."""
    return {"kind": "error", "text": error_text(error)}


def for_visitors(piece: Piece) -> Piece:
    """The piece as visitors of a served chat may see it: the chat's own words name no folder of the server."""
    if piece["kind"] in ("note", "error"):
        return {**piece, "text": without_places(piece["text"])}
    return piece


def piece_of(part: Part) -> Piece:
    """A part of a message; a medium that cannot be read any more is a note of that."""
    kind = part["type"]
    if kind == "text":
        spoken = sound_part(part)
        sound = piece_of(spoken) if spoken else {"kind": "text"}
        # One that cannot be read any more is a note, of which the words stand there.
        heard = {} if sound["kind"] == "note" else sound
        return heard | text_piece(part["text"])
    label = label_of(part)
    if medium_of(part) is None:
        return note(f"[{label}]")
    try:
        mime, data = preview(part)
    except MediaError as error:
        return note(f"[{label} cannot be shown: {error}]")
    seen = {"kind": kind, "mime": mime, "data": data, "label": label, "width": SHOWN_WIDTH[kind]}
    return seen | {"enlarged": enlargement(part)}


def part_shown(pieces: list[Piece], at: int, content: list[Part]) -> Part:
    """The part of a message that a piece of its bubble shows, of a text the sound of its words. IndexError if there is none."""
    kinds = [piece["kind"] for piece in pieces[: at + 1]]
    of_kind = [part for part in content if part["type"] == kinds[-1]]
    part = of_kind[kinds.count(kinds[-1]) - 1]
    return sound_part(part) or part


def _making(kind: str, event: MediaProgress | None = None) -> Piece:
    """The placeholder of a medium that is being made."""
    piece: Piece = {"kind": "making", "medium": kind, "text": MAKING[kind]}
    if event is None:
        return piece
    piece |= {"done": event.done, "total": event.total}
    if event.preview is not None:
        file = io.BytesIO()
        event.preview.save(file, "JPEG")
        piece |= {"mime": "image/jpeg", "data": file.getvalue()}
    return piece


class Reply:
    """The pieces of a reply while its events arrive; `changed` are the numbers of those to be drawn anew."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = [{"kind": "dots"}]
        self.changed: set[int] = set()
        self._reply = PartialReply()
        self._shown: dict[int, int] = {}  # which piece shows which part of the reply

    def take(self, event: Event) -> str:
        """Takes an event in; returns what the status line is to say."""
        self._reply.take(event)
        parts = self._reply.parts
        match event:
            case TextDelta():
                if text := parts[-1]["text"].lstrip():
                    self._show(len(parts) - 1, text_piece(text))
            case MediaStarted(index=index, kind=kind):
                self._show(index, _making(kind))
            case MediaProgress(index=index):
                kind = parts[index]["type"]
                self._show(index, _making(kind, event))
                return MAKING[kind]
            case Spoken():
                return "reading aloud"  # what was said is shown when the reply has ended: a player that plays is left alone
            case MediaReady(index=index, part=part):
                self._show(index, piece_of(part))
                return remark(event)
            case MediaFailed(index=index, error=error):
                self._show(index, problem(error))
            case TurnsDropped() | Voiceless():
                self._add(note(remark(event)))
            case Loading():
                return remark(event)
            case Done(finish_reason=reason):
                self.finish(reason)
                return reason
        return "writing"

    def finish(self, reason: str) -> None:
        """Ends the reply: what is still unfinished is called so, and a reason worth telling is told."""
        self._give_up("not made")
        self._show_what_was_said()
        if reason in _REASON:
            self._add(note(_REASON[reason]))
        elif all(piece["kind"] in ("dots", "note") for piece in self.pieces):
            self._add(note(_SILENT))

    def fail(self, error: BaseException) -> None:
        """Ends the reply with an error."""
        self._give_up("not made")
        self._show_what_was_said()
        self._add(problem(error))

    def _show_what_was_said(self) -> None:
        for index, part in enumerate(self._reply.parts):
            if sound_part(part):
                self._show(index, piece_of({**part, "text": part["text"].lstrip()}))

    def _show(self, part: int, piece: Piece) -> None:
        """Has a piece show a part of the reply, in place of the one that did."""
        if part in self._shown:
            self._put(self._shown[part], piece)
        else:
            self._shown[part] = self._add(piece)

    def _add(self, piece: Piece) -> int:
        """Puts a piece at the end, in place of the dots if there is nothing else."""
        if self.pieces[-1]["kind"] == "dots":
            self.pieces.pop()
        self.pieces.append(piece)
        self.changed.add(len(self.pieces) - 1)
        return len(self.pieces) - 1

    def _put(self, at: int, piece: Piece) -> None:
        self.pieces[at] = piece
        self.changed.add(at)

    def _give_up(self, why: str) -> None:
        for at, piece in enumerate(self.pieces):
            if piece["kind"] == "making":
                self._put(at, note(f"{piece['medium']} {why}"))


class Reading(Reply):
    """The pieces of a message that stands, while it is read aloud."""

    def __init__(self, pieces: list[Piece]):
        super().__init__()
        self.pieces = pieces

    def take(self, event: Event) -> str:
        """Has the texts show, once all is said, the sound of their words."""
        if isinstance(event, Done):
            texts = [at for at, piece in enumerate(self.pieces) if piece["kind"] == "text"]
            parts = [part for part in event.message["content"] if part["type"] == "text"]
            for at, part in zip(texts, parts, strict=False):
                self._put(at, piece_of(part))
        return "reading aloud"


def worth_drawing(events: Events, reply: Reply) -> Iterator[tuple[Event, str]]:
    """Has the reply take its events in; yields those after which a page is drawn anew, with what its status line says.

    Text alone is drawn no more often than every REDRAW_SECONDS: what comes in between is drawn with what follows.
    """
    drawn = 0.0
    for event in events:
        status = reply.take(event)
        if not isinstance(event, TextDelta) or time.monotonic() - drawn > REDRAW_SECONDS:
            yield event, status
            drawn = time.monotonic()
