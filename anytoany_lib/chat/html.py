"""Conversations as HTML: what the chat widget puts in its bubbles, and `show` for static output.

In come messages or their parts, out comes HTML with the media in it as data URIs. Whatever users and models wrote is
rendered by `markdown`, which lets nothing of it act; large media are reduced for the page.
"""

from __future__ import annotations

import base64
import html
import math
from pathlib import Path

from IPython.display import HTML, Audio, Image, Video, display

from anytoany_lib.chat import markdown
from anytoany_lib.generation.enlarged import enlarged_of, enlargement, shown_of
from anytoany_lib.media import media_files, senses
from anytoany_lib.media.containers import MediaError, decoding, existing_file
from anytoany_lib.media.file_types import MIME_OF
from anytoany_lib.messages import Message, Part, medium_of, parts_of
from anytoany_lib.modalities import SENSED_KINDS
from anytoany_lib.speech.spoken_parts import sound_part

# What a page gets of a large medium; the model reads the whole.
PREVIEW_PIXELS, PREVIEW_SECONDS, PREVIEW_FRAMES = 1024, 60.0, 96
PREVIEW_RATE = 60.0  # frames a second, at most
SHOWN_WIDTH = {"image": 224, "audio": 260, "video": 256} | dict.fromkeys(
    SENSED_KINDS, 224
)  # pixels, at least
SHOWN_HEIGHT = 480  # at most
MAKING = {"image": "drawing a picture", "audio": "making a sound", "video": "filming a clip"}
ICON = {"image": "🖼", "audio": "🔊", "video": "🎞", "depth": "📏", "thermal": "🌡", "imu": "📈"}
NAMES = {"user": "You", "assistant": "Model", "system": "System"}

# How text and media look wherever they are shown; the colours follow those around them.
CONTENT_STYLE = """
.a2a-text { overflow-wrap: anywhere; line-height: 1.5; }
.a2a-text :is(p, li, h1, h2, h3, h4, h5, h6, th, td, blockquote) { unicode-bidi: plaintext; text-align: start; }
.a2a-text :is(pre, code) { direction: ltr; unicode-bidi: isolate; text-align: left; }
.a2a-text > :first-child { margin-top: 0; }
.a2a-text > :last-child { margin-bottom: 0; }
.a2a-text :is(p, ul, ol, pre, blockquote, table) { margin: .5em 0; }
.a2a-text :is(h1, h2, h3, h4, h5, h6) { font-size: 1.1em; font-weight: 600; margin: .8em 0 .3em; }
.a2a-text :is(ul, ol) { padding-left: 1.5em; }
.a2a-text a { color: inherit; text-decoration: underline; text-underline-offset: 2px; }
.a2a-text code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9em; color: inherit;
  background: rgba(128, 128, 128, .2); border-radius: 4px; padding: .1em .3em; }
.a2a-text pre { background: rgba(128, 128, 128, .16); border-radius: 8px; padding: .6em .8em; overflow-x: auto; }
.a2a-text pre code { background: none; padding: 0; white-space: pre; overflow-wrap: normal; }
.a2a-text blockquote { border-left: 3px solid rgba(128, 128, 128, .5); padding-left: .8em; opacity: .85; }
.a2a-text table { border-collapse: collapse; display: block; width: fit-content; max-width: 100%; overflow-x: auto;
  overflow-wrap: break-word; }
.a2a-text :is(th, td) { border: 1px solid rgba(128, 128, 128, .4); padding: .25em .6em; }
.a2a-text hr { border: 0; border-top: 1px solid rgba(128, 128, 128, .4); }
.a2a-medium :is(img, video, audio) { border-radius: 8px; }
.a2a-note { font-size: 12px; opacity: .7; }
.a2a-error { color: #d33; overflow-wrap: anywhere; }
"""


def preview(part: Part) -> tuple[str, bytes]:
    """A part's medium, enlarged if it has that, as something every browser plays: (MIME type, bytes), large ones reduced.

    Raises MediaError if it cannot be read.
    """
    kind, medium = part["type"], shown_of(part)
    if kind in SENSED_KINDS:
        kind, medium = "image", senses.picture(kind, medium)
    if kind == "image":
        medium = media_files.as_image(medium).copy()
        medium.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
    elif kind == "audio":
        if isinstance(medium, str | Path):
            medium = media_files.load_audio(medium, max_seconds=PREVIEW_SECONDS)
        medium = (medium[0][: int(PREVIEW_SECONDS * medium[1])], medium[1])
    elif isinstance(medium, str | Path):
        frames, fps = media_files.load_video(medium, num_frames=PREVIEW_FRAMES, short_side=256)
        # Of a short clip each frame is there several times.
        spare = max(1, min(math.ceil(fps / PREVIEW_RATE), len(frames) // 2))
        medium = (frames[::spare], min(fps / spare, PREVIEW_RATE))
    return media_files.MIME[kind], media_files.to_bytes(kind, medium)


def original(part: Part) -> tuple[str, str, bytes]:
    """A part's medium as it is, for keeping: (file name, MIME type, bytes).

    A file keeps its own bytes and name; what a model made becomes PNG, WAV or MP4. Raises MediaError if it cannot be
    read.
    """
    kind, medium = part["type"], medium_of(part)
    if not isinstance(medium, str | Path):
        return (
            f"{kind}{media_files.SUFFIX[kind]}",
            media_files.MIME[kind],
            media_files.to_bytes(kind, medium),
        )
    path = existing_file(medium)
    with decoding(path):
        return path.name, _mime(path), path.read_bytes()


def enlarged_file(part: Part) -> tuple[str, str, bytes]:
    """A part's enlarged medium, for keeping as well: (file name, MIME type, bytes)."""
    kind = part["type"]
    name = f"{kind}-enlarged{media_files.SUFFIX[kind]}"
    return name, media_files.MIME[kind], media_files.to_bytes(kind, enlarged_of(part))


def _mime(path: Path) -> str:
    """The MIME type that a file's name says, if it is one of a medium: a page never gets another."""
    return MIME_OF.get(path.suffix.lower(), "application/octet-stream")


def data_uri(mime: str, data: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def text_html(text: str) -> str:
    """Markdown that somebody wrote, as HTML that is only to be read."""
    return f'<div class="a2a-text">{markdown.to_html(text)}</div>'


def note_html(text: str, css: str = "a2a-note") -> str:
    """A plain sentence of the chat's own."""
    return f'<div class="{css}">{html.escape(text)}</div>'


def label_of(part: Part) -> str:
    """A medium in words, for those who do not see or hear it."""
    caption, larger = part.get("caption"), enlargement(part)
    label = f"{part['type']}: {caption}" if caption else part["type"]
    return f"{label} ({larger})" if larger else label


def medium_html(part: Part) -> str:
    """A medium in the page itself, as a data URI, large ones reduced; clips play by themselves, without sound."""
    return figure_html(part, *preview(part), moving=True)


def figure_html(part: Part, mime: str, data: bytes, below: str = "", moving: bool = False) -> str:
    """A picture or a player for these bytes of a part's medium, with HTML `below` it."""
    kind, label = part["type"], html.escape(label_of(part))
    # Styled in place, since saved notebooks lose style sheets.
    size = f"min-width: min({SHOWN_WIDTH[kind]}px, 100%); max-width: 100%; max-height: {SHOWN_HEIGHT}px"
    common = f'src="{data_uri(mime, data)}" style="display: block; {size}; object-fit: contain"'
    if kind not in ("audio", "video"):
        shown = f'<img {common} alt="{label}" title="{label}">'
    else:
        playing = "autoplay loop muted playsinline " if moving and kind == "video" else ""
        shown = f'<{kind} controls {playing}{common} aria-label="{label}" title="{label}"></{kind}>'
    return (
        f'<figure class="a2a-medium" style="margin: 6px 0; max-width: 100%">{shown}{below}</figure>'
    )


def part_html(part: Part) -> str:
    """A part of a message, whatever its kind."""
    if part["type"] == "text":
        return text_html(part["text"]) + _sound_html(part)
    if medium_of(part) is None:
        return note_html(f"[{label_of(part)}]")
    return medium_html(part)


def _sound_html(part: Part) -> str:
    """A player for what was said of a text, if anything was; the words stand where its file is gone."""
    spoken = sound_part(part)
    try:
        return medium_html(spoken) if spoken else ""
    except MediaError as error:
        return note_html(f"[its sound cannot be played: {error.reason}]")


def show(messages: list[Message]) -> None:
    """Displays a conversation as static output that every notebook viewer can show and that survives saving."""
    for message in messages:
        role, parts = message["role"], parts_of(message)
        opening = parts[0].get("text", "") if parts else ""
        display(HTML(_box(role, f"<b>{NAMES[role]}</b>{text_html(opening)}")))
        for number, part in enumerate(parts):
            if part["type"] != "text" and medium_of(part) is not None:
                _show_medium(part)
            elif part["type"] != "text":
                display(HTML(part_html(part)))
            elif number:
                display(HTML(_box(role, text_html(part["text"]))))
            if spoken := sound_part(part):
                _show_medium(spoken)


def _box(role: str, content: str) -> str:
    """Content in the colour of a role; styled in place, since saved notebooks lose style sheets."""
    tint = "33, 150, 243, .16" if role == "user" else "128, 128, 128, .12"
    box = f"background: rgba({tint}); border-radius: 8px; padding: 4px 12px; margin: 4px 0"
    return f'<div style="{box}">{content}</div>'


def _show_medium(part: Part) -> None:
    kind = part["type"]
    mime, data = preview(part)
    if kind in SENSED_KINDS:
        display(Image(data, format="png", width=SHOWN_WIDTH[kind]))
    elif kind == "image":
        width = media_files.as_image(shown_of(part)).width
        width = min(max(width, SHOWN_WIDTH[kind]), 512)
        display(Image(data, format="png", width=width, alt=label_of(part)))
    elif kind == "audio":
        display(Audio(data))
    else:
        options = {"html_attributes": "controls loop muted", "width": SHOWN_WIDTH[kind]}
        display(Video(data, embed=True, mimetype=mime, **options))
