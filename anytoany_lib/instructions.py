"""Instruction data in its published JSON forms, each record read by its own fields.

Covers LLaVA-Instruct, Alpaca, VideoChat, T2M and MosIT as they are published and as NExT-GPT (legacy and v1.5) prepares
them, and its `*_comprehension.json` and `*_generation.json`. Media stand in the text as `<image>`, `<audio>`, `<video>`,
or by name as `<Image>name</Image>`; legacy records name them beside a turn. Other angle brackets are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from anytoany_lib.modalities import MEDIA_KINDS

Message = dict[str, Any]
Record = dict[str, Any]
_MARK = re.compile(r"<(image|audio|video)>|<(Image|Audio|Video)>([^<>]*)</\2>")
_HALF = re.compile("[\ud800-\udfff]")
_NO_MEDIUM = "00000000000"  # what legacy text-only records call their image
_NAMES = [(kind, key) for kind in MEDIA_KINDS for key in (f"input_{kind}", kind, f"{kind}_name")]
MAX_CAPTION = 4000  # characters: more is a page that was taken for a caption
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


class Unusable(ValueError):
    """A record that gives no conversation; the message is the reason for the report."""


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that UTF-8 can hold: JSON may escape halves of characters."""
    return isinstance(value, str) and (value.isascii() or not _HALF.search(value))


def turns_of(record: Record) -> list[Record]:
    """The turns of a record as [{from, value, ...}]; Alpaca and VideoChat are brought into that form."""
    turns = record.get("conversations", record.get("conversation"))
    if isinstance(turns, list):
        return turns
    if "instruction" in record and "output" in record:
        asked = _joined(record, "instruction", "input")
        return [{"from": "human", "value": asked}, {"from": "gpt", "value": record["output"]}]
    if isinstance(record.get("QA"), list):
        turns = []
        for number, qa in enumerate(_records(record["QA"])):
            asked = _joined(qa, "i", "q")
            turns.append({"from": "human", "value": asked if number else f"<video>\n{asked}"})
            turns.append({"from": "gpt", "value": qa.get("a")})
        return turns
    raise Unusable("no conversation")


def _joined(record: Record, *keys: str) -> str:
    """The texts under the keys, a line each; those that are absent or empty are left out."""
    texts = [record[key] for key in keys if record.get(key)]
    if not all(map(is_text, texts)):
        raise Unusable("a turn is not text")
    return "\n".join(texts)


def _texts(value: Any) -> list[str]:
    """The texts of a field that holds one, a list of them or nothing."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [text for text in values if is_text(text) and text]


def _places(value: Any) -> list[Any]:
    """The items of such a field as they stand: the n-th is told to the n-th medium, so a bad one keeps its place."""
    return list(value) if isinstance(value, list) else _texts(value)


def _records(value: Any) -> list[Record]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _shown(record: Record) -> list[tuple[str, str]]:
    """(kind, name) of the media that a record shows, by the fields that name them."""
    found = []
    for kind, key in _NAMES:
        if names := record.get(key):
            found += [(kind, name) for name in _texts(names) if name != _NO_MEDIUM]
    return found


class _Talk:
    """Puts a record's media where its turns mention them, in order."""

    def __init__(self, record: Record):
        self.shown = _shown(record)
        self.told: dict[str, list[Any]] = {}
        self.listed: dict[str, Any] = {}
        for kind in MEDIA_KINDS:
            self.told[kind] = _places(record.get(f"{kind}_captions"))
            for medium in _records(record.get(f"{kind}_list")):
                for name in _texts(medium.get(f"{kind}_name")):
                    self.listed[name] = medium.get("caption")

    def medium(self, role: str, kind: str, name: str | None, turn: Record) -> Message:
        """One medium: what the user shows by its name, what the assistant makes by its caption."""
        if role == "user":
            if name is None:
                at = next((n for n, (k, _) in enumerate(self.shown) if k == kind), None)
                if at is None:
                    raise Unusable(f"no {kind} for a mark in the text")
                name = self.shown.pop(at)[1]
            return {"type": kind, kind: name}
        own = turn.get("caption") if turn.get("output_modality") == kind else None
        queued = self.told[kind].pop(0) if self.told[kind] else None
        caption = self.listed.get(name) if name else own or queued
        if not is_text(caption) or not caption.strip():
            raise Unusable(f"no caption for a generated {kind}")
        if len(caption) > MAX_CAPTION:
            raise Unusable("caption too long")
        return {"type": kind, "caption": " ".join(caption.split())}

    def parts(self, role: str, turn: Record, first: bool) -> list[Message]:
        """The parts of one turn."""
        value = turn.get("value")
        if not is_text(value):
            raise Unusable("a turn is not text")
        parts: list[Message] = []
        at = 0
        # Most turns have no bracket, and looking for one is far cheaper than for a mark.
        for mark in _MARK.finditer(value) if "<" in value else ():
            _add_text(parts, value[at : mark.start()])
            kind = (mark[1] or mark[2]).lower()
            parts.append(self.medium(role, kind, mark[3], turn))
            at = mark.end()
        _add_text(parts, value[at:])
        kinds = {part["type"] for part in parts}
        if role == "user" and first and not kinds & set(MEDIA_KINDS):
            # Legacy records name the medium beside the turns and mark it nowhere.
            parts = [self.medium(role, kind, name, turn) for kind, name in self.shown] + parts
            self.shown = []
        wanted = turn.get("output_modality")
        if role == "assistant" and wanted in MEDIA_KINDS and wanted not in kinds:
            parts.append(self.medium(role, wanted, None, turn))
        if not parts:
            raise Unusable("a turn is empty")
        return parts


def _add_text(parts: list[Message], text: str) -> None:
    if text.strip():
        parts.append({"type": "text", "text": text.strip()})


def conversation_of(record: Any) -> list[Message]:
    """A record as messages of this kit; media by the names that the record gives them.

    Raises Unusable with the reason if it is no conversation of alternating turns, or lacks what a mark stands for.
    """
    if not isinstance(record, dict):
        raise Unusable("no record")
    talk, messages = _Talk(record), []
    for number, turn in enumerate(turns_of(record)):
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role != ("user", "assistant")[number % 2]:
            raise Unusable("turns out of order")
        messages.append({"role": role, "content": talk.parts(role, turn, not number)})
    if len(messages) % 2:
        messages.pop()  # a question that nobody answered
    if not messages:
        raise Unusable("no conversation")
    return messages


def embedding_files(record: Record) -> list[list[str]]:
    """[kind, caption, file] of each caption whose embedding a record names (`image_caption_embeddings` and the like)."""
    found = []
    for kind in MEDIA_KINDS:
        captions = _places(record.get(f"{kind}_captions"))
        files = _places(record.get(f"{kind}_caption_embeddings"))
        for caption, file in zip(captions, files, strict=False):
            if is_text(caption) and is_text(file):
                found.append([kind, " ".join(caption.split()), file])
    return found


def located(source: Path, kind: str, name: str) -> str:
    """A medium's path below the source: as named, or in the folders where the datasets keep their media."""
    tries: Iterator[str] = iter((name, f"{kind}s/{name}", f"{kind}/{name}"))
    return next((path for path in tries if (source / path).is_file()), f"{kind}s/{name}")
