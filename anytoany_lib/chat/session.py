"""The chat engine: a conversation that grows turn by turn, without any widget.

A message goes in through `Session.send`, the reply comes out as the events of `replies.stream`, and both end up in
`Session.messages`, in the message format of the whole kit. A reply that is stopped or fails leaves what was finished of
it in the history: text as far as it came, media only if they are whole.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anytoany_lib.chat import export
from anytoany_lib.chat.export import CONVERSATION
from anytoany_lib.chat.uploads import Content, checked
from anytoany_lib.data.rows import media_path
from anytoany_lib.generation import replies
from anytoany_lib.generation.enlarged import enlarged_of
from anytoany_lib.generation.events import Done, Events, PartialReply, TurnsDropped, Voiceless
from anytoany_lib.generation.kv_cache import Files, PrefixCache
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message, Part, check, medium_of, parts_of
from anytoany_lib.modalities import MODALITIES, SPEECH
from anytoany_lib.model import AnyToAny
from anytoany_lib.speech.aloud import read_aloud, say_message, without_voice
from anytoany_lib.speech.hearing import Heard, heard_parts
from anytoany_lib.speech.models import speech_of
from anytoany_lib.speech.spoken_parts import Sound, sound_part
from anytoany_lib.system.files import appearing_whole, keep_private, recover

MEDIA_FOLDER = "media"
_SILENCE: Message = {"role": "assistant", "content": []}
# Further apart than the turns of any conversation: a retry never meets their seeds.
_RETRY_STRIDE = 100_003
_PLAIN_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


class Session:
    """A conversation with a model.

    `messages` is the history: dicts with "role" and "content", content always a list of parts. Turn n is drawn with
    seed + n, so the same seed and the same messages give the same conversation. One reply is drawn at a time. With `aloud`
    replies are said as they come, else what the model wants said is; with `hears` speech in a recording is read as words: if
    the extra `speech` is there.
    """

    def __init__(self, model: AnyToAny, seed: int = 0, sampling: Sampling | None = None):
        self.model, self.seed, self.sampling = model, seed, sampling
        self.aloud, self.hears = False, True
        self._told = False  # that there is no voice
        self.speech = speech_of(model.profile.speech)
        self.messages: list[Message] = []
        self._cache = PrefixCache()
        self._attempts: dict[int, int] = {}  # how often the reply of a turn was drawn anew
        self._files = Files()
        self._folder: Path | None = None
        self._running = threading.Lock()
        self._stopping = threading.Event()

    @property
    def folder(self) -> Path:
        """A folder for uploads, which stays as long as the session: made on first use, removed with it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="anytoany-chat-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    # --- talking ---

    @property
    def busy(self) -> bool:
        """Whether a reply is being drawn."""
        return self._running.locked()

    def send(self, content: Content) -> Events:
        """Adds a user message and returns the events of the reply, which is drawn as they are read.

        The last event is Done, with finish_reason "stopped" after `stop`; it leaves the reply in `messages`, unless the
        model said nothing. A medium that cannot be made is missing in it. If the reader stops early, or drawing fails
        (whatever it raises comes through), `messages` keeps what was finished. Media in memory are copied. Raises
        ValueError if the content is malformed, empty or longer than there is room for, MediaError if a medium cannot be
        read, RuntimeError while another reply is drawn; the history has not changed then.
        """
        return self._say(content, len(self.messages))

    def stop(self) -> None:
        """Ends the reply being drawn, at its next token or at once while media are made; from another thread."""
        self._stopping.set()

    def retry(self, index: int | None = None) -> Events:
        """Draws anew, with the next seed, the reply that is `messages[index]` or answers it; None is the last one.

        What came after is dropped. ValueError if there is no such message, or no user message it could answer.
        """
        self.refuse_if_busy()
        if index is not None and not 0 <= index < len(self.messages):
            raise ValueError(f"nothing to retry: there is no message {index}")
        asked = self._last_user("retry", index)
        del self.messages[asked + 1 :]
        turn = self._forget_attempts()
        self._attempts[turn] = self._attempts.get(turn, 0) + 1
        return self._begin()

    def edit(self, index: int, content: Content) -> Events:
        """Replaces the user message `messages[index]`, drops what came after it, and draws the reply; see `send`."""
        self.refuse_if_busy()
        if not 0 <= index < len(self.messages) or self.messages[index]["role"] != "user":
            raise ValueError(f"message {index} is no user message: only those can be edited")
        return self._say(content, index)

    def undo(self) -> Message:
        """Takes back the last user message and its reply; returns that message."""
        self.refuse_if_busy()
        last = self._last_user("undo")
        message = self.messages[last]
        del self.messages[last:]
        return message

    def clear(self) -> None:
        """Forgets the whole conversation."""
        self.refuse_if_busy()
        self.messages.clear()
        self._cache = PrefixCache()

    def switch(self, model: AnyToAny) -> None:
        """Goes on with another model, which reads the conversation from its beginning."""
        self.refuse_if_busy()
        self.model, self._cache = model, PrefixCache()
        self.speech = speech_of(model.profile.speech)

    def refuse_if_busy(self) -> None:
        """RuntimeError while a reply is being drawn: what would change the conversation has to wait."""
        if self.busy:
            raise RuntimeError(
                "a reply is still being drawn: stop() it or read it to its end first"
            )

    def _last_user(self, wish: str, index: int | None = None) -> int:
        """Place of the last user message, of those up to `index`."""
        end = len(self.messages) if index is None else index + 1
        users = [n for n, message in enumerate(self.messages[:end]) if message["role"] == "user"]
        if not users:
            raise ValueError(f"nothing to {wish}: no message has been sent")
        return users[-1]

    def _forget_attempts(self, new: bool = False) -> int:
        """The number of the last turn; attempts at later ones are forgotten, and at a `new` one too."""
        turn = self._turn()
        last_kept = turn - new
        self._attempts = {n: tries for n, tries in self._attempts.items() if n <= last_kept}
        return turn

    def _turn(self) -> int:
        """The number of the last turn."""
        return sum(message["role"] == "user" for message in self.messages) - 1

    def _say(self, content: Content, index: int) -> Events:
        """Puts a user message in the place of `messages[index:]` and draws the reply."""
        self.refuse_if_busy()
        message: Message = {"role": "user", "content": checked(content)}
        if self.hears and not self.speech.lacks("recogniser"):
            message["content"] = heard_parts(message["content"], self._heard)
        self._files.note(message["content"])
        system = [first for first in self.messages[: min(index, 1)] if first["role"] == "system"]
        replies.prepare(self.model, [*system, message], self.sampling)
        self.messages[index:] = [message]
        self._forget_attempts(new=True)
        return self._begin()

    def _begin(self) -> Events:
        self._stopping.clear()
        return self._draw(len(self.messages))

    def _present(self, message: Message) -> Message:
        """A message with words in the place of files that have vanished before the model has seen them."""
        if message["role"] != "user":
            return message
        parts = []
        for part in message["content"]:
            kind, medium = part["type"], part[part["type"]]
            lost = "" if kind == "text" else self._lost(kind, medium)
            parts.append({"type": "text", "text": f"[{kind}: {lost}]"} if lost else part)
        return {**message, "content": parts}

    def _lost(self, kind: str, medium: Any) -> str:
        """Why the model cannot be shown a file that it has not seen; "" if it can, or has."""
        if isinstance(medium, str | Path) and not Path(medium).is_file():
            return (
                "" if self.model.knows(self._cache.media_key(kind, medium)) else "no longer there"
            )
        return "" if self._files.readable(kind, medium) else "can no longer be read"

    def _prompt(self) -> list[Message]:
        """The history with a silent reply where one is missing: many chat templates want turns to alternate."""
        turns: list[Message] = []
        for message in self.messages:
            if turns and turns[-1]["role"] == message["role"] == "user":
                turns.append(_SILENCE)
            turns.append(self._present(message))
        return turns

    def _events(self) -> Events:
        """The events of a reply to the history."""
        turn = self._turn()
        seed = self.seed + turn + _RETRY_STRIDE * self._attempts.get(turn, 0)
        prompt = self._prompt()
        sampling = replace(self.sampling or Sampling(), enlarge=True)
        stopping = self._stopping.is_set
        for event in replies.stream(self.model, prompt, seed, sampling, self._cache, stopping):
            if isinstance(event, TurnsDropped):
                system = prompt[0]["role"] == "system"
                silent = prompt[system : system + event.count].count(_SILENCE)
                event = replace(event, count=event.count - silent)
            yield event

    def _with_voice(self, events: Events) -> Events:
        """The events of a reply with those of what is said of it, or once of why nothing can be said."""
        missing = "" if self.aloud else self.speech.lacks("voice")
        if missing:
            return events if self._told else without_voice(events, missing)
        return read_aloud(events, self._said, self._stopping.is_set, self.aloud)

    def _said(self, sentence: str) -> Sound:
        worker = self.model.media_models.worker  # which computes all of a reply
        return worker.submit(self.speech.say, sentence, self.seed).result()

    def _heard(self, sound: Any) -> Heard:
        return self.model.media_models.worker.submit(self.speech.hear, sound).result()

    def read_replies_aloud(self, aloud: bool) -> None:
        """Whether the next replies are said as they come. SpeechMissing without the extra or a voice."""
        if aloud:
            self.speech.check("voice")
        self.aloud = aloud

    def read_aloud(self, index: int) -> Events:
        """Says the words of `messages[index]`: an event for each sentence; what was said stays beside the words.

        ValueError if there is no such message, SpeechMissing without the extra `speech` or its voice.
        """
        self.refuse_if_busy()
        if not 0 <= index < len(self.messages):
            raise ValueError(f"nothing to read aloud: there is no message {index}")
        self.speech.check("voice")
        self._stopping.clear()
        return self._say_again(self.messages[index])

    def _say_again(self, message: Message) -> Events:
        with self._running:
            for event in say_message(message, self._said, self._stopping.is_set):
                message["content"][event.index].update(event.part)
                yield event
            yield Done(message, "stopped" if self._stopping.is_set() else "stop")

    def _draw(self, turns: int) -> Events:
        """The events of a reply to the first `turns` messages, which have to be all there are, and its keeping."""
        if len(self.messages) != turns:
            raise RuntimeError("the conversation has gone on since this reply was asked for")
        if not self._running.acquire(blocking=False):
            raise RuntimeError("another reply is being drawn in this session")
        events, reply = self._with_voice(self._events()), PartialReply()
        done: Done | None = None
        try:
            for event in events:
                reply.take(event)
                self._told |= isinstance(event, Voiceless)
                if isinstance(event, Done):
                    self._keep(event.message)
                    done = event
                yield event
            if done and done.finish_reason != "stopped":
                replies.read_on(self.model, self._prompt(), self.sampling, self._cache)
        finally:
            events.close()
            if not done:
                self._keep(reply.message())
            self._running.release()

    def _keep(self, reply: Message) -> None:
        """A reply joins the history, unless nothing was said."""
        if reply["content"]:
            self.messages.append(reply)

    # --- keeping ---

    def save(self, folder: str | Path) -> Path:
        """Writes the conversation: messages.json, and its media in media/, named by their content.

        The folder appears whole or not at all, for its owner's eyes alone; a conversation that was there is replaced. Returns
        its path. Raises ValueError if something else is there, OSError if there is no room, MediaError if a file that a
        message names is gone.
        """
        folder = Path(folder)
        export.refuse_to_replace(folder)
        with appearing_whole(folder) as work:
            work.chmod(0o700)  # before there is anything to read
            (work / MEDIA_FOLDER).mkdir()
            messages = [
                {**message, "content": [_save_part(part, work) for part in parts_of(message)]}
                for message in self.messages
            ]
            record = {
                "profile": self.model.profile.name,
                "seed": self.seed,
                "attempts": self._attempts,
                "sampling": self.sampling and asdict(self.sampling),
                "messages": messages,
            }
            text = json.dumps(record, ensure_ascii=False, indent=1)
            (work / CONVERSATION).write_text(text, encoding="utf-8")
            keep_private(work)
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: AnyToAny, sampling: Sampling | None = None) -> Session:
        """A saved conversation, ready to go on with any model that knows its kinds of media.

        It goes on with the sampling it was saved with unless another is given. Raises FileNotFoundError, ValueError if
        messages.json is not what `save` writes, MediaError if a medium is missing, unreadable or outside the folder.
        """
        folder = Path(folder)
        recover(folder)
        if not (folder / CONVERSATION).is_file():
            raise FileNotFoundError(f"no conversation in {folder} (expected {CONVERSATION})")
        try:
            record = export.read_record(folder)
            saved = record.get("sampling")
            sampling = sampling or (saved and Sampling(**saved))
            session = cls(model, int(record["seed"]), sampling)
            attempts = record.get("attempts", {}).items()
            session._attempts = {int(turn): int(tries) for turn, tries in attempts}
            contents = check(record["messages"]) if record["messages"] else []
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{folder / CONVERSATION} is not a saved conversation: {error!r}"
            ) from error
        for message, parts in zip(record["messages"], contents, strict=True):
            loaded = [_load_part(part, folder, message["role"]) for part in parts]
            session.messages.append({"role": message["role"], "content": loaded})
        return session


def _save_part(part: Part, folder: Path) -> Part:
    """Writes a part's medium below `folder`; returns the part as it stands in messages.json."""
    if spoken := sound_part(part):
        return {**part, SPEECH: _save_part(spoken, folder)["audio"]}
    kind, medium = part["type"], medium_of(part)
    if kind == "text" or medium is None:
        return part
    key = media_files.content_key(kind, medium)
    if isinstance(medium, str | Path):
        suffix = Path(medium).suffix.lower()
        suffix = suffix if _PLAIN_SUFFIX.fullmatch(suffix) else media_files.SUFFIX[kind]
        target = folder / MEDIA_FOLDER / f"{key}{suffix}"
        shutil.copyfile(medium, target)
    else:
        target = folder / MEDIA_FOLDER / f"{key}{media_files.SUFFIX[kind]}"
        media_files.save(kind, target, medium)
    saved = {"type": kind, kind: target.relative_to(folder).as_posix()}
    if "enlarged" in part:
        larger = target.with_stem(f"{key}-enlarged")
        media_files.save(kind, larger, enlarged_of(part))
        saved["enlarged"] = larger.relative_to(folder).as_posix()
    return saved | ({"caption": part["caption"]} if "caption" in part else {})


def _load_part(part: Part, folder: Path, role: str) -> Part:
    """The other way: users' media stay files, those of replies are loaded into the form of replies."""
    if spoken := sound_part(part):
        return {**part, SPEECH: medium_of(_load_part(spoken, folder, role))}
    kind = part["type"]
    if kind == "text" or part.get(kind) is None:
        return part
    path = media_path(folder, part[kind])
    if role != "assistant":
        media_files.as_media(kind, path)
        return {**part, kind: path}
    loaded = _in_memory(kind, path)
    if "enlarged" in part:
        loaded["enlarged"] = _in_memory(kind, media_path(folder, part["enlarged"]))[kind]
    return part | loaded


def _in_memory(kind: str, path: Path) -> Part:
    """A medium's file as the payload of a reply part."""
    medium = media_files.load(kind, path)
    if kind == "image":
        return {"image": medium}
    return {kind: medium[0], MODALITIES[kind].beside: medium[1]}
