"""Conversations as HTML: what the chat widget puts in its bubbles, and `show` for static output.

In come messages or their parts, out comes HTML with the media in it as data URIs. Whatever users and models wrote is
escaped; large media are reduced for the page.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

from IPython.display import HTML, Audio, Image, Video, display

from anytoany_lib import media
from anytoany_lib.chat import medium_of
from anytoany_lib.messages import Message, Part, parts_of

# What a page gets of a large medium; the model reads the whole.
PREVIEW_PIXELS, PREVIEW_SECONDS, PREVIEW_FRAMES = 1024, 60.0, 96
SHOWN_WIDTH = {"image": 224, "video": 256}  # at least: pixels on the screen
MAKING = {"image": "drawing a picture", "audio": "making a sound", "video": "filming a clip"}
ICON = {"image": "🖼", "audio": "🔊", "video": "🎞"}

STYLE = """<style>
.a2a-chat { border: 1px solid var(--jp-border-color2, #ccc); border-radius: 12px; max-width: 860px;
  overflow: hidden; color: var(--jp-ui-font-color1, inherit); background: var(--jp-layout-color1, transparent); }
.a2a-chat .widget-html-content, .a2a-chat .widget-html { line-height: 1.45; font-size: 14px; height: auto; }
.a2a-header { border-bottom: 1px solid var(--jp-border-color2, #ddd); padding: 6px 14px; }
.a2a-header b { margin-right: 10px; }
.a2a-ready::before { content: "● "; color: #2e9e5b; }
.a2a-busy::before { content: "● "; color: #e08a00; animation: a2a-blink 1s infinite; }
.a2a-problem::before { content: "▲ "; color: #d33; }
.a2a-log { padding: 12px 14px; gap: 10px; }
.a2a-bubble { max-width: 82%; border-radius: 14px; padding: 4px 12px; overflow: hidden; flex: 0 0 auto; }
.a2a-user { align-self: flex-end; background: rgba(33, 150, 243, .18); border-bottom-right-radius: 4px; }
.a2a-model { align-self: flex-start; background: rgba(128, 128, 128, .14); border-bottom-left-radius: 4px; }
.a2a-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.a2a-bubble img, .a2a-bubble video { max-width: 100%; height: auto; border-radius: 8px; display: block; margin: 4px 0; }
.a2a-bubble audio { width: 260px; max-width: 100%; display: block; margin: 4px 0; }
.a2a-bubble progress { width: 220px; max-width: 100%; display: block; }
.a2a-note { font-size: 12px; opacity: .65; }
.a2a-error { color: #d33; overflow-wrap: anywhere; }
.a2a-dots { animation: a2a-blink 1s infinite; letter-spacing: 3px; }
@keyframes a2a-blink { 50% { opacity: .25; } }
.a2a-input textarea { font-family: inherit; font-size: 14px; }
.a2a-inputs { border-top: 1px solid var(--jp-border-color2, #ddd); padding: 8px 12px; }
.a2a-chip { border: 1px solid var(--jp-border-color2, #ccc); border-radius: 14px; padding: 0 2px 0 10px; margin: 2px; }
.a2a-chip button { background: none; box-shadow: none; }
</style>"""


def preview(part: Part) -> tuple[str, bytes]:
    """A part's medium as something every browser plays: (MIME type, bytes), large ones reduced.

    Raises MediaError if it cannot be read.
    """
    kind, medium = part["type"], medium_of(part)
    if kind == "image":
        medium = media.as_image(medium).copy()
        medium.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
    elif kind == "audio":
        if isinstance(medium, str | Path):
            medium = media.load_audio(medium, max_seconds=PREVIEW_SECONDS)
        medium = (medium[0][: int(PREVIEW_SECONDS * medium[1])], medium[1])
    elif isinstance(medium, str | Path):
        medium = media.load_video(medium, num_frames=PREVIEW_FRAMES, short_side=256)
    return media.MIME[kind], media.to_bytes(kind, medium)


def text_html(text: str) -> str:
    return f'<div class="a2a-text">{html.escape(text)}</div>'


def note_html(text: str, css: str = "a2a-note") -> str:
    return f'<div class="{css}">{html.escape(text)}</div>'


def making_html(kind: str, done: int = 0, total: int = 0) -> str:
    steps = f" {done}/{total}" if total else ""
    bar = (
        f'<progress max="{total}" value="{done}"></progress>' if total else "<progress></progress>"
    )
    return f'<div class="a2a-making a2a-note">{ICON[kind]} {MAKING[kind]} …{steps}{bar}</div>'


def medium_html(part: Part) -> str:
    """A medium in the page itself, as a data URI."""
    kind = part["type"]
    mime, data = preview(part)
    source = f'src="data:{mime};base64,{base64.b64encode(data).decode()}"'
    style = f'style="min-width: min({SHOWN_WIDTH.get(kind, 0)}px, 100%)"'
    if kind == "image":
        return f'<img {source} {style} alt="{kind}">'
    if kind == "audio":
        return f"<audio controls {source}></audio>"
    return f"<video controls autoplay loop muted playsinline {source} {style}></video>"


def part_html(part: Part) -> str:
    if part["type"] == "text":
        return text_html(part["text"])
    if medium_of(part) is None:
        return note_html(f"[{part['type']}: {part.get('caption', '')}]")
    return medium_html(part)


def show(messages: list[Message]) -> None:
    """Displays a conversation as static output that every notebook viewer can show and that survives saving."""
    names = {"user": "You", "assistant": "Model", "system": "System"}
    for message in messages:
        role, parts = message["role"], parts_of(message)
        opening = parts[0].get("text", "") if parts else ""
        display(HTML(_box(role, f"<b>{names[role]}</b>&ensp;{_with_breaks(opening)}")))
        for number, part in enumerate(parts):
            if part["type"] != "text" and medium_of(part) is not None:
                _show_medium(part)
            elif part["type"] != "text":
                display(HTML(part_html(part)))
            elif number:
                display(HTML(_box(role, _with_breaks(part["text"]))))


def _with_breaks(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _box(role: str, content: str) -> str:
    """Content in the colour of a role; styled in place, since saved notebooks lose style sheets."""
    tint = "33, 150, 243, .16" if role == "user" else "128, 128, 128, .12"
    box = f"background: rgba({tint}); border-radius: 8px; padding: 4px 12px; margin: 4px 0"
    return f'<div style="{box}">{content}</div>'


def _show_medium(part: Part) -> None:
    kind = part["type"]
    mime, data = preview(part)
    if kind == "image":
        width = media.as_image(medium_of(part)).width
        display(Image(data, format="png", width=min(max(width, SHOWN_WIDTH[kind]), 512)))
    elif kind == "audio":
        display(Audio(data))
    else:
        options = {"html_attributes": "controls loop muted", "width": SHOWN_WIDTH[kind]}
        display(Video(data, embed=True, mimetype=mime, **options))
