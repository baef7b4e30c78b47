"""Conversations as typed parts, and their translation to token ids, labels and places for media.

The new tokens (media wrappers and signals) have ids above the LLM's own vocabulary and never pass through its
tokenizer, so nothing that a user types can become one. The chat template is rendered once with a marker for every
message's content; the text around the markers is template (its special tokens count), the contents are data (theirs
do not).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anytoany_lib.config import Profile
from anytoany_lib.gates import templates
from anytoany_lib.modalities import ALOUD, MODALITIES, SAY, SHOWN_KINDS, TOKEN_ORDER
from anytoany_lib.tokenizer.pieces import Apart, Joined, Piece, Tokenizer
from anytoany_lib.tokenizer.sentencepiece_legacy import LegacyTokenizer

IGNORED = -100
ROLES = ("system", "user", "assistant")
_MARKER = re.compile("\ue000(\\d+)\ue001")
MARK = re.compile(r"<\|[^|<>\s]+\|>")  # how special tokens are written in templates

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
        if kind not in (known := ("text", *SHOWN_KINDS)):
            raise ValueError(
                f"{where}, part {number}: type {kind!r} is not one of {', '.join(known)}"
            )
        if kind == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"{where}, part {number}: a text part needs its text under 'text'")
        if not isinstance(part.get(ALOUD, False), bool):
            raise ValueError(f"{where}, part {number}: {ALOUD!r} is true or false")
        if kind != "text" and part.get(kind) is None and message["role"] != "assistant":
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
    """Ids of the new tokens, counted up from the LLM's vocabulary in the order of 7b_tiva_v0.

    `say` stands before words of a reply that are to be said aloud, None where the profile has no such signal. It is the last one,
    so that the others have the ids that they have without it.
    """

    base_size: int
    names: tuple[str, ...]
    wrappers: tuple[int, int]
    signals: dict[str, tuple[int, ...]]
    say: int | None = None

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
        say = base_size + len(names) if profile.speech.signal else None
        names += [SAY] if profile.speech.signal else []
        return cls(base_size, tuple(names), (base_size, base_size + 1), signals, say)

    def __len__(self) -> int:
        return self.base_size + len(self.names)

    def kind_started_by(self, token: int) -> str | None:
        """The kind of medium whose block of signals starts with this token."""
        return next((kind for kind, block in self.signals.items() if token == block[0]), None)


@dataclass
class Encoded:
    """One conversation as the LLM reads it.

    ids and labels have the same length T; labels are IGNORED where nothing is learnt. `media` lists (kind, medium,
    position of its first soft token), `signals` lists (kind, caption, position of its first signal token), and `target_media`
    for each of those the medium that is to be generated, None where the conversation has only its caption. `plain` says that
    the answer is one that the untouched LLM would give.
    """

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    media: list[tuple[str, Any, int]] = field(default_factory=list)
    signals: list[tuple[str, str, int]] = field(default_factory=list)
    target_media: list[Any] = field(default_factory=list)
    plain: bool = False

    def add(self, ids: list[int], learnt: bool) -> None:
        """Appends tokens, which are `learnt` or only read."""
        self.ids += ids
        self.labels += ids if learnt else [IGNORED] * len(ids)


class TooLong(ValueError):
    """The newest turn of a conversation does not fit into the room there is."""


class MessageEncoder:
    """Turns conversations into `Encoded`, by the profile's chat template and token layout.

    `stop` is the end mark as it is learnt behind words; `stops` has every way in which it is learnt.
    """

    def __init__(self, tokenizer: Tokenizer, profile: Profile, vocabulary: Vocabulary):
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.template = profile.llm.chat_template
        self.soft_tokens, self.kinds = profile.encoder.soft_tokens, profile.encoder.kinds
        self.context = profile.llm.context
        where = f"profile {profile.name}, tokenizer in {profile.llm.folder}"
        _check_words(tokenizer, vocabulary, where)
        if self.template is None and not tokenizer.chat_template:
            raise ValueError(f"{where}: it has no chat template; set llm.chat_template")
        self._opening = self._fragments(["user"], prompt=True)[-1]
        self._learns_all = self._check_prompts(where)
        _, tail = self._fragments(["user", "assistant"], prompt=False)[-2:]
        self.stop_text = tail.strip()
        if not self.stop_text:
            raise ValueError(f"{where}: the chat template does not end an assistant turn")
        self._text: Apart | Joined
        if isinstance(tokenizer, LegacyTokenizer):
            self._text = Joined(tokenizer, tail.rstrip(), profile.llm.published_demo)
        else:
            _check_marks(tokenizer, self._opening + tail, where)
            self._text = Apart(tokenizer, tail.rstrip())
        self.stop, self.stops = self._text.stop, self._text.stops
        self.text_ids, self.inner_ids = self._text.text_ids, self._text.inner_ids

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

    def _check_prompts(self, where: str) -> bool:
        """Raises ValueError, which shows both, if a prompt is not how the conversation that is learnt begins.

        Returns whether that goes for earlier replies of a conversation as well, so that all are learnt at once.
        """
        for roles in (["user"], ["user", "assistant", "user"]):
            prompt = "{}".join(self._fragments(roles, prompt=True))
            learnt = "{}".join(self._fragments([*roles, "assistant"], prompt=False))
            if not learnt.startswith(prompt):
                raise ValueError(
                    f"{where}: with the chat template, replies would be learnt behind another text than they are asked for "
                    f"with. The prompt is {prompt!r}, the conversation that is learnt {learnt!r}: it has to begin with the "
                    "prompt; correct llm.chat_template"
                )
        return learnt.startswith("{}".join(self._fragments(["user"], prompt=True)))

    def _pieces(self, messages: list[Message], prompt: bool) -> Iterator[Piece]:
        """A conversation as pieces: the template's text, what is written, and media where they stand."""
        contents = check(messages)
        roles = [message["role"] for message in messages]
        for role, parts in zip(roles, contents, strict=True):
            self._check_makeable(role, parts)
        fragments = self._fragments(roles, prompt)
        prompted = [self._prompted(roles, n, fragments[n]) for n in range(len(roles))]
        yield Piece(fragments[0])
        for n, (role, parts, fragment) in enumerate(
            zip(roles, contents, fragments[1:], strict=True)
        ):
            learnt = role == "assistant" and prompted[n]
            for number, part in enumerate(parts):
                text, medium = (part["text"], None) if part["type"] == "text" else ("", part)
                shown = medium is not None and role != "assistant"
                said = role == "assistant" and part.get(ALOUD) and self.vocabulary.say is not None
                if said:
                    yield Piece("", part, False, True, learnt, begins=number == 0)
                yield Piece(text, medium, shown, True, learnt, begins=number == 0 and not said)
            follows = roles[n + 1 : n + 2] == ["assistant"] and role == "user" and prompted[n + 1]
            tail = self._opening if follows else fragment
            yield Piece(tail, ends=learnt, begins=not parts)
            # What a template puts between prompt and reply is drawn in a chat, so it is learnt with the reply.
            yield Piece(fragment[len(tail) :], learnt=True)

    def _prompted(self, roles: list[str], n: int, before: str) -> bool:
        """Whether message n is read here behind what a prompt for it ends with, as far as the message before it is a user's.

        Templates that leave out of the history what stood before a reply show it as nobody will ask for it: not to be learnt.
        """
        return not n or roles[n - 1] != "user" or before.startswith(self._opening)

    def as_learnt(self, messages: list[Message], rng: np.random.Generator) -> list[Message]:
        """A conversation as it is shown to learn from: whole if all of its replies can be learnt at once, else up to one of them.

        Templates that show earlier replies in another way than they were asked for, as Qwen3's, let only the last be learnt.
        """
        ends = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if self._learns_all or len(ends) < 2:
            return messages
        return messages[: int(rng.choice(ends)) + 1]

    def _add_medium(self, encoded: Encoded, piece: Piece) -> None:
        part = piece.part or {}
        kind, at = part["type"], len(encoded.ids)
        if piece.shown:
            opening, closing = self.vocabulary.wrappers
            encoded.media.append((kind, medium_of(part), at + 1))
            encoded.add([opening] * (1 + self.soft_tokens) + [closing], learnt=False)
            return
        if kind == "text" and self.vocabulary.say is not None:
            encoded.add([self.vocabulary.say], piece.learnt)
            return
        block = list(self.vocabulary.signals[kind])
        if piece.learnt:
            encoded.signals.append((kind, part.get("caption", ""), at))
            encoded.target_media.append(part.get(kind))
        # Only the choice of a medium is learnt: the rest of its block is appended, never sampled.
        encoded.add(block[:1], learnt=piece.learnt)
        encoded.add(block[1:], learnt=False)

    def _check_makeable(self, role: str, parts: list[Part]) -> None:
        """Raises ValueError if the profile has no decoder for a medium of a reply, or shows its encoder none of a message's kind."""
        known = self.vocabulary.signals if role == "assistant" else self.kinds
        does = "generates" if role == "assistant" else "shows its encoder (encoder.kinds)"
        for part in parts:
            if part["type"] not in ("text", *known):
                raise ValueError(f"the profile {does} {', '.join(known)}, not {part['type']}")

    def _encode(self, messages: list[Message], prompt: bool) -> tuple[Encoded, list[int]]:
        """The whole conversation, and where in it each message begins; the last number is where it ends."""
        encoded, bounds = Encoded(), []
        begun: Piece | None = None
        for piece, ids, learnt in self._text.write(list(self._pieces(messages, prompt)), prompt):
            if piece.begins and piece is not begun:
                bounds.append(len(encoded.ids))
                begun = piece
            if piece.part is not None:
                self._add_medium(encoded, piece)
            encoded.add(ids, learnt)
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


def _check_words(tokenizer: Tokenizer, vocabulary: Vocabulary, where: str) -> None:
    """Raises ValueError if words have ids that are those of new tokens."""
    words = 1 + max(tokenizer.get_vocab().values())
    if words > vocabulary.base_size:
        raise ValueError(
            f"{where}: it knows {words} words, but the embedding has {vocabulary.base_size} rows that count: typed words would be "
            "read as signals. Take the tokenizer of this language model, or correct llm.vocabulary"
        )


def _check_marks(tokenizer: Tokenizer, template: str, where: str) -> None:
    """Raises ValueError if what looks like a special token in the template's text is none: then anybody could type it."""
    known = tokenizer.get_vocab()
    if odd := sorted(set(MARK.findall(template)) - known.keys()):
        raise ValueError(
            f"{where}: the chat template writes {', '.join(odd)}, which the tokenizer does not know as a token: they belong to "
            "different models; take the template of this one (llm.chat_template), or its tokenizer"
        )
