"""The chat as a Gradio page: python -m anytoany_lib.gradio_app [--run RUN] [--host HOST] [--port PORT].

Every browser session talks to a `chat.Session` of its own, all of them to one model, one reply at a time. The page is
for this machine alone unless --host says otherwise, and it is never shared. Text reaches the page as the HTML that
`rendering` makes, media as files of the browser session.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine

import gradio as gr
from gradio.utils import get_upload_folder

from anytoany_lib import media
from anytoany_lib.chat import Session, medium_of
from anytoany_lib.config import Profile, resolve
from anytoany_lib.events import (
    Done,
    Event,
    Loading,
    MediaFailed,
    MediaProgress,
    MediaReady,
    MediaStarted,
    TextDelta,
    TurnsDropped,
)
from anytoany_lib.messages import Message, Part
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.model import AnyToAny
from anytoany_lib.pages import write_page
from anytoany_lib.rendering import (
    CONTENT_STYLE,
    ENDED,
    ICON,
    SILENT,
    label_of,
    making_html,
    mime_of,
    note_html,
    original,
    part_html,
    text_html,
)
from anytoany_lib.runs import newest_run
from anytoany_lib.sampling import Sampling

EXAMPLES = (
    "Draw a red bell.",
    "Play the sound of a train.",
    "Film a green drum moving left.",
    "What is the capital of France?",
)
REDRAW_SECONDS, PREVIEW_STEPS = 0.1, 4
UPLOAD_BYTES = 256 * 2**20
_HINT = f"Write a message; attach pictures, sounds and clips of up to {UPLOAD_BYTES // 2**20} MB"
# Beside each download Gradio puts a button that shares the medium with the world: it is taken away.
_CSS = (
    CONTENT_STYLE
    + """
.message-buttons a[download] + button { display: none; }
.message .image-frame img { min-width: min(224px, 100%); }
"""
)
_DOTS = '<span class="a2a-note" aria-label="waiting">•••</span>'

Piece = str | dict[str, str]  # HTML, or a file by its path
Turn = dict[str, Any]


class Visitor:
    """A browser session: its conversation, and the folder with the files that its page shows."""

    def __init__(self, model: AnyToAny):
        self.session = Session(model)
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

    def piece(self, part: Part) -> Piece:
        """A part of a message as Gradio's chatbot takes it."""
        medium = medium_of(part)
        if part["type"] == "text" or medium is None:
            return _in_one_line(part_html(part))
        if not isinstance(medium, str | Path):
            path = (
                self.folder
                / f"{media.content_key(part['type'], medium)}{media.SUFFIX[part['type']]}"
            )
            if not path.exists():
                path.write_bytes(original(part)[2])
            medium = path
        return {"path": str(medium), "alt_text": label_of(part)}

    def turn(self, message: Message) -> Turn:
        """A message as Gradio's chatbot takes it."""
        return {"role": message["role"], "content": list(map(self.piece, message["content"]))}

    def turns(self) -> list[Turn]:
        """The conversation so far."""
        return list(map(self.turn, self.session.messages))


def _in_one_line(text: str) -> str:
    """The same HTML without line ends: to Gradio's markdown, a blank line would end it and begin markdown."""
    return text.replace("\n", "&#10;")


def _note(text: str, css: str = "a2a-note") -> Piece:
    return _in_one_line(note_html(text, css))


def _failure(error: Exception) -> Piece:
    return _note(f"⚠ {type(error).__name__}: {error}", "a2a-error")


def _growing(visitor: Visitor, events: Iterator[Event]) -> Iterator[list[Piece]]:
    """A reply as it grows, at most ten times a second, and as it ends."""
    pieces: list[Piece] = []
    making: dict[
        int, tuple[int, str]
    ] = {}  # by its number: a medium's place among the pieces, its kind
    text, drawn = "", time.monotonic()
    yield [_DOTS]
    for event in events:
        waiting: list[Piece] = []
        match event:
            case TurnsDropped(count):
                pieces.append(_note(f"the oldest {count} messages no longer fit and were not read"))
            case Loading(what):
                waiting = [_note(f"loading what reads or makes it: {what} …")]
            case TextDelta(more):
                if not text:
                    pieces.append("")
                text += more
                pieces[-1] = _in_one_line(text_html(text.strip()))
            case MediaStarted(index, kind):
                text, making[index] = "", (len(pieces), kind)
                pieces.append(_in_one_line(making_html(kind)))
            case MediaProgress(index, done, total, preview):
                at, kind = making[index]
                pieces[at] = _in_one_line(making_html(kind, done, total, preview))
            case MediaReady(index, part):
                pieces[making.pop(index)[0]] = visitor.piece(part)
            case MediaFailed(index, error):
                pieces[making.pop(index)[0]] = _failure(error)
            case Done(finish_reason=reason):
                for at, kind in making.values():
                    pieces[at] = _note(f"{ICON[kind]} {kind} not made")
                ending = ENDED.get(reason) or ("" if pieces else SILENT)
                waiting = [_note(ending)] if ending else []
        if waiting or isinstance(event, Done) or time.monotonic() - drawn >= REDRAW_SECONDS:
            yield [*pieces, *waiting]
            drawn = time.monotonic()


def _play(visitor: Visitor, begin: Callable[[], Iterator[Event]]) -> Iterator[list[Turn]]:
    """The conversation while a reply is drawn; what goes wrong stands in it with its cause."""
    try:
        events = begin()
        before = visitor.turns()
        for pieces in _growing(visitor, events):
            yield [*before, _saying(*pieces)]
    except Exception as error:  # told to the visitor, and to whoever runs the page
        logging.getLogger(__name__).warning("a reply failed", exc_info=error)
        yield [*visitor.turns(), _saying(_failure(error))]


def _saying(*pieces: Piece) -> Turn:
    return {"role": "assistant", "content": list(pieces)}


def _content(message: dict[str, Any]) -> list[Part]:
    """What was written and attached, as parts: media first."""
    parts: list[Part] = []
    for path in map(Path, message["files"]):
        kind = mime_of(path).split("/")[0]
        if kind not in MEDIA_KINDS:
            raise ValueError(f"{path.name}: expected a picture, a sound or a clip")
        parts.append({"type": kind, kind: path})
    text = message["text"].strip()
    return [*parts, {"type": "text", "text": text}] if text else parts


def _set(visitor: Visitor, seed: float | None, *fields: Any) -> None:
    """Takes over the settings as they stand in their fields, in the order of `_settings`; empty is the profile's own."""
    temperature, top_p, *whole, guidance, seconds, kinds = fields
    max_new_tokens, steps, frames = (None if number is None else int(number) for number in whole)
    visitor.session.seed = int(seed or 0)
    visitor.session.sampling = Sampling(
        temperature,
        top_p,
        max_new_tokens,
        tuple(kinds),
        guidance,
        steps,
        frames,
        seconds,
        PREVIEW_STEPS,
    )


def _send(visitor: Visitor, message: dict[str, Any], *settings: Any) -> Iterator[Any]:
    """Sends what is in the box, which is emptied only if that was accepted."""

    def begin() -> Iterator[Event]:
        _set(visitor, *settings)
        return visitor.session.send(_content(message))

    said = len(visitor.session.messages)
    for number, turns in enumerate(_play(visitor, begin)):
        accepted = number == 0 and len(visitor.session.messages) > said
        yield turns, gr.update(value=None) if accepted else gr.skip()


def _retry(visitor: Visitor, *settings: Any) -> Iterator[list[Turn]]:
    def begin() -> Iterator[Event]:
        _set(visitor, *settings)
        return visitor.session.retry()

    yield from _play(visitor, begin)


def _stop(visitor: Visitor) -> None:
    visitor.session.stop()


def _undo(visitor: Visitor) -> tuple[list[Turn], Any]:
    """Takes the last message back into the box, with its files."""
    try:
        parts = visitor.session.undo()["content"]
    except (ValueError, RuntimeError) as error:
        return [*visitor.turns(), _saying(_failure(error))], gr.skip()
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    files = [str(part[part["type"]]) for part in parts if part["type"] != "text"]
    return visitor.turns(), {"text": text, "files": files}


def _clear(visitor: Visitor) -> list[Turn]:
    try:
        visitor.session.clear()
    except RuntimeError as error:
        return [*visitor.turns(), _saying(_failure(error))]
    return []


def _save(visitor: Visitor, name: str) -> Any:
    """The conversation as a page and as an archive that `Session.load` opens once it is unpacked."""
    page = write_page(visitor.session.messages, visitor.folder / "conversation.html", about=name)
    folder = visitor.session.save(visitor.folder / "conversation")
    archive = shutil.make_archive(str(folder), "zip", folder)
    return gr.update(value=[str(page), archive], visible=True)


def _settings(model: AnyToAny) -> list[gr.components.Component]:
    """The fields of the settings, in the order in which `_set` takes them."""
    usual, kinds = Sampling(), list(model.profile.decoders)
    with gr.Accordion("Settings (an empty field is the profile's own)", open=False):
        with gr.Row():
            temperature = gr.Slider(0, 2, usual.temperature, label="Temperature")
            top_p = gr.Slider(0.05, 1, usual.top_p, label="Top-p")
            max_new_tokens = gr.Number(None, label="Max tokens", precision=0, minimum=1)
            seed = gr.Number(0, label="Seed", precision=0)
        with gr.Row():
            guidance = gr.Number(None, label="Guidance", minimum=1)
            steps = gr.Number(None, label="Diffusion steps", precision=0, minimum=1)
            frames = gr.Number(None, label="Frames of a clip", precision=0, minimum=2)
            seconds = gr.Number(None, label="Seconds of a sound", minimum=0.1)
        outputs = gr.CheckboxGroup(kinds, value=kinds, label="Outputs besides text")
    return [seed, temperature, top_p, max_new_tokens, steps, frames, guidance, seconds, outputs]


def build(model: AnyToAny, name: str = "") -> gr.Blocks:
    """The page; `name` says below its title what talks."""
    name = name or f"profile {model.profile.name}"
    with gr.Blocks(title="anytoany", fill_height=True, analytics_enabled=False) as page:
        visitor = gr.State(lambda: Visitor(model), delete_callback=Visitor.leave)
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
            stop, retry, undo, clear, save = map(
                gr.Button, ("Stop", "Retry", "Undo", "Clear", "Save")
            )
        saved = gr.File(label="The conversation", visible=False, file_count="multiple")
        gr.Examples([[{"text": text, "files": []}] for text in EXAMPLES], box, label="Try")
        settings = [visitor, *_settings(model)]
        one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1}
        box.submit(_send, [visitor, box, *settings[1:]], [chat, box], **one_at_a_time)
        retry.click(_retry, settings, chat, **one_at_a_time)
        stop.click(_stop, visitor, queue=False)
        undo.click(_undo, visitor, [chat, box])
        gr.on([clear.click, chat.clear], _clear, visitor, chat)
        save.click(lambda visitor: _save(visitor, name), visitor, saved, api_name="save")
    return page


def serve(
    model: AnyToAny, name: str = "", host: str = "127.0.0.1", port: int | None = 7860, **launch: Any
) -> gr.Blocks:
    """Serves the page until it is interrupted; further arguments go to `launch`."""
    page = build(model, name)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        css=_CSS,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        max_file_size=UPLOAD_BYTES,
        footer_links=[],
        **launch,
    )
    return page


def main() -> None:
    """Command line: serve a run, the newest one of profile tiny if none is named."""
    parser = argparse.ArgumentParser(description="Talk to a run in the browser, with Gradio.")
    parser.add_argument("--run", help="a run folder (default: the newest of profile tiny)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one)"
    )
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args()
    run = resolve(given.run) if given.run else newest_run(Profile.load("tiny").name)
    serve(AnyToAny.from_pretrained(run), f"run `{run}`", given.host, given.port)


if __name__ == "__main__":
    main()
