"""Turns: what a record of any published form says, and who says it.

ShareGPT and LLaVA (`conversations`), chat messages, Alpaca and other pairs of question and answer, VideoChat's `QA`, and
`texts` of pairs all become turns of a system, a user and an assistant; each keeps what else was said beside its text.
"""

import re
from dataclasses import dataclass
from typing import Any

from anytoany_lib.data.formats.media_references import Unusable, is_text
from anytoany_lib.media.file_types import kind_by_name

Record = dict[str, Any]


@dataclass
class Turn:
    """One turn: its role, its content (text, or a list of parts), and the record of it."""

    role: str
    content: str | list[Any]
    record: Record


_TALKS = ("conversations", "conversation", "messages", "dialog")
_PERHAPS_TALKS = ("dialogue", "dialogs", "turns", "chat", "texts")  # or anything else
_SPEAKER_KEYS = ("from", "role", "speaker", "author")
_TEXT_KEYS = ("value", "content", "text", "message", "utterance")
_SYSTEM_KEYS = ("system", "system_prompt", "system_message", "system_instruction")
# Of a record that is one question and its answer: keys of the question, of the answer, and of what comes before.
_PAIRS = [
    (("instruction", "input"), ("output", "response")),
    (("query",), ("response",)),
    (("prompt",), ("response", "completion", "output", "answer")),
    (("question",), ("answer", "response", "output")),
    (("input",), ("output",)),
]
_ROLES = {
    "user": "human user usr prompter client customer question instruction q",
    "assistant": "gpt assistant chatgpt bot model ai llm agent bard claude gemini answer response a",
    "system": "system sys systemprompt developer",
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names.split()}


def turns_of(record: Record) -> tuple[list[Turn], set[str]]:
    """A record's turns in order, a system's first, and the keys they were read from. Unusable without any, or if one is broken."""
    turns, keys = _spoken(record)
    for key in _SYSTEM_KEYS:
        if is_text(record.get(key)) and record[key].strip():
            turns.insert(0, Turn("system", record[key], {}))
            keys.add(key)
            break
    return turns, keys


def _spoken(record: Record) -> tuple[list[Turn], set[str]]:
    for key in (*_TALKS, *_PERHAPS_TALKS):
        talk = record.get(key)
        if not isinstance(talk, list) or not talk:
            continue
        if key in _TALKS or all(isinstance(one, dict) for one in talk):
            return [turn for one in talk for turn in _turns(one)], {key}
    if isinstance(record.get("QA"), list):
        pairs = [one for one in record["QA"] if isinstance(one, dict)]
        return [turn for qa in pairs for turn in _pair(_joined(qa, "i", "q"), qa.get("a"))], {"QA"}
    for asked, answers in _PAIRS:
        answer = next((key for key in answers if key in record), None)
        if answer and asked[0] in record and not isinstance(record[answer], list | dict):
            # {"input": "a.wav"} is no text to be asked about, but the sound.
            asked = tuple(key for key in asked if not _is_medium(record.get(key)))
            history = record.get("history")
            said = history if isinstance(history, list) else []
            before = [turn for one in said for turn in _turns(one)]
            asked_now = _pair(_joined(record, *asked), record[answer])
            return before + asked_now, {*asked, answer, "history"}
    raise Unusable("no conversation")


def _is_medium(value: Any) -> bool:
    """Whether a text is the name of a medium's file and nothing else."""
    return is_text(value) and len(value.split()) == 1 and kind_by_name(value.strip()) is not None


def _turns(one: Any) -> list[Turn]:
    """The turns that an item of a list of turns is: one, or a question with its answer."""
    if isinstance(one, list | tuple) and len(one) == 2:
        return _pair(*one)
    if not isinstance(one, dict):
        raise Unusable("a turn is no record")
    if one.keys().isdisjoint(_SPEAKER_KEYS):
        pair = {_ROLE_OF[key]: text for key, text in one.items() if key in _ROLE_OF}
        if {"user", "assistant"} <= set(pair):
            return _pair(pair["user"], pair["assistant"])
    return [Turn(_role_of(one), _content(one), one)]


def _pair(question: Any, answer: Any) -> list[Turn]:
    return [
        Turn(role, _checked(text), {})
        for role, text in zip(("user", "assistant"), (question, answer), strict=True)
    ]


def _role_of(turn: Record) -> str:
    for key in _SPEAKER_KEYS:
        if is_text(speaker := turn.get(key)):
            break
    else:
        raise Unusable("a turn has no speaker")
    role = _ROLE_OF.get(speaker) or _ROLE_OF.get(re.sub("[^a-z]", "", speaker.lower()))
    if role is None:
        raise Unusable(f"role {speaker[:40]!r} is none of system, user, assistant")
    return role


def _content(turn: Record) -> str | list[Any]:
    for key in _TEXT_KEYS:
        if key in turn:
            return _checked(turn[key])
    raise Unusable("a turn is not text")


def _checked(content: Any) -> str | list[Any]:
    if not is_text(content) and not isinstance(content, list):
        raise Unusable("a turn is not text")
    return content


def beside(turn: Record) -> Record:
    """What a turn's record holds beside its speaker and its text."""
    if len(turn) <= 2:
        return {}  # a speaker and a text, or nothing
    text = next((key for key in _TEXT_KEYS if key in turn), None)
    return {key: one for key, one in turn.items() if key != text and key not in _SPEAKER_KEYS}


def _joined(record: Record, *keys: str) -> str:
    """The texts under the keys, a line each; those that are absent or empty are left out."""
    texts = [record[key] for key in keys if record.get(key)]
    if not all(map(is_text, texts)):
        raise Unusable("a turn is not text")
    return "\n".join(texts)
