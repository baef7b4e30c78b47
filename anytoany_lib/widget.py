"""The chat in a notebook cell: `Chat(model)` to talk, `show(messages)` to leave a conversation behind as static output.

A `Chat` sends what is typed and attached to a `chat.Session` and draws the events that come back into bubbles. Works with
ipywidgets 8 and 7 (Colab). Its parts carry the CSS classes a2a-chat, a2a-bubble, a2a-input, a2a-send, a2a-stop, a2a-upload
and so on.
"""

from __future__ import annotations

import html
import mimetypes
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from anytoany_lib import media
from anytoany_lib.bubbles import Bubble, ReplyBubble
from anytoany_lib.chat import Session
from anytoany_lib.containers import MediaError
from anytoany_lib.generation import Event, Sampling
from anytoany_lib.messages import Message
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.model import AnyToAny
from anytoany_lib.rendering import ICON, STYLE, part_html, show

__all__ = ["Chat", "kind_of", "show", "uploaded"]

# Jupyter drops larger uploads without a word, unless its server was started with a larger
# ServerApp.tornado_settings websocket_max_message_size.
UPLOAD_LIMIT = "above 10 MB: by path"


def uploaded(value: Any) -> list[tuple[str, str, bytes]]:
    """FileUpload's value in ipywidgets 8 (a tuple) or 7 (a dict by name) -> (name, MIME type, bytes) of each file."""
    if isinstance(value, dict):
        return [
            (name, file["metadata"].get("type", ""), bytes(file["content"]))
            for name, file in value.items()
        ]
    return [(file["name"], file["type"], bytes(file["content"])) for file in value]


def kind_of(name: str, mime: str = "") -> str:
    """The kind of medium that a file is by its MIME type or, without one, its name. ValueError if it is none."""
    for found in (mime, mimetypes.guess_type(name)[0] or ""):
        if found.split("/")[0] in MEDIA_KINDS:
            return found.split("/")[0]
    raise ValueError(
        f"{name}: expected a picture, a sound or a clip, found {mime or 'no known type'}"
    )


class Chat(widgets.VBox):
    """A conversation with a model in a cell: `Chat(model)` as its last line.

    `session` goes on with a conversation (then `seed` and `sampling` are the session's own); `name` says in the header
    what is talking. `blocking` draws replies inside the button's callback, which Colab needs (and is told by itself):
    Stop does not work then, but interrupting the kernel does. The last failure is in `error`.
    """

    def __init__(
        self,
        model: AnyToAny,
        session: Session | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
        name: str = "",
        blocking: bool | None = None,
        height: str = "460px",
    ):
        self.session = session or Session(model, seed, sampling)
        self.blocking = "google.colab" in sys.modules if blocking is None else blocking
        self.error: BaseException | None = None
        self._name = name or f"profile {model.profile.name}"
        self._attached: list[tuple[str, str, Path]] = []  # (kind, name, path)
        self._folder = Path(tempfile.mkdtemp(prefix="anytoany-chat-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._uploads = 0
        super().__init__([*self._make_log(height), self._make_inputs()])
        self.add_class("a2a-chat")
        for message in self.session.messages:
            self._append(self._bubble_of(message))
        self._set_busy(False)

    def __repr__(self) -> str:
        return f"Chat({self._name}, {len(self.session.messages)} messages)"

    # --- what it is made of ---

    def _make_log(self, height: str) -> list[widgets.Widget]:
        self._status = widgets.HTML()
        header = widgets.VBox([widgets.HTML(STYLE, layout={"display": "none"}), self._status])
        header.add_class("a2a-header")
        self._log = widgets.VBox(layout={"flex": "0 0 auto", "margin": "0 0 auto 0"})
        self._log.add_class("a2a-log")
        # Reversed, the box stays at its end while the log grows, unless the reader has scrolled up.
        scroller = widgets.VBox(
            [self._log],
            layout={"height": height, "overflow": "auto", "flex_flow": "column-reverse"},
        )
        scroller.add_class("a2a-scroll")
        return [header, scroller]

    def _button(
        self, text: str, css: str, tip: str, action: Any, style: str = ""
    ) -> widgets.Button:
        button = widgets.Button(
            description=text, tooltip=tip, button_style=style, layout={"width": "auto"}
        )
        button.add_class(css)
        button.on_click(lambda _: action())
        return button

    def _make_inputs(self) -> widgets.Widget:
        self._input = widgets.Textarea(
            placeholder="Write a message, attach pictures, sounds or clips, and press Send",
            layout={"width": "auto", "flex": "1 1 auto", "height": "64px"},
        )
        self._input.add_class("a2a-input")
        self._send_button = self._button(
            "Send", "a2a-send", "Send the message", self._on_send, "primary"
        )
        self._stop_button = self._button(
            "Stop", "a2a-stop", "End the reply here", self.session.stop, "warning"
        )
        self._retry_button = self._button(
            "Retry", "a2a-retry", "Draw the last reply anew", self._on_retry
        )
        self._clear_button = self._button(
            "Clear", "a2a-clear", "Forget the conversation", self._on_clear
        )
        self._path = widgets.Text(
            placeholder="or a file's path, then Enter",
            continuous_update=False,
            layout={"width": "220px"},
        )
        self._path.add_class("a2a-path")
        self._path.observe(self._on_path, "value")
        self._chips = widgets.HBox(layout={"flex_flow": "row wrap"})
        self._chips.add_class("a2a-chips")
        self._tools = widgets.HBox(layout={"flex_flow": "row wrap", "align_items": "center"})
        self._new_upload()
        writing = widgets.HBox(
            [
                self._input,
                widgets.VBox([self._send_button, self._stop_button], layout={"width": "84px"}),
            ]
        )
        inputs = widgets.VBox([self._chips, writing, self._tools])
        inputs.add_class("a2a-inputs")
        return inputs

    def _new_upload(self) -> None:
        """A fresh FileUpload: emptying one that was used is done differently in ipywidgets 7 and 8."""
        upload = widgets.FileUpload(
            accept="image/*,audio/*,video/*",
            multiple=True,
            description="Attach",
            layout={"width": "auto"},
        )
        upload.add_class("a2a-upload")
        upload.observe(self._on_upload, "value")
        limit = widgets.HTML(f'<span class="a2a-note">{html.escape(UPLOAD_LIMIT)}</span>')
        self._tools.children = (upload, self._path, self._retry_button, self._clear_button, limit)

    # --- attachments ---

    def _on_upload(self, change: dict[str, Any]) -> None:
        for name, mime, content in uploaded(change["new"]):
            self._uploads += 1
            path = self._folder / f"{self._uploads}{Path(name).suffix[:8]}"
            path.write_bytes(content)
            self._attach(name, mime, path)
        self._new_upload()
        change["owner"].close()

    def _on_path(self, change: dict[str, Any]) -> None:
        if change["new"].strip():
            path = Path(change["new"].strip()).expanduser()
            self._path.value = ""
            self._attach(path.name, "", path)

    def _attach(self, name: str, mime: str, path: Path) -> None:
        """Takes a file into the message to be sent, if it is a medium that can be read."""
        try:
            kind = kind_of(name, mime)
            media.as_media(kind, path)
        except MediaError as error:
            self._say(f"not attached: {name}: {error.reason}: {error.detail}", "problem")
            return
        except ValueError as error:
            self._say(f"not attached: {error}", "problem")
            return
        self._attached.append((kind, name, path))
        self._draw_chips()

    def _detach(self, attached: tuple[str, str, Path]) -> None:
        self._attached.remove(attached)
        self._draw_chips()

    def _draw_chips(self) -> None:
        chips = []
        for attached in self._attached:
            kind, name, _ = attached
            remove = self._button(
                "✕",
                "a2a-remove",
                f"Remove {name}",
                lambda attached=attached: self._detach(attached),
            )
            chip = widgets.HBox([widgets.HTML(f"{ICON[kind]} {html.escape(name)}"), remove])
            chip.add_class("a2a-chip")
            chips.append(chip)
        self._chips.children = chips

    # --- talking ---

    def _say(self, text: str, state: str) -> None:
        """The status line; state is "ready", "busy" or "problem"."""
        self._status.value = (
            f'<b>{html.escape(self._name)}</b><span class="a2a-note a2a-{state}">'
            f"{html.escape(text)}</span>"
        )

    def _set_busy(self, busy: bool, text: str = "") -> None:
        self._send_button.disabled = self._retry_button.disabled = self._clear_button.disabled = (
            busy
        )
        self._stop_button.disabled = not busy
        self._say(text or ("thinking" if busy else "ready"), "busy" if busy else "ready")

    def _append(self, bubble: Bubble) -> None:
        self._log.children = (*self._log.children, bubble.box)

    def _keep_bubbles(self, count: int) -> None:
        """Takes all but the first `count` bubbles off the screen and out of memory."""
        dropped = self._log.children[count:]
        self._log.children = self._log.children[:count]
        for box in dropped:
            for piece in box.children:
                piece.close()
            box.close()

    def _bubble_of(self, message: Message) -> Bubble:
        bubble = Bubble(message["role"])
        for part in message["content"]:
            bubble.add(part_html(part))
        return bubble

    def _on_send(self) -> None:
        if self._send_button.disabled:  # a second click, on its way while the first was served
            return
        content = [{"type": kind, kind: path} for kind, _, path in self._attached]
        if self._input.value.strip():
            content.append({"type": "text", "text": self._input.value.strip()})
        try:
            events = self.session.send(content)
        except (ValueError, RuntimeError) as error:
            self._say(str(error), "problem")
            return
        self._input.value, self._attached = "", []
        self._draw_chips()
        self._append(self._bubble_of(self.session.messages[-1]))
        self._play(events)

    def _on_retry(self) -> None:
        if self._retry_button.disabled:
            return
        try:
            events = self.session.retry()
        except (ValueError, RuntimeError) as error:
            self._say(str(error), "problem")
            return
        if "a2a-model" in self._log.children[-1]._dom_classes:
            self._keep_bubbles(len(self._log.children) - 1)
        self._play(events)

    def _on_clear(self) -> None:
        if self._clear_button.disabled:
            return
        self.session.clear()
        self._keep_bubbles(0)
        self._attached = []
        self._draw_chips()
        self._say("ready", "ready")

    def _play(self, events: Iterator[Event]) -> None:
        """Draws a reply, in a thread of its own unless replies are blocking."""
        bubble = ReplyBubble()
        self._append(bubble)
        self._set_busy(True)
        if self.blocking:
            self._follow(events, bubble)
        else:
            threading.Thread(target=self._follow, args=(events, bubble), daemon=True).start()

    def _follow(self, events: Iterator[Event], bubble: ReplyBubble) -> None:
        said = "ready"
        try:
            for event in events:
                self._say(bubble.take(event), "busy")
        except KeyboardInterrupt:  # how a blocking reply is stopped
            bubble.finish("stopped")
        except Exception as error:  # shown in the bubble, kept in `error`
            self.error = error
            bubble.fail(error)
            said = "the last reply failed: Retry draws it anew"
        finally:
            events.close()
            self._set_busy(False, said)
