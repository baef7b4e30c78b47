"""Events of a reply, in the order in which they happen, and the reply that grows by them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from PIL import Image

from anytoany_lib.messages import Message, Part
from anytoany_lib.modalities import ALOUD


@dataclass(frozen=True)
class TurnsDropped:
    """The first event where the history was too long: its oldest `count` messages were not read."""

    count: int


@dataclass(frozen=True)
class Loading:
    """A frozen model is about to be loaded: the "encoder", or the decoder of "image", "audio" or "video"."""

    what: str


@dataclass(frozen=True)
class TextDelta:
    """More of the reply's text."""

    text: str


@dataclass(frozen=True)
class AloudStarted:
    """The text that comes next is a part of its own, whose words the model wants said."""

    index: int
    """Place of the text among the reply's parts."""


@dataclass(frozen=True)
class MediaStarted:
    """The reply has a medium, which is made when its text has ended."""

    index: int
    """Place of the medium among the reply's parts."""
    kind: str


@dataclass(frozen=True)
class MediaProgress:
    """A diffusion step of a medium is done."""

    index: int
    done: int
    total: int
    preview: Image.Image | None = None
    """What a picture looks like so far, in its own size."""


@dataclass(frozen=True)
class MediaReady:
    """A medium is made: the reply's part with it."""

    index: int
    part: Part


@dataclass(frozen=True)
class MediaFailed:
    """A medium that could not be made: the reply goes on without it."""

    index: int
    error: Exception


@dataclass(frozen=True)
class Voiceless:
    """The model wanted words said, and there is no voice; they stand as text."""

    reason: str
    """What is missing, and how to get it."""


@dataclass(frozen=True)
class Done:
    """The last event: the whole reply, and why it ended."""

    message: Message
    finish_reason: str
    """ "stop", "length" if the reply was cut at its limit, "stopped" if it was stopped before its end."""


Event = (
    TurnsDropped
    | Loading
    | TextDelta
    | AloudStarted
    | MediaStarted
    | MediaProgress
    | MediaReady
    | MediaFailed
    | Voiceless
    | Done
)
Events = Generator[Event, None, None]


@dataclass
class PartialReply:
    """A reply while it comes: its parts so far, of which a medium may still be without its content.

    `decoding.Draft` is one that is drawn; any other grows by the events that it takes.
    """

    parts: list[Part] = field(default_factory=list)

    def text_part(self) -> Part:
        """The text that is being written: the last part, a new one behind a medium."""
        if not self.parts or self.parts[-1]["type"] != "text":
            self.parts.append({"type": "text", "text": ""})
        return self.parts[-1]

    def begin(self, part: Part, index: int) -> None:
        """Puts a new part in its place."""
        if len(self.parts) < index:  # the text before it came to nothing, and had no event
            self.parts.append({"type": "text", "text": ""})
        self.parts.append(part)

    def take(self, event: Event) -> None:
        """Adds what an event brings: text grows, a medium gets its place and later its content."""
        match event:
            case TextDelta(text=text):
                self.text_part()["text"] += text
            case AloudStarted(index=index):
                self.begin(said_part(), index)
            case MediaStarted(index=index, kind=kind):
                self.begin({"type": kind}, index)
            case MediaReady(index=index, part=part):
                self.parts[index].update(part)

    def text(self) -> str:
        """The words of the reply, without its media."""
        return " ".join(part["text"].strip() for part in self.parts if part["type"] == "text")

    def message(self) -> Message:
        """The reply as an assistant message: without outer blanks, empty text, and media that were not made."""
        whole = [
            without_condition(part)
            for part in self.parts
            if (part["text"].strip() if part["type"] == "text" else part["type"] in part)
        ]
        # Blanks around media are kept: the next turn then reads the tokens that were drawn.
        for part, strip in [(whole[0], str.lstrip), (whole[-1], str.rstrip)] if whole else []:
            if part["type"] == "text":
                part["text"] = strip(part["text"])
        return {"role": "assistant", "content": whole}


def said_part() -> Part:
    """A text part, still without words, of those that are to be said."""
    return {"type": "text", "text": "", ALOUD: True}


def without_condition(part: Part) -> Part:
    """A copy of a part as a message holds it."""
    return {key: value for key, value in part.items() if key != "condition"}
