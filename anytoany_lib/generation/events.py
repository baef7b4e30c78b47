"""What happens while a reply is drawn, in the order in which whoever shows it gets to know."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from anytoany_lib.messages import Message


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
    part: dict[str, Any]


@dataclass(frozen=True)
class MediaFailed:
    """A medium that could not be made: the reply goes on without it."""

    index: int
    error: Exception


@dataclass(frozen=True)
class Done:
    """The last event: the whole reply, and why it ended."""

    message: Message
    finish_reason: str
    """ "stop", "length" if the reply was cut at its limit, "stopped" if it was told to end."""


Event = (
    TurnsDropped
    | Loading
    | TextDelta
    | MediaStarted
    | MediaProgress
    | MediaReady
    | MediaFailed
    | Done
)
Events = Generator[Event, None, None]
