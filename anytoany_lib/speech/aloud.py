"""Replies read aloud while they come: events in, the same events out with `Spoken` ones between, a sentence each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from anytoany_lib.generation.events import (
    AloudStarted,
    Done,
    Event,
    Events,
    MediaReady,
    PartialReply,
    TextDelta,
    Voiceless,
)
from anytoany_lib.messages import Message
from anytoany_lib.modalities import ALOUD, SPEECH
from anytoany_lib.speech.sentences import sentences
from anytoany_lib.speech.spoken_parts import Sound, joined, with_sounds

Say = Callable[[str], Sound]
_SHORTEST = 0.05  # seconds: less is no sound


@dataclass(frozen=True)
class Spoken(MediaReady):
    """A sentence of a reply is said. `part` has the sound of its text part's words so far, for those that show the whole."""

    sentence: str
    sound: Sound
    """Of this sentence alone, for those that play it at once."""


class _Reader:
    """Says the text parts of a reply, each sentence once."""

    def __init__(self, say: Say, stopping: Callable[[], bool]):
        self._say, self._stopping = say, stopping
        self._read: dict[int, int] = {}  # characters of a part that were read, by its number
        self.sounds: dict[int, list[Sound]] = {}

    def read(self, index: int, text: str, ended: bool) -> Iterator[Spoken]:
        """Says the sentences of a part that are whole and were not said yet, until it is stopped."""
        found, self._read[index] = sentences(text, self._read.get(index, 0), ended)
        for sentence in found:
            if self._stopping():
                return
            sound = self._say(sentence)
            if len(sound[0]) >= _SHORTEST * sound[1]:
                said = self.sounds.setdefault(index, [])
                said.append(sound)
                yield Spoken(index, {"type": "text", SPEECH: joined(said)}, sentence, sound)

    def sound(self, index: int) -> Sound | None:
        """All that was said of a part."""
        return joined(self.sounds[index]) if index in self.sounds else None


def read_aloud(
    events: Events, say: Say, stopping: Callable[[], bool], all_parts: bool = True
) -> Events:
    """The events of a reply, whose words are said as soon as a sentence is whole; its message has their sounds beside the words.

    Unless `all_parts` those alone that the model wants said. Once `stopping()` no further sentence is said. What `say` raises
    comes through.
    """
    reader, reply = _Reader(say, stopping), PartialReply()
    try:
        for event in events:
            reply.take(event)
            done = isinstance(event, Done)
            if not done:
                yield event
            yield from _read_parts(reader, reply, event, all_parts)
            if isinstance(event, Done):
                yield replace(event, message=_with_sounds(event.message, reply, reader))
    finally:
        events.close()


def without_voice(events: Events, reason: str) -> Events:
    """The events of a reply where there is no voice, `reason` is why: if the model wants words said, a `Voiceless` before the last."""
    wanted = False
    try:
        for event in events:
            wanted |= isinstance(event, AloudStarted)
            if wanted and isinstance(event, Done):
                yield Voiceless(reason)
            yield event
    finally:
        events.close()


def _read_parts(
    reader: _Reader, reply: PartialReply, event: Event, all_parts: bool
) -> Iterator[Spoken]:
    """What an event has made whole: a sentence, or, if it brings no more text, all text so far."""
    growing = isinstance(event, TextDelta)
    for index, part in enumerate(reply.parts):
        if part["type"] == "text" and (all_parts or part.get(ALOUD)):
            last = index == len(reply.parts) - 1
            yield from reader.read(index, part["text"], not (growing and last))


def _with_sounds(message: Message, reply: PartialReply, reader: _Reader) -> Message:
    """The message of a reply with its sounds; a text of blanks alone, which has none, is not in the message."""
    sounds = [
        reader.sound(index)
        for index, part in enumerate(reply.parts)
        if part["type"] == "text" and part["text"].strip()
    ]
    return with_sounds(message, sounds)


def say_message(message: Message, say: Say, stopping: Callable[[], bool]) -> Iterator[Spoken]:
    """Says the words of a message that stands, sentence by sentence; an event's index is the place of its part in it."""
    reader = _Reader(say, stopping)
    for index, part in enumerate(message["content"]):
        if part["type"] == "text":
            yield from reader.read(index, part["text"], ended=True)
