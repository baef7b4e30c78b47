"""Rows: what every dataset consists of here, the media and captions that a row holds, and how a captioned one is worded.

A row is a conversation in the form of `messages`; its media are POSIX paths relative to a folder that the row does not
know. A path is trusted only through `media_path`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import check
from anytoany_lib.modalities import SENSED_KINDS

DESCRIBE = {
    "image": ("Describe this picture.", "What does this picture show?", "Write a caption for it."),
    "audio": ("Describe this sound.", "What do you hear?", "Write a caption for this recording."),
    "video": ("Describe this clip.", "What happens in this video?", "Write a caption for it."),
    "depth": ("Describe this depth map.", "What stands where here?", "Write a caption for it."),
    "thermal": ("Describe this thermal picture.", "What is warm here?", "Write a caption for it."),
    "imu": ("Describe this movement.", "What does the wearer do?", "Write a caption for it."),
}
PRODUCE = {
    "image": ("Draw this: {}", "Show me a picture: {}", "I would like an image of this: {}"),
    "audio": ("Play this: {}", "Let me hear it: {}", "I would like the sound of this: {}"),
    "video": ("Film this: {}", "Show me a clip: {}", "I would like a video of this: {}"),
}

# The wording of LLaVA-1.5 (Liu et al. 2023): without it a chat model answers in sentences, none of which is right.
SHORT_ANSWER = "Answer the question using a single word or phrase."


class DataError(ValueError):
    """A dataset that cannot be read or written; the message names the file, the place and what to do."""


@dataclass(frozen=True)
class Row:
    """One conversation: `messages` in the form of the module `messages`, `meta` anything that JSON can hold."""

    id: str
    source: str
    messages: list[dict[str, Any]]
    meta: dict[str, Any] = field(default_factory=dict)


def check_row(row: Row) -> Row:
    """`row` itself; DataError unless its messages follow the contract and its media are relative paths."""
    try:
        if not all(isinstance(text, str) and text for text in (row.id, row.source)):
            raise ValueError("id and source must be text")
        for message, parts in zip(row.messages, check(row.messages), strict=True):
            for part in parts:
                kind = part["type"]
                if kind == "text":
                    continue
                if kind in SENSED_KINDS and message["role"] == "assistant":
                    raise ValueError(f"{kind} can be shown, and is never generated")
                if message["role"] == "assistant" and not isinstance(part.get("caption"), str):
                    raise ValueError(f"the assistant's {kind} needs a text under 'caption'")
                if kind in part and not isinstance(part[kind], str):
                    raise ValueError(
                        f"{kind} must be a path below the manifest, found {part[kind]!r:.80}"
                    )
    except ValueError as error:
        raise DataError(f"row {row.id!r}: {error}") from error
    return row


def text_part(text: str) -> dict[str, Any]:
    """A text as the part of a message."""
    return {"type": "text", "text": text}


def exchange(asked: list[dict[str, Any]], answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation of one question and its answer, both as parts."""
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def captioned_row(name: str, source: str, kind: str, path: str, caption: str) -> Row:
    """A medium and its caption as a row; runs of blanks and line ends become single blanks."""
    caption = " ".join(caption.split())
    messages = exchange([{"type": kind, kind: path}], [text_part(caption)])
    return Row(name, source, messages, {"caption": caption, "kind": kind})


def map_media(
    messages: list[dict[str, Any]], change: Callable[[str, Any], Any]
) -> list[dict[str, Any]]:
    """The same messages with `change(kind, medium)` in place of every medium."""

    def part(old: Any) -> Any:
        kind = old["type"]
        return {**old, kind: change(kind, old[kind])} if kind != "text" and kind in old else old

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [part(old) for old in message["content"]]}
        for message in messages
    ]


def media_in(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """(kind, medium) of every medium that the messages hold, in order."""
    return [
        (part["type"], part[part["type"]])
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] != "text" and part["type"] in part
    ]


def captions_in(row: Row) -> Iterator[tuple[str, str]]:
    """(kind, caption): what a captioned medium is said to show, or what each medium to be made is told by."""
    if "caption" in row.meta:
        yield row.meta["kind"], row.meta["caption"]
        return
    for message in row.messages:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if message["role"] == "assistant" and "caption" in part:
                yield part["type"], part["caption"]


def as_comprehension(row: Row, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A captioned row for stage 1: the medium and an instruction, drawn anew at every reading, answered by the caption."""
    kind, name = media_in(row.messages)[0]
    instruction = text_part(str(rng.choice(DESCRIBE[kind])))
    return exchange([{"type": kind, kind: name}, instruction], [text_part(row.meta["caption"])])


def as_generation(row: Row, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A captioned row for stage 2: an instruction with the caption, answered by the medium, told by that caption."""
    kind, name = media_in(row.messages)[0]
    caption = row.meta["caption"]
    text = str(rng.choice(PRODUCE[kind])).format(caption)
    return exchange([text_part(text)], [{"type": kind, kind: name, "caption": caption}])


def as_answer(
    name: str, source: str, shown: Sequence[tuple[str, str]], question: str, answer: str, split: str
) -> Row:
    """A row of media, (kind, path) each, and a question about them that is answered in a word; `split` may be ""."""
    media = [{"type": kind, kind: path} for kind, path in shown]
    messages = exchange([*media, text_part(f"{question}\n{SHORT_ANSWER}")], [text_part(answer)])
    return Row(name, source, messages, {"task": source} | ({"split": split} if split else {}))


def media_path(folder: Path, name: Any) -> Path:
    """Where a named file lies; MediaError "outside the folder" unless it stays below `folder`."""
    portable = isinstance(name, str) and name and not set(name) & {"\\", "\0"}
    if not portable or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise MediaError("outside the folder", "expected a relative POSIX path", str(name))
    try:
        path = folder / name
        inside = ".." not in path.parts[len(folder.parts) :] and path.resolve().is_relative_to(
            folder.resolve()
        )
    # A loop of links, a name too long, half of a character that needs two.
    except (OSError, RuntimeError, ValueError) as error:
        raise MediaError("unreadable", str(error), ascii(name)) from error
    if not inside:
        raise MediaError("outside the folder", f"it leads out of {folder}", name)
    return path
