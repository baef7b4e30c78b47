"""The chat in a notebook cell: `Chat(model)` as its last line.

A `Chat` hears what the user does (`static/chat.js` sends it), has a `session.Session` do it, and tells the page what to draw.
It works wherever anywidget does: JupyterLab and Notebook, VS Code, Voila, Colab.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from anytoany_lib.chat import export, settings, uploads, view
from anytoany_lib.chat.access import Limits, without_places
from anytoany_lib.chat.html import CONTENT_STYLE, enlarged_file, original
from anytoany_lib.chat.session import Session
from anytoany_lib.chat.uploads import Attachment
from anytoany_lib.chat.view import EXAMPLES, Bubble, Piece, Reply
from anytoany_lib.config import portable, resolve
from anytoany_lib.generation.events import Event, Events
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message, Part
from anytoany_lib.model import AnyToAny
from anytoany_lib.speech.aloud import Spoken
from anytoany_lib.system import interrupts, remote, runs
from anytoany_lib.system.urls import check_page

STATIC = Path(__file__).parent / "static"
_CHATS: weakref.WeakSet[Chat] = weakref.WeakSet()


class Chat(anywidget.AnyWidget):
    """A conversation with a model in a cell: `Chat(model)` as its last line.

    `session` goes on with a conversation (then `seed` and `sampling` are the session's own); `name` says in the header
    what is talking. `blocking` draws replies inside the page's message, which Colab needs (and is told by itself): Stop
    does not work then, but interrupting the kernel does. The last failure is in `error`. `access`: pages that others visit.
    """

    _esm = STATIC / "chat.js"
    _css = CONTENT_STYLE + (STATIC / "chat.css").read_text(encoding="utf-8")
    # Its value is never used: a page that opens gets what `_everything` makes at that moment.
    snapshot = traitlets.Bool().tag(sync=True, to_json=lambda _, chat: chat._everything())

    def __init__(
        self,
        model: AnyToAny,
        session: Session | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
        name: str = "",
        blocking: bool | None = None,
        height: str = "460px",
        examples: tuple[str, ...] = EXAMPLES,
        served: Limits | None = None,
    ):
        sampling = sampling or Sampling(preview_every=view.PREVIEW_EVERY)
        self.session = session or Session(model, seed, sampling)
        self.blocking = "google.colab" in sys.modules if blocking is None else blocking
        self.error: BaseException | None = None
        self._name, self._served = name, served
        limit = served.file_bytes if served else uploads.LIMIT
        self._look: dict[str, Any] = {"height": height, "served": bool(served), "limit": limit}
        self._look |= {"examples": list(examples), "place": export.new_folder()}
        self._status = {"state": "ready", "text": "ready"}
        self._attached: list[Attachment] = []
        self._names: dict[str, str] = {}  # of files, as the user calls them
        self._editing: int | None = None
        self._uploads = uploads.Uploads(limit, served.quota_bytes if served else None)
        self._bubbles = [self._bubble(n) for n in range(len(self.session.messages))]
        self._actions = self._make_actions()
        self._loop = interrupts.kernel_loop()
        super().__init__()
        _CHATS.add(self)
        self.on_msg(self._hear)

    def __repr__(self) -> str:
        return f"Chat({self._title()}, {len(self.session.messages)} messages)"

    # --- what the page shows ---

    def _title(self) -> str:
        profile = f"profile {self.session.model.profile.name}"
        return f"{self._name} ({profile})" if self._name else profile

    def _values(self, *names: str) -> dict[str, Any]:
        """The page's values around the conversation: those that are named, or all of them."""
        values: dict[str, Callable[[], Any]] = {
            "title": self._title,
            "status": lambda: self._status,
            "attached": lambda: [one.shown() for one in self._attached],
            "editing": lambda: self._editing,
            "settings": lambda: settings.fields_of(self.session),
            "runs": lambda: [] if self._served else [portable(run) for run in runs.all_runs()],
            "run": lambda: self._name,
            "hears": lambda: self.session.hears and not self.session.speech.lacks("recogniser"),
        }
        return {name: values[name]() for name in names or values}

    def _everything(self) -> dict[str, Any]:
        """All that a page needs that opens now, perhaps in the middle of a reply."""
        bubbles = [
            {"role": bubble.role, "pieces": list(map(self._piece, bubble.pieces))}
            for bubble in self._bubbles
        ]
        return self._look | self._values() | {"bubbles": bubbles}

    def _tell(self, op: str, data: bytes | None = None, **fields: Any) -> None:
        self.send({"op": op, **fields}, None if data is None else [data])

    def _show(self, *names: str) -> None:
        """Sends the page some of the values around the conversation."""
        self._tell("set", values=self._values(*names))

    def _say(self, text: str, state: str = "busy") -> None:
        """The status line; state is "ready", "busy", "loading" or "problem"."""
        text = without_places(text) if self._served and state == "problem" else text
        self._status = {"state": state, "text": text}
        self._show("status")

    def _draw(self, number: int, at: int) -> None:
        piece = self._piece(self._bubbles[number].pieces[at])
        self._tell("piece", piece.pop("data", None), bubble=number, at=at, piece=piece)

    def _piece(self, piece: Piece) -> Piece:
        """A piece as it goes to the page, which may take it apart."""
        return dict(view.for_visitors(piece) if self._served else piece)

    def _bubble(self, index: int) -> Bubble:
        message = self.session.messages[index]
        return Bubble(message["role"], index, [view.piece_of(part) for part in message["content"]])

    def _append(self, bubble: Bubble) -> None:
        self._bubbles.append(bubble)
        self._tell("add", role=bubble.role)
        for at in range(len(bubble.pieces)):
            self._draw(len(self._bubbles) - 1, at)

    def _drop(self, start: int) -> None:
        """Takes bubbles off the screen, from this one on."""
        if start < len(self._bubbles):
            del self._bubbles[start:]
            self._tell("drop", None, **{"from": start})

    # --- what the user does ---

    def _make_actions(self) -> dict[str, Callable[[dict[str, Any], list[Any]], None]]:
        """The page's requests. Whoever adds one decides whether visitors of a served page may make it."""
        owners = {
            "path": lambda request, _: self._on_path(request["path"]),
            "switch": lambda request, _: self._on_switch(request["run"]),
            "save": lambda request, _: self._on_save(request["path"]),
            "load": lambda request, _: self._on_load(request["path"]),
        }
        return ({} if self._served else owners) | {
            "send": lambda request, _: self._on_send(request["text"]),
            "stop": lambda *_: self.session.stop(),
            "retry": lambda request, _: self._on_retry(request.get("bubble")),
            "edit": lambda request, _: self._on_edit(self._bubbles[request["bubble"]].message),
            "read": lambda request, _: self._on_read(request["bubble"]),
            "cancel": lambda *_: self._put_back(None, []),
            "undo": lambda *_: self._on_undo(),
            "clear": lambda *_: self._on_clear(),
            "chunk": self._on_receive,
            "remove": lambda request, _: self._on_remove(request["id"]),
            "settings": lambda request, _: self._on_choose(request["values"]),
            "archive": lambda *_: self._deliver(*export.kept(self.session.save)),
            "page": lambda *_: self._deliver(*export.to_send(self.session.messages, self._title())),
            "download": lambda request, _: self._on_download(request),
        }

    def _hear(self, _: Any, request: dict[str, Any], buffers: list[Any]) -> None:
        """Does what the page asks for. What cannot be done stands in the status line, which the page waits for."""
        try:
            self._actions[request["do"]](request, buffers)
            self._show("status")
        except (ValueError, RuntimeError, OSError) as error:
            self._say(str(error), "problem")
        except (KeyError, TypeError, IndexError, AttributeError):
            self._say("this page cannot do that: load it anew", "problem")

    def _on_send(self, text: str) -> None:
        if self._served:
            self._served.check_text(text, len(self.session.messages))
        content: list[Part] = [{"type": a.kind, a.kind: a.medium} for a in self._attached]
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
        index = len(self.session.messages) if self._editing is None else self._editing
        if self._editing is None:
            events = self.session.send(content)
        else:
            events = self.session.edit(index, content)
        self._drop_messages(index)
        self._put_back(None, [])
        self._append(self._bubble(index))
        self._play(events)

    def _drop_messages(self, index: int) -> None:
        """Takes the bubbles of this message and of what came after it off the screen."""
        gone = [n for n, bubble in enumerate(self._bubbles) if bubble.message >= index]
        self._drop(gone[0] if gone else len(self._bubbles))

    def _on_retry(self, number: int | None) -> None:
        users = [n for n, bubble in enumerate(self._bubbles) if bubble.role == "user"]
        if number is not None:
            users = [n for n in users if n <= number]
        asked = users[-1] if users else -1
        events = self.session.retry(self._bubbles[asked].message if users else None)
        self._drop(asked + 1)
        self._play(events)

    def _on_edit(self, index: int) -> None:
        self.session.refuse_if_busy()
        self._put_back(index, self.session.messages[index]["content"], "editing")

    def _on_undo(self) -> None:
        message: Message = self.session.undo()
        self._drop_messages(len(self.session.messages))
        self._put_back(None, message["content"], "taken back")

    def _put_back(self, editing: int | None, content: list[Part], done: str = "") -> None:
        """Puts a message's parts where a new one is written, and says what was `done`; an empty one empties the box."""
        self._editing = editing
        texts = [part["text"] for part in content if part["type"] == "text"]
        self._tell("write", text="\n".join(texts))
        self._attached, lost = uploads.attachments_of(content, self._names)
        self._show("attached", "editing")
        if lost:
            self._say(f"{done}, but without {'; '.join(lost)}", "problem")
        elif done:
            self._say(done, "ready")

    def _on_clear(self) -> None:
        self.session.clear()
        self._drop(0)
        self._put_back(None, [])
        self._say("ready", "ready")

    # --- files that come in ---

    def _on_receive(self, header: dict[str, Any], buffers: list[Any]) -> None:
        """A chunk of a file; the page sends the next one when it hears how much is there."""
        there = header["size"]  # after a failure no more of it is wanted
        path = None
        try:
            there, path = self._uploads.take(header, bytes(buffers[0]), self.session.folder)
            if path is not None:
                self._attach(header["id"], header["name"], path)
        except (ValueError, OSError) as error:
            self._uploads.forget(header["id"])
            if path is not None:
                path.unlink(missing_ok=True)
            there = header["size"] or 1
            self._say(f"not attached: {error}", "problem")
        self._tell("received", id=header["id"], bytes=there)

    def _on_path(self, text: str) -> None:
        if text.strip():
            try:
                path = uploads.pasted_path(text)
                self._attach(f"path-{time.monotonic_ns()}", str(path), path)
            except (ValueError, OSError) as error:
                raise ValueError(f"not attached: {error}") from error

    def _attach(self, id: str, name: str, path: Path) -> None:
        self._attached.append(uploads.attachment(id, "", name, path))
        self._names[str(path)] = name
        self._show("attached")

    def _on_remove(self, id: str) -> None:
        self._uploads.forget(id)
        gone = [one for one in self._attached if one.id == id]
        self._attached = [one for one in self._attached if one.id != id]
        uploads.delete_unused(gone, self._attached, self.session.messages, self.session.folder)
        self._show("attached")

    # --- settings, runs, keeping ---

    def _on_choose(self, values: dict[str, Any]) -> None:
        settings.apply(values, self.session, self._served)
        self._show("hears")
        self._say("settings taken: they hold from the next reply on", "ready")

    def _on_switch(self, run: str) -> None:
        """Loads another run; the conversation goes on with it."""
        self.session.refuse_if_busy()
        self._say(f"loading {run}", "loading")

        def load() -> None:
            """Takes the model over when it is there, or says why it is not."""
            try:
                self.session.switch(AnyToAny.from_pretrained(check_page(run)))
                self._name = run
                self._say("ready", "ready")
            except Exception as error:  # of whatever kind: said in the page, kept in `error`
                self.error = error
                self._say(f"{run} was not loaded: {error}", "problem")
            self._show("title", "settings", "run", "runs")

        self._aside(load)

    def _on_save(self, path: str) -> None:
        folder = self.session.save(resolve(path))
        self._say(f"saved in {portable(folder)}", "ready")

    def _on_load(self, path: str) -> None:
        self.session.refuse_if_busy()
        self.session = Session.load(remote.local(check_page(path)), self.session.model)
        self._drop(0)
        self._put_back(None, [])  # what was attached or edited belongs to the conversation before
        for index in range(len(self.session.messages)):
            self._append(self._bubble(index))
        self._show("settings")
        self._say(f"{len(self._bubbles)} messages loaded", "ready")

    def _deliver(self, name: str, mime: str, data: bytes) -> None:
        """Has the page save a file where it is shown."""
        self._tell("deliver", data, name=name, mime=mime)

    def _on_download(self, request: dict[str, Any]) -> None:
        """Gives the page the whole medium of a piece, not what was reduced to be shown; an enlarged one as it was made if asked."""
        bubble = self._bubbles[request["bubble"]]
        content = self.session.messages[bubble.message]["content"]
        part = view.part_shown(bubble.pieces, request["piece"], content)
        larger = "enlarged" in part and not request.get("made")
        self._deliver(*(enlarged_file if larger else original)(part))

    # --- talking ---

    def _aside(self, work: Callable[[], None]) -> None:
        """Does work in a thread of its own, so that the page is heard meanwhile; at once where `blocking`."""
        if self.blocking:
            work()
            return
        if self._loop is not None:
            interrupts.forward(self._loop, _stop, _busy)
        threading.Thread(target=work, daemon=True).start()

    def _play(self, events: Events) -> None:
        """Draws a reply."""
        reply = Reply()
        self._append(Bubble("assistant", len(self.session.messages), reply.pieces))
        self._say("thinking")
        self._aside(lambda: self._follow(events, reply, len(self._bubbles) - 1))

    def _on_read(self, number: int) -> None:
        """Reads a message that stands aloud, and shows its sound beside the words."""
        bubble = self._bubbles[number]
        events = self.session.read_aloud(bubble.message)
        self._say("reading aloud")
        self._aside(lambda: self._follow(events, view.Reading(bubble.pieces), number))

    def _speak(self, event: Event) -> None:
        """Has the page play a sentence that was said."""
        if isinstance(event, Spoken):
            self._tell("say", media_files.to_bytes("audio", event.sound))

    def _follow(self, events: Events, reply: Reply, number: int) -> None:
        status = ("ready", "ready")
        if self._served:
            events = self._served.within(events, self.session.stop)
        try:
            for event, text in view.worth_drawing(events, reply):
                self._redraw(reply, number)
                self._speak(event)
                if text != self._status["text"]:
                    self._say(text)
        except KeyboardInterrupt:  # how a blocking reply is stopped
            reply.finish("stopped")
        except Exception as error:  # shown in the bubble, kept in `error`
            self.error = error
            reply.fail(error)
            status = ("the last reply failed: Retry draws it anew", "problem")
        finally:
            with interrupts.deferred():  # one that comes now has nothing left to stop
                events.close()
                self._redraw(reply, number)
                self._say(*status)

    def _redraw(self, reply: Reply, number: int) -> None:
        for at in sorted(reply.changed):
            self._draw(number, at)
        reply.changed.clear()


def _busy() -> bool:
    return any(chat.session.busy for chat in list(_CHATS))


def _stop() -> None:
    for chat in list(_CHATS):
        chat.session.stop()
