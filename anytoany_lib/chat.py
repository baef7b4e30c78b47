"""The chat engine: a conversation that grows turn by turn, without any widget.

A message goes in through `Session.send`, the reply comes out as the events of `generation.stream`, and both end up in
`Session.messages`, in the message format of the whole kit. A reply that is stopped or fails leaves what was finished of
it in the history: text as far as it came, media only if they are whole.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anytoany_lib import generation, media
from anytoany_lib.generation import Done, Event, MediaReady, MediaStarted, Sampling, TextDelta
from anytoany_lib.messages import Message, Part, check, parts_of
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.model import AnyToAny
from anytoany_lib.rows import media_path
from anytoany_lib.runs import appearing_whole

CONVERSATION, MEDIA_FOLDER = "messages.json", "media"
_RETRY_STRIDE = (
    100_003  # further apart than the turns of any conversation: a retry never meets their seeds
)
_PLAIN_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")

Content = str | list[Part]


def medium_of(part: Part) -> Any:
    """A part's medium as `anytoany_lib.media` takes it: a path, a PIL.Image, (samples, rate), frames or (frames, fps).

    Replies keep rate and fps beside the medium; None if the part has a caption only.
    """
    medium = part.get(part["type"])
    beside = part.get({"audio": "sampling_rate", "video": "fps"}.get(part["type"], ""))
    return medium if medium is None or beside is None else (medium, beside)


class _PartialReply:
    """The parts of a reply as its events arrive, so that an unfinished one can be kept."""

    def __init__(self):
        self._parts: list[Part] = []
        self._media: dict[int, Part] = {}

    def take(self, event: Event) -> None:
        """Adds what an event brings: text grows, a medium gets its place and later its content."""
        if isinstance(event, TextDelta):
            if not self._parts or self._parts[-1]["type"] != "text":
                self._parts.append({"type": "text", "text": ""})
            self._parts[-1]["text"] += event.text
        elif isinstance(event, MediaStarted):
            self._media[event.index] = {"type": event.kind}
            self._parts.append(self._media[event.index])
        elif isinstance(event, MediaReady):
            self._media[event.index].update(event.part)

    def message(self) -> Message:
        """What is finished: text without outer blanks, media that are ready."""
        parts = []
        for part in self._parts:
            if part["type"] == "text" and part["text"].strip():
                parts.append({"type": "text", "text": part["text"].strip()})
            elif part["type"] != "text" and part["type"] in part:
                parts.append(part)
        return {"role": "assistant", "content": parts}


class Session:
    """A conversation with a model.

    `messages` is the history: dicts with "role" and "content", content always a list of parts. Turn n is drawn with
    seed + n, so the same seed and the same messages give the same conversation. One reply is drawn at a time.
    """

    def __init__(self, model: AnyToAny, seed: int = 0, sampling: Sampling | None = None):
        self.model, self.seed, self.sampling = model, seed, sampling
        self.messages: list[Message] = []
        self._memory = generation.Memory()
        self._attempt = 0
        self._running = threading.Lock()
        self._stopping = threading.Event()

    # --- talking ---

    @property
    def busy(self) -> bool:
        """Whether a reply is being drawn."""
        return self._running.locked()

    def send(self, content: Content) -> Iterator[Event]:
        """Adds a user message and returns the events of the reply, which is drawn as they are read.

        The last event is Done, with finish_reason "stopped" after `stop`; it leaves the reply in `messages`. If the
        reader stops early, or drawing fails (whatever it raises comes through), `messages` keeps what was finished.
        Raises ValueError if the content is malformed or empty, MediaError if a medium cannot be read, RuntimeError
        while another reply is drawn; the history has not changed then.
        """
        self._refuse_if_busy()
        message = {"role": "user", "content": _checked(content)}
        self.messages.append(message)
        self._attempt = 0
        return self._begin()

    def stop(self) -> None:
        """Ends the reply being drawn at its next token or diffusion step; called from another thread."""
        self._stopping.set()

    def retry(self) -> Iterator[Event]:
        """Draws the last reply anew, with the next seed. ValueError if nothing was said yet."""
        self._refuse_if_busy()
        last = self._last_user("retry")
        del self.messages[last + 1 :]
        self._attempt += 1
        return self._begin()

    def edit(self, index: int, content: Content) -> Iterator[Event]:
        """Replaces the user message `messages[index]`, drops what came after it, and draws the reply."""
        self._refuse_if_busy()
        if not 0 <= index < len(self.messages) or self.messages[index]["role"] != "user":
            raise ValueError(f"message {index} is no user message: only those can be edited")
        message = {"role": "user", "content": _checked(content)}
        self.messages[index:] = [message]
        self._attempt = 0
        return self._begin()

    def undo(self) -> Message:
        """Takes back the last user message and its reply; returns that message."""
        self._refuse_if_busy()
        last = self._last_user("undo")
        message = self.messages[last]
        del self.messages[last:]
        self._attempt = 0
        return message

    def clear(self) -> None:
        """Forgets the whole conversation."""
        self._refuse_if_busy()
        self.messages.clear()
        self._attempt = 0

    def _refuse_if_busy(self) -> None:
        if self.busy:
            raise RuntimeError(
                "a reply is still being drawn: stop() it or read it to its end first"
            )

    def _last_user(self, wish: str) -> int:
        users = [n for n, message in enumerate(self.messages) if message["role"] == "user"]
        if not users:
            raise ValueError(f"nothing to {wish}: no message has been sent")
        return users[-1]

    def _begin(self) -> Iterator[Event]:
        self._stopping.clear()
        return self._draw(len(self.messages))

    def _prompt(self) -> list[Message]:
        """The history with a silent reply where one is missing: many chat templates want turns to alternate."""
        turns: list[Message] = []
        for message in self.messages:
            if turns and turns[-1]["role"] == message["role"] == "user":
                turns.append({"role": "assistant", "content": []})
            turns.append(message)
        return turns

    def _draw(self, turns: int) -> Iterator[Event]:
        """The events of a reply to the first `turns` messages, which have to be all there are."""
        if len(self.messages) != turns:
            raise RuntimeError("the conversation has gone on since this reply was asked for")
        if not self._running.acquire(blocking=False):
            raise RuntimeError("another reply is being drawn in this session")
        turn = sum(message["role"] == "user" for message in self.messages) - 1
        seed = self.seed + turn + _RETRY_STRIDE * self._attempt
        events = generation.stream(self.model, self._prompt(), seed, self.sampling, self._memory)
        reply, kept = _PartialReply(), False
        try:
            for event in events:
                reply.take(event)
                if isinstance(event, Done):
                    self.messages.append(event.message)
                    kept = True
                yield event
                if self._stopping.is_set() and not kept:
                    kept = True
                    yield Done(self._keep(reply), "stopped")
                    return
        finally:
            events.close()
            if not kept:
                self._keep(reply)
            self._running.release()

    def _keep(self, reply: _PartialReply) -> Message:
        message = reply.message()
        if message["content"]:
            self.messages.append(message)
        return message

    # --- keeping ---

    def save(self, folder: str | Path) -> Path:
        """Writes the conversation: messages.json, and its media in media/, named by their content.

        The folder appears whole or not at all; one that exists is replaced. Returns its path. Raises OSError if there
        is no room, MediaError if a file that a message names is gone.
        """
        folder = Path(folder)
        with appearing_whole(folder) as work:
            (work / MEDIA_FOLDER).mkdir()
            messages = [
                {**message, "content": [_save_part(part, work) for part in parts_of(message)]}
                for message in self.messages
            ]
            record = {
                "profile": self.model.profile.name,
                "seed": self.seed,
                "attempt": self._attempt,
                "messages": messages,
            }
            text = json.dumps(record, ensure_ascii=False, indent=1)
            (work / CONVERSATION).write_text(text, encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: AnyToAny, sampling: Sampling | None = None) -> Session:
        """A saved conversation, ready to go on with any model that knows its kinds of media.

        Raises FileNotFoundError, ValueError if messages.json is not what `save` writes, MediaError if a medium is
        missing, unreadable or outside the folder.
        """
        folder = Path(folder)
        path = folder / CONVERSATION
        if not path.is_file():
            raise FileNotFoundError(f"no conversation in {folder} (expected {CONVERSATION})")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            messages, seed, attempt = (record[key] for key in ("messages", "seed", "attempt"))
            session = cls(model, int(seed), sampling)
            contents = check(messages) if messages else []
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a saved conversation: {error!r}") from error
        session._attempt = int(attempt)
        for message, parts in zip(messages, contents, strict=True):
            loaded = [_load_part(part, folder, message["role"]) for part in parts]
            session.messages.append({"role": message["role"], "content": loaded})
        return session


def _checked(content: Content) -> list[Part]:
    """A user's content as a list of parts, every medium of which can be read."""
    parts = parts_of({"role": "user", "content": content}, "the message")
    if not any(part["type"] != "text" or part["text"].strip() for part in parts):
        raise ValueError("the message is empty: write something or attach a medium")
    checked = []
    for part in parts:
        kind, medium = part["type"], medium_of(part)
        if kind in MEDIA_KINDS:
            media.as_media(kind, medium)
        checked.append({"type": kind, kind: medium})
    return checked


def _save_part(part: Part, folder: Path) -> Part:
    """Writes a part's medium below `folder`; returns the part as it stands in messages.json."""
    kind, medium = part["type"], medium_of(part)
    if kind == "text" or medium is None:
        return part
    key = media.content_key(kind, medium)
    if isinstance(medium, str | Path):
        suffix = Path(medium).suffix.lower()
        suffix = suffix if _PLAIN_SUFFIX.fullmatch(suffix) else media.SUFFIX[kind]
        target = folder / MEDIA_FOLDER / f"{key}{suffix}"
        shutil.copyfile(medium, target)
    else:
        target = folder / MEDIA_FOLDER / f"{key}{media.SUFFIX[kind]}"
        media.save(kind, target, medium)
    caption = {"caption": part["caption"]} if "caption" in part else {}
    return {"type": kind, kind: target.relative_to(folder).as_posix(), **caption}


def _load_part(part: Part, folder: Path, role: str) -> Part:
    """The other way: users' media stay files, those of replies are loaded into the form of replies."""
    kind = part["type"]
    if kind == "text" or part.get(kind) is None:
        return part
    path = media_path(folder, part[kind])
    if role != "assistant":
        media.as_media(kind, path)
        return {**part, kind: path}
    medium = media.load(kind, path)
    if kind == "image":
        return {**part, "image": medium}
    return {**part, kind: medium[0], {"audio": "sampling_rate", "video": "fps"}[kind]: medium[1]}
