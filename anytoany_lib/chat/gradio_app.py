"""The chat as a Gradio page: anytoany gradio [--run RUN] [--host HOST] [--port PORT].

Every browser session talks to a `session.Session` of its own, all of them to one model, one reply at a time. The page is
for this machine alone unless --host says otherwise, for whoever has the link that is printed (see `access` for what they
may do), and it is never shared. Text reaches the page as the HTML that `html` makes, media as files of the browser session.
"""

from __future__ import annotations

import hashlib
import html
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from anytoany_lib.chat import access, settings
from anytoany_lib.chat.access import Answer, Gate, Limits, bytes_below, parser, without_places
from anytoany_lib.chat.export import archive, write_page
from anytoany_lib.chat.html import (
    CONTENT_STYLE,
    ICON,
    data_uri,
    figure_html,
    label_of,
    note_html,
    part_html,
    text_html,
)
from anytoany_lib.chat.session import Session
from anytoany_lib.chat.uploads import part_of
from anytoany_lib.chat.view import (
    EXAMPLES,
    PREVIEW_EVERY,
    Piece,
    Reply,
    for_visitors,
    note,
    problem,
    worth_drawing,
)
from anytoany_lib.generation.enlarged import shown_of
from anytoany_lib.generation.events import Events, Loading
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message, Part, medium_of
from anytoany_lib.model import AnyToAny

UPLOAD_BYTES = Limits.file_bytes
_STARTING = "/gradio_api/startup-events"  # which Gradio asks itself for, and nothing follows from
_HINT = f"Write a message; attach pictures, sounds and clips of up to {UPLOAD_BYTES // 2**20} MB"
# Beside each download Gradio puts a button that shares the medium with the world: it is taken away.
_CSS = f"""{CONTENT_STYLE}
.message-buttons a[download] + button {{ display: none; }}
.message .image-frame img {{ min-width: 192px; }}
"""

Shown = str | dict[str, str]  # as Gradio's chatbot takes it: HTML, or a file by its path
Turn = dict[str, Any]


class Visitor:
    """A browser session: its conversation, and the folder with the files that its page shows."""

    def __init__(self, model: AnyToAny, limits: Limits | None = None):
        self.limits = limits or Limits()
        self.session = Session(model, sampling=Sampling(preview_every=PREVIEW_EVERY))
        # Below Gradio's own folder: what lies elsewhere it would copy there, anew for every token.
        Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="anytoany-", dir=get_upload_folder())
        self.folder = Path(self._folder.name)

    def __deepcopy__(self, memo: dict) -> Visitor:
        """Itself: Gradio copies the state it has just had made for a browser session."""
        return self

    def leave(self) -> None:
        """Ends what is being drawn, and removes the files."""
        self.session.stop()
        self._folder.cleanup()

    def turns(self) -> list[Turn]:
        """The conversation so far."""
        return list(map(self._turn, self.session.messages))

    def _turn(self, message: Message) -> Turn:
        return {"role": message["role"], "content": list(map(self._part, message["content"]))}

    def _part(self, part: Part) -> Shown:
        kind = part["type"]
        if kind == "text" or medium_of(part) is None:
            return _in_one_line(part_html(part))
        medium = shown_of(part)
        if isinstance(medium, str | Path):
            return {"path": str(medium), "alt_text": label_of(part)}
        path = self.folder / f"{media_files.content_key(kind, medium)}{media_files.SUFFIX[kind]}"
        if not path.exists():
            path.write_bytes(media_files.to_bytes(kind, medium))
        return {"path": str(path), "alt_text": label_of(part)}

    def piece(self, piece: Piece) -> Shown:
        """A piece of a reply that grows, or of the chat's own."""
        piece = for_visitors(piece)
        kind = piece["kind"]
        if kind == "text":
            said = {"type": "audio", "caption": piece["text"]}
            player = figure_html(said, piece["mime"], piece["data"]) if "data" in piece else ""
            return _in_one_line(piece["html"] + player)
        if kind in media_files.SUFFIX:
            key = hashlib.blake2b(piece["data"], digest_size=16).hexdigest()
            path = self.folder / f"{key}{media_files.SUFFIX[kind]}"
            path.write_bytes(piece["data"])
            return {"path": str(path), "alt_text": piece["label"]}
        return {"making": _making, "note": _note, "error": _error, "dots": _dots}[kind](piece)


def _in_one_line(text: str) -> str:
    """The same HTML without line ends: to Gradio's markdown, a blank line would end it and begin markdown."""
    return text.replace("\n", "&#10;")


def _note(piece: Piece) -> str:
    return _in_one_line(note_html(piece["text"]))


def _error(piece: Piece) -> str:
    return _in_one_line(note_html(f"⚠ {piece['text']}", "a2a-error"))


def _dots(_: Piece) -> str:
    return '<span class="a2a-note" aria-label="waiting">•••</span>'


def _making(piece: Piece) -> str:
    """How far a medium is, with a first look at it if there is one."""
    steps, progress, look = "", "", ""
    if "total" in piece:
        steps = f" {piece['done']}/{piece['total']}"
        progress = f' max="{piece["total"]}" value="{piece["done"]}"'
    if "data" in piece:
        look = f'<br><img src="{data_uri(piece["mime"], piece["data"])}" alt="what it looks like so far">'
    text = html.escape(piece["text"])
    bar = f'<progress aria-label="{text}"{progress}></progress>'
    return f'<div class="a2a-note">{ICON[piece["medium"]]} {text} …{steps} {bar}{look}</div>'


def _play(visitor: Visitor, begin: Callable[[], Events]) -> Iterator[list[Turn]]:
    """The conversation while a reply is drawn; what goes wrong stands in it with its cause."""
    reply, before = Reply(), visitor.turns()
    shown: list[Shown] = [_dots({})]
    making: dict[int, Piece] = {}

    def turns(*waiting: Shown) -> list[Turn]:
        """The conversation with what has come of the reply by now."""
        for at in sorted(reply.changed):
            piece = reply.pieces[at]
            if piece["kind"] == "making":  # a look at it stays until the next one
                piece = making[at] = making.get(at, {}) | piece
            shown[at : at + 1] = [visitor.piece(piece)]
        reply.changed.clear()
        return [*before, {"role": "assistant", "content": [*shown, *waiting]}]

    try:
        with closing(visitor.limits.within(begin(), visitor.session.stop)) as events:
            before = visitor.turns()
            yield turns()
            for event, status in worth_drawing(events, reply):
                yield turns(*([_note(note(status))] if isinstance(event, Loading) else []))
    except Exception as error:  # told to the visitor, and to whoever runs the page
        logging.getLogger(__name__).warning("a reply failed", exc_info=error)
        reply.fail(error)
        yield turns()


def _refusal(visitor: Visitor, error: Exception) -> list[Turn]:
    """The conversation, and below it why something cannot be done."""
    return [*visitor.turns(), {"role": "assistant", "content": [visitor.piece(problem(error))]}]


def _content(message: dict[str, Any]) -> list[Part]:
    """What was written and attached, as parts: media first. ValueError if a file is no medium."""
    parts = [part_of(path, path.name) for path in map(Path, message["files"])]
    text = message["text"].strip()
    return [*parts, {"type": "text", "text": text}] if text else parts


def _set(visitor: Visitor, values: tuple[Any, ...]) -> None:
    """Takes over the values of the fields of the settings, in the order of `_settings`."""
    names = [field["name"] for field in settings.fields_of(visitor.session)]
    settings.apply(dict(zip(names, values, strict=True)), visitor.session, visitor.limits)


def _send(visitor: Visitor, message: dict[str, Any], *values: Any) -> Iterator[Any]:
    """Sends what is in the box, which is emptied only if that was accepted."""

    def begin() -> Events:
        _set(visitor, values)
        visitor.limits.check_text(message["text"], len(visitor.session.messages))
        return visitor.session.send(_content(message))

    before = len(visitor.session.messages)
    for number, turns in enumerate(_play(visitor, begin)):
        accepted = number == 0 and len(visitor.session.messages) > before
        yield turns, gr.update(value=None) if accepted else gr.skip()


def _retry(visitor: Visitor, *values: Any) -> Iterator[list[Turn]]:
    def begin() -> Events:
        _set(visitor, values)
        return visitor.session.retry()

    yield from _play(visitor, begin)


def _read_aloud(visitor: Visitor) -> list[Turn]:
    """Says the last reply: a player stands below its words."""
    replies = [n for n, turn in enumerate(visitor.session.messages) if turn["role"] == "assistant"]
    try:
        with closing(visitor.session.read_aloud(replies[-1] if replies else -1)) as events:
            list(visitor.limits.within(events, visitor.session.stop))
    except (ValueError, RuntimeError, OSError) as error:
        return _refusal(visitor, error)
    return visitor.turns()


def _stop(visitor: Visitor) -> None:
    visitor.session.stop()


def _undo(visitor: Visitor) -> tuple[list[Turn], Any]:
    """Takes the last message back into the box, with its files."""
    try:
        parts = visitor.session.undo()["content"]
    except (ValueError, RuntimeError) as error:
        return _refusal(visitor, error), gr.skip()
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    files = [str(part[part["type"]]) for part in parts if part["type"] != "text"]
    return visitor.turns(), {"text": text, "files": files}


def _clear(visitor: Visitor) -> list[Turn]:
    try:
        visitor.session.clear()
    except RuntimeError as error:
        return _refusal(visitor, error)
    return []


def _save(visitor: Visitor, name: str) -> Any:
    """The conversation as a page and as an archive that `Session.load` opens once it is unpacked."""
    session, kept = visitor.session, visitor.folder / "conversation.zip"
    try:
        page = write_page(session.messages, kept.with_suffix(".html"), about=name)
        kept.write_bytes(archive(session.save))
    except (ValueError, OSError) as error:  # a vanished file, a full disk
        raise gr.Error(f"not saved: {without_places(str(error))}") from error
    return gr.update(value=[str(page), str(kept)], visible=True)


def _settings(model: AnyToAny) -> list[gr.components.Component]:
    """The fields of the settings. Numbers are text, since Gradio makes 0 of an empty number."""
    inputs: list[gr.components.Component] = []
    with gr.Accordion("Settings", open=False), gr.Row():
        for field in settings.fields(model.profile, Sampling(), 0):
            common = {"label": field["label"], "info": field["tip"], "min_width": 150}
            if field["type"] == "checkbox":
                inputs.append(gr.Checkbox(field["value"], **common))
            else:
                value = "" if field["value"] is None else str(field["value"])
                inputs.append(gr.Textbox(value, placeholder=field.get("placeholder"), **common))
    return inputs


class Gated:
    """Gradio behind a `Gate`, which every request passes first, and with an end to the room for uploads."""

    def __init__(self, app: Any, gate: Gate, limits: Limits):
        self._app, self._gate = app, gate
        self._room = limits.quota_bytes * limits.visitors

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers a request, or has Gradio answer it."""
        if scope["type"] not in ("http", "websocket") or scope["path"] == _STARTING:
            return await self._app(scope, receive, send)
        headers = {name.decode().title(): text.decode("latin-1") for name, text in scope["headers"]}
        target = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
        answer = self._gate.answer(target, headers)
        if answer and scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if not answer and scope["path"].endswith("/upload") and self._full():
            answer = Answer(413, "what visitors uploaded fills the room there is")
        if not answer:
            return await self._app(scope, receive, send)
        response = PlainTextResponse(answer.text, answer.status, dict(answer.headers))
        return await response(scope, receive, send)

    def _full(self) -> bool:
        return bytes_below(Path(get_upload_folder())) > self._room


def build(model: AnyToAny, name: str = "", limits: Limits | None = None) -> gr.Blocks:
    """The page; `name` says below its title what talks."""
    name, limits = name or f"profile {model.profile.name}", limits or Limits()
    kept = (60, 3 * limits.idle_seconds)
    options = {"title": "anytoany", "fill_height": True, "analytics_enabled": False}
    with gr.Blocks(**options, delete_cache=kept) as page:
        visitor = gr.State(
            lambda: Visitor(model, limits),
            time_to_live=3 * limits.idle_seconds,
            delete_callback=Visitor.leave,
        )
        gr.Markdown(f"### anytoany\n{_in_one_line(text_html(name))}", latex_delimiters=[])
        chat = gr.Chatbot(
            label="Conversation",
            height="60vh",
            buttons=[],
            latex_delimiters=[],
            allow_tags=False,
            feedback_options=None,
        )
        box = gr.MultimodalTextbox(
            placeholder=_HINT,
            show_label=False,
            label="Message",
            file_count="multiple",
            sources=["upload", "microphone"],
            autofocus=True,
        )
        with gr.Row():
            stop, retry, read, undo, clear, save = map(
                gr.Button, ("Stop", "Retry", "Read aloud", "Undo", "Clear", "Save")
            )
        saved = gr.File(label="The conversation", visible=False, file_count="multiple")
        gr.Examples([[{"text": text, "files": []}] for text in EXAMPLES], box, label="Try")
        values = _settings(model)
        one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1}
        box.submit(_send, [visitor, box, *values], [chat, box], **one_at_a_time)
        retry.click(_retry, [visitor, *values], chat, **one_at_a_time)
        read.click(_read_aloud, visitor, chat, **one_at_a_time)
        stop.click(_stop, visitor, queue=False)
        undo.click(_undo, visitor, [chat, box])
        gr.on([clear.click, chat.clear], _clear, visitor, chat)
        save.click(lambda visitor: _save(visitor, name), visitor, saved, api_name="save")
    return page.queue(max_size=limits.waiting)


def serve(
    model: AnyToAny,
    name: str = "",
    host: str = "127.0.0.1",
    port: int | None = 7860,
    gate: Gate | None = None,
    limits: Limits | None = None,
    **launch: Any,
) -> gr.Blocks:
    """Serves the page until it is interrupted, behind a gate with a token unless another one is given; further arguments go
    to `launch`.
    """
    limits = limits or Limits()
    page = build(model, name, limits)
    gated = Middleware(Gated, gate=gate or Gate.of(None, ()), limits=limits)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        css=_CSS,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        max_file_size=limits.file_bytes,
        app_kwargs={"middleware": [gated]},
        footer_links=[],
        **launch,
    )
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: serve a run, the newest one of profile tiny if none is named."""
    command = parser("gradio", "Talk to a run in the browser, with Gradio.", 7860)
    given = command.parse_args(arguments)
    access.check_port(given.host, given.port)
    run = access.run_named(given.run)
    model, gate = AnyToAny.from_pretrained(run), access.gate_of(given)
    with tempfile.TemporaryDirectory(prefix="anytoany-gradio-") as folder:
        # Whatever visitors upload, and what is made for them, lies in here and goes with it.
        os.environ["GRADIO_TEMP_DIR"] = folder
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"the chat is at {gate.link(given.host, given.port)}", flush=True)
        serve(model, f"run `{access.shown_name(run)}`", given.host, given.port, gate, quiet=True)
