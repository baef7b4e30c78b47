"""Conversations as typed parts, and their translation to token ids, labels and places for media.

The new tokens (media wrappers and signals) have ids above the LLM's own vocabulary and never pass through its
tokenizer, so nothing that a user types can become one. The chat template is rendered once with a marker for every
message's content; the text around the markers is template (its special tokens count), the contents are data (theirs
do not).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from anytoany_lib import templates
from anytoany_lib.config import Profile
from anytoany_lib.modalities import KINDS, MEDIA_KINDS, MODALITIES, TOKEN_ORDER

IGNORED = -100
ROLES = ("system", "user", "assistant")
_MARKER = re.compile("\ue000(\\d+)\ue001")

Message = dict[str, Any]
Part = dict[str, Any]


def parts_of(message: Message, where: str = "message") -> list[Part]:
    """A message's content as a list of parts; a plain string is one text part.

    Raises ValueError saying what was expected if the role, a part's type or its payload is wrong.
    """
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise ValueError(
            f"{where}: expected a dict with 'role' and 'content', found {message!r:.120}"
        )
    if message["role"] not in ROLES:
        raise ValueError(f"{where}: role {message['role']!r} is not one of {', '.join(ROLES)}")
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError(
            f"{where}: content must be text or a list of parts, found {type(content).__name__}"
        )
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in KINDS:
            raise ValueError(
                f"{where}, part {number}: type {kind!r} is not one of {', '.join(KINDS)}"
            )
        if kind == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"{where}, part {number}: a text part needs its text under 'text'")
        if kind in MEDIA_KINDS and part.get(kind) is None and message["role"] != "assistant":
            raise ValueError(
                f"{where}, part {number}: a part of type {kind} needs its medium under {kind!r}"
            )
    return content


def medium_of(part: Part) -> Any:
    """A part's medium as `media` takes it: a path, a PIL.Image, (samples, rate), frames or (frames, fps).

    Replies keep rate and fps beside the medium, which a file knows itself; None if the part has a caption only.
    """
    kind = part["type"]
    medium = part.get(kind)
    beside = part.get(MODALITIES[kind].beside) if kind in MODALITIES else None
    alone = medium is None or beside is None or isinstance(medium, str | Path)
    return medium if alone else (medium, beside)


def check(messages: list[Message]) -> list[list[Part]]:
    """The parts of every message of a conversation, checked."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("a conversation is a list with at least one message")
    return [parts_of(message, f"message {number}") for number, message in enumerate(messages)]


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the new tokens, counted up from the LLM's vocabulary in the order of 7b_tiva_v0."""

    base_size: int
    names: tuple[str, ...]
    wrappers: tuple[int, int]
    signals: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, base_size: int, profile: Profile) -> Vocabulary:
        """The new tokens of a profile, behind the `base_size` rows of the LLM's own embedding."""
        names = list(profile.wrappers)
        signals = {}
        for kind in TOKEN_ORDER:
            if kind in profile.decoders:
                first = base_size + len(names)
                count = profile.decoders[kind].signals
                signals[kind] = tuple(range(first, first + count))
                names += [MODALITIES[kind].signal.format(k) for k in range(count)]
        return cls(base_size, tuple(names), (base_size, base_size + 1), signals)

    def __len__(self) -> int:
        return self.base_size + len(self.names)

    def kind_started_by(self, token: int) -> str | None:
        """The kind of medium whose block of signals starts with this token."""
        return next((kind for kind, block in self.signals.items() if token == block[0]), None)


@dataclass
class Encoded:
    """One conversation as the LLM reads it.

    ids and labels have the same length T; labels are IGNORED where nothing is learnt. `media` lists (kind, medium,
    position of its first soft token), `signals` lists (kind, caption, position of its first signal token), and `made`
    for each of those the medium that was to be generated, None where the conversation has only its caption.
    """

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    media: list[tuple[str, Any, int]] = field(default_factory=list)
    signals: list[tuple[str, str, int]] = field(default_factory=list)
    made: list[Any] = field(default_factory=list)

    def add(self, ids: list[int], learnt: bool) -> None:
        """Appends tokens, which are `learnt` or only read."""
        self.ids += ids
        self.labels += ids if learnt else [IGNORED] * len(ids)


class TooLong(ValueError):
    """The newest turn of a conversation does not fit into the room there is."""


class MessageEncoder:
    """Turns conversations into `Encoded`, by the profile's chat template and token layout."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, profile: Profile, vocabulary: Vocabulary
    ):
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.template = profile.llm.chat_template
        self.soft_tokens = profile.encoder.soft_tokens
        self.context = profile.llm.context
        if self.template is None and not tokenizer.chat_template:
            raise ValueError(
                f"profile {profile.name}: the tokenizer in {profile.llm.folder} has no chat template; "
                "set llm.chat_template in the profile"
            )
        _, tail = self._fragments(["user", "assistant"], prompt=False)[-2:]
        self.stop, self.stop_text = self._template_ids(tail.rstrip()), tail.strip()
        if not self.stop:
            raise ValueError(
                f"profile {profile.name}: the chat template does not end an assistant turn"
            )

    def _fragments(self, roles: list[str], prompt: bool) -> list[str]:
        """The template's own text before, between and after the contents: len(roles) + 1 strings."""
        marked = [{"role": role, "content": f"\ue000{n}\ue001"} for n, role in enumerate(roles)]
        rendered = templates.render(self.tokenizer, self.template, marked, prompt)
        pieces = _MARKER.split(rendered)
        if pieces[1::2] != [str(n) for n in range(len(roles))]:
            raise ValueError(
                f"the chat template does not show the messages {roles} once each, in order"
            )
        return pieces[::2]

    def _template_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def text_ids(self, text: str) -> list[int]:
        """Ids of text that somebody wrote: special tokens in it are read as plain characters."""
        if not text:
            return []
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def _add_part(self, encoded: Encoded, part: Part, role: str) -> None:
        kind = part["type"]
        learnt = role == "assistant"
        if kind == "text":
            encoded.add(self.text_ids(part["text"]), learnt)
        elif learnt:
            block = list(self.vocabulary.signals[kind])
            encoded.signals.append((kind, part.get("caption", ""), len(encoded.ids)))
            encoded.made.append(part.get(kind))
            # Only the choice of a medium is learnt: the rest of its block is appended, never sampled.
            encoded.add(block[:1], learnt=True)
            encoded.add(block[1:], learnt=False)
        else:
            opening, closing = self.vocabulary.wrappers
            encoded.media.append((kind, medium_of(part), len(encoded.ids) + 1))
            encoded.add([opening] * (1 + self.soft_tokens) + [closing], learnt=False)

    def _check_makeable(self, role: str, parts: list[Part]) -> None:
        """Raises ValueError if a reply holds a medium that the profile has no decoder for."""
        for part in parts if role == "assistant" else ():
            if part["type"] != "text" and part["type"] not in self.vocabulary.signals:
                known = ", ".join(self.vocabulary.signals)
                raise ValueError(f"the profile generates {known}, not {part['type']}")

    def _encode(self, messages: list[Message], prompt: bool) -> tuple[Encoded, list[int]]:
        """The whole conversation, and where in it each message begins; the last number is where it ends."""
        contents = check(messages)
        roles = [message["role"] for message in messages]
        for role, parts in zip(roles, contents, strict=True):
            self._check_makeable(role, parts)
        encoded, bounds = Encoded(), []
        fragments = self._fragments(roles, prompt)
        encoded.add(self._template_ids(fragments[0]), learnt=False)
        for role, parts, fragment in zip(roles, contents, fragments[1:], strict=True):
            bounds.append(len(encoded.ids))
            for part in parts:
                self._add_part(encoded, part, role)
            ids = self._template_ids(fragment)
            stop = (
                len(self.stop) if role == "assistant" and ids[: len(self.stop)] == self.stop else 0
            )
            encoded.add(ids[:stop], learnt=True)
            encoded.add(ids[stop:], learnt=False)
        return encoded, [*bounds, len(encoded.ids)]

    def encode(self, messages: list[Message], prompt: bool = False) -> Encoded:
        """The whole conversation; with `prompt` it ends where the assistant is to speak.

        Raises ValueError if a message is malformed or names a medium that the profile has no decoder for.
        """
        return self._encode(messages, prompt)[0]

    def encode_within(
        self, messages: list[Message], limit: int, prompt: bool = False, keep: float = 1.0
    ) -> tuple[Encoded, int]:
        """The conversation cut to `limit` tokens by dropping its oldest turns, and how many messages were dropped.

        When something has to go, turns go until `keep` of the limit is left. What a growing conversation loses follows
        from its beginning alone: with `keep` below 1, its next turns lose the same and no more until the limit is met
        again. A system message stays. Raises TooLong if the newest turn alone does not fit.
        """
        encoded, bounds = self._encode(messages, prompt)
        if bounds[-1] <= limit:
            return encoded, 0
        system = int(messages[0]["role"] == "system")
        later = range(system + 1, len(messages))
        turns = [system, *(n for n in later if messages[n]["role"] == "user")]
        for first in turns[_oldest_kept(bounds, turns, limit, keep) :]:
            encoded = self.encode(messages[:system] + messages[first:], prompt)
            if len(encoded.ids) <= limit:
                return encoded, first - system
        raise TooLong(
            f"the last turn takes {len(encoded.ids)} tokens, more than the {limit} there are room for: "
            "shorten it, ask for a shorter reply, or raise llm.context in the profile"
        )


def _oldest_kept(bounds: list[int], turns: list[int], limit: int, keep: float) -> int:
    """Which turn a conversation begins with after it was cut wherever, turn by turn, it had grown beyond the limit.

    `bounds` says where each message begins and the last one ends, `turns` which messages begin a turn; what is before
    the first turn stays.
    """
    oldest = 0
    # It is read when a turn's user has spoken, and as it stands now.
    for newest, read in [*enumerate(turns), (len(turns) - 1, len(bounds) - 2)]:
        whole = bounds[turns[0]] + bounds[read + 1]
        over = whole - bounds[turns[oldest]] > limit
        while over and oldest < newest:
            oldest += 1
            over = whole - bounds[turns[oldest]] > keep * limit
    return oldest
