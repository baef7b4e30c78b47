"""Instruction data in its published JSON forms: a record becomes a conversation, or is unusable for a reason.

Covers LLaVA-Instruct, ShareGPT4V, the LLaVA-665K mix, LLaVA-Video, VideoChat and VideoChat2-IT, Alpaca, chat messages, T2M and
MosIT as they are published and as NExT-GPT (legacy and v1.5) prepares them, and its `*_comprehension.json` and
`*_generation.json`. Who speaks is for `turns` to say, which files it names for `media_references`, where
in the text they stand for `placeholders` and `interleaving`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anytoany_lib.data.formats.folders import files_below
from anytoany_lib.data.formats.interleaving import InterleavedTurns, Message, as_list
from anytoany_lib.data.formats.json_files import NoRecords, json_records
from anytoany_lib.data.formats.media_references import Unusable, is_text
from anytoany_lib.data.formats.turns import Record, turns_of
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, map_media
from anytoany_lib.media.file_types import MIME_OF
from anytoany_lib.modalities import MEDIA_KINDS

_NO_LIST, _NO_TALK = "no list of records", "no conversation"


def read_instructions(source: Path, report: Report) -> Iterator[Row]:
    """Every JSON file of a folder of any depth with conversations in a published form, media beside them."""
    files = [
        path
        for path in files_below(source)
        if path.suffix in (".json", ".jsonl")
        # Below the source, not one that tells of the medium of its name beside it.
        and not (path.parent != source and any(path.with_suffix(e).exists() for e in MIME_OF))
    ]
    if not files:
        raise DataError(f"{source}: expected .json files with conversations in it")
    for path in files:
        report.read_file(path)
        try:
            yield from _conversations(source, path.relative_to(source), report)
        except NoRecords as error:
            report.drop(_NO_LIST, str(error))


def _conversations(source: Path, file: Path, report: Report) -> Iterator[Row]:
    """The rows of one JSON file."""
    task = file.with_suffix("").as_posix()
    below = "" if file.parent == Path() else file.parent.as_posix()
    unusable, last = "", None
    for number, record in enumerate(json_records(source / file)):
        if unusable:
            report.drop(unusable, f"{task}-{number - 1}")
        unusable, last = "", (number, record)
        try:
            messages = conversation_of(record)
        except Unusable as reason:
            unusable = str(reason)  # it is counted when it is known whether the file holds any more
            continue
        where = map_media(messages, lambda kind, medium: located(source, kind, medium, below))
        named = embedding_files(record)
        meta = {"task": task} | ({"embeddings": named} if named else {})
        yield Row(f"{task}-{number}", task, where, meta)
    if last and unusable == _NO_TALK and last[0] == 0 and isinstance(last[1], dict):
        keys = ", ".join(f"{key:.40}" for key in list(last[1])[:8])
        report.drop(_NO_LIST, f"{file}: one object with {keys or 'nothing in it'}")
    elif last and unusable:
        report.drop(unusable, f"{task}-{last[0]}")


def conversation_of(record: Any) -> list[Message]:
    """A record as messages of this kit, [system,] user, assistant and so on; media by the names that the record gives them.

    Turns of one speaker are joined, a reply before the first question and a question without a reply left out. Raises
    Unusable with the reason if that gives no conversation, or one that lacks anything that the record names.
    """
    if not isinstance(record, dict):
        raise Unusable("no record")
    turns, keys = turns_of(record)
    interleaved = InterleavedTurns(record, turns, keys)
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        parts = interleaved.parts(number)
        if messages and messages[-1]["role"] == turn.role:
            _join(messages[-1]["content"], parts)
        elif turn.role == "system" and messages:
            raise Unusable("a system turn in the middle")
        else:
            messages.append({"role": turn.role, "content": parts})
    interleaved.check_all_there()
    return _alternating(messages)


def _join(parts: list[Message], more: list[Message]) -> None:
    """Adds the parts of the same speaker's next turn."""
    if parts and more and parts[-1]["type"] == more[0]["type"] == "text":
        parts[-1] = {"type": "text", "text": f"{parts[-1]['text']}\n{more[0]['text']}"}
        more = more[1:]
    parts += more


def _alternating(messages: list[Message]) -> list[Message]:
    """The messages from a system's or the first question on to the last reply."""
    system = [one for one in messages if one["role"] == "system" and one["content"]]
    talk = [one for one in messages if one["role"] != "system"]
    left_out = []
    if talk and talk[0]["role"] == "assistant":
        left_out.append(talk.pop(0))  # nobody asked for it
    if talk and talk[-1]["role"] == "user":
        left_out.append(talk.pop())  # nobody answered it
    for message in left_out:
        if lost := [part["type"] for part in message["content"] if part["type"] != "text"]:
            where = (
                "question without a reply" if message["role"] == "user" else "reply at the start"
            )
            raise Unusable(f"a {where} holds {lost[0]}")
    if not talk:
        raise Unusable("no conversation")
    if not all(message["content"] for message in talk):
        raise Unusable("a turn is empty")
    return system + talk


def embedding_files(record: Record) -> list[list[str]]:
    """[kind, caption, file] of each caption whose embedding a record names (`image_caption_embeddings` and the like)."""
    found = []
    for kind in MEDIA_KINDS:
        captions = as_list(record.get(f"{kind}_captions"))
        files = as_list(record.get(f"{kind}_caption_embeddings"))
        for caption, file in zip(captions, files, strict=False):
            if is_text(caption) and is_text(file):
                found.append([kind, " ".join(caption.split()), file])
    return found


def located(source: Path, kind: str, name: str, below: str = "") -> str:
    """A medium's path below the source: as named, in `below` (the folder of the file that names it), or where datasets keep media."""
    path, separator, span = name.rpartition("#t=")
    if not separator or is_file(source / name):
        path, separator, span = name, "", ""
    beside = [f"{below}/{path}"] if below else []
    tries = (path, *beside, f"{kind}s/{path}", f"{kind}/{path}")
    found = next((one for one in tries if is_file(source / one)), f"{kind}s/{path}")
    return found + separator + span


def is_file(path: Path) -> bool:
    """Whether there is such a file; there is none of a name that no disk can hold."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
