"""Turns on the screen: boxes of HTML pieces, one for every text and medium, that grow while a reply is drawn.

A piece is redrawn in place, at most ten times a second and only while it changes: a finished picture or player is sent
to the page once.
"""

from __future__ import annotations

import time

import ipywidgets as widgets

from anytoany_lib.generation import Event, MediaProgress, MediaReady, MediaStarted, TextDelta
from anytoany_lib.rendering import ICON, MAKING, making_html, medium_html, note_html, text_html

REDRAW_SECONDS = 0.1
_REASON = {"stopped": "stopped", "length": "cut at the length limit"}


class Bubble:
    """One turn on the screen. Pieces of HTML are added in order and redrawn in place, at a bounded rate."""

    def __init__(self, role: str):
        self.box = widgets.VBox()
        self.box.add_class("a2a-bubble")
        self.box.add_class("a2a-user" if role == "user" else "a2a-model")
        self._waiting: dict[widgets.HTML, str] = {}
        self._drawn = 0.0

    def add(self, text: str) -> widgets.HTML:
        piece = widgets.HTML(text)
        self.box.children = (*self.box.children, piece)
        return piece

    def draw(self, piece: widgets.HTML, text: str, at_once: bool = False) -> None:
        self._waiting[piece] = text
        if at_once or time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self.flush()

    def flush(self) -> None:
        for piece, text in self._waiting.items():
            piece.value = text
        self._waiting.clear()
        self._drawn = time.monotonic()


class ReplyBubble(Bubble):
    """A reply that grows: text as it comes, a placeholder for each medium until it is ready."""

    def __init__(self):
        super().__init__("assistant")
        self._text, self._text_piece = "", None
        self._media: dict[int, tuple[str, widgets.HTML]] = {}
        self._unfinished: set[int] = set()
        self._empty = self.add('<span class="a2a-dots" aria-label="waiting">•••</span>')

    def take(self, event: Event) -> str:
        """Draws an event; returns what the status line is to say."""
        if isinstance(event, TextDelta):
            self._write(event.text)
            return "writing"
        if isinstance(event, MediaStarted):
            self._begin(event.index, event.kind)
            return "writing"
        if isinstance(event, MediaProgress):
            kind, piece = self._media[event.index]
            self.draw(piece, making_html(kind, event.done, event.total))
            return MAKING[kind]
        if isinstance(event, MediaReady):
            kind, piece = self._media[event.index]
            self._unfinished.discard(event.index)
            self.draw(piece, medium_html(event.part), at_once=True)
            return f"{kind} ready"
        self.finish(event.finish_reason, bool(event.message["content"]))
        return event.finish_reason

    def _no_longer_empty(self) -> None:
        if self._empty is not None:
            self.box.children, self._empty = (), None

    def _write(self, delta: str) -> None:
        self._no_longer_empty()
        if self._text_piece is None:
            self._text, self._text_piece = "", self.add("")
        self._text += delta
        self.draw(self._text_piece, text_html(self._text.strip()))

    def _begin(self, index: int, kind: str) -> None:
        self._no_longer_empty()
        self.flush()
        self._text_piece = None
        self._media[index] = (kind, self.add(making_html(kind)))
        self._unfinished.add(index)

    def _give_up_unfinished(self, why: str) -> None:
        for index in self._unfinished:
            kind, piece = self._media[index]
            self.draw(piece, note_html(f"{ICON[kind]} {kind} {why}"))
        self._unfinished.clear()
        self.flush()

    def finish(self, reason: str, said_something: bool = True) -> None:
        """Ends the bubble: what is still unfinished is called so, and a reason worth telling is told."""
        self._no_longer_empty()
        self._give_up_unfinished("not made")
        if reason in _REASON:
            self.add(note_html(_REASON[reason]))
        elif not said_something:
            self.add(note_html("the model ended its turn without saying anything"))

    def fail(self, error: BaseException) -> None:
        self._no_longer_empty()
        self._give_up_unfinished("failed")
        self.add(note_html(f"⚠ {type(error).__name__}: {error}", "a2a-error"))
