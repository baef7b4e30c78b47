"""A whole conversation as one HTML page that needs nothing else: to keep, to send to somebody, to print; and what of folders
and archives with conversations is known without a session.

Media are in the page as they are, each with a link that saves it. The page asks for nothing from elsewhere and runs
nothing: its own policy forbids both.
"""

from __future__ import annotations

import html
import secrets
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from anytoany_lib.chat.html import (
    CONTENT_STYLE,
    ICON,
    NAMES,
    data_uri,
    enlarged_file,
    figure_html,
    label_of,
    note_html,
    original,
    part_html,
    preview,
    text_html,
)
from anytoany_lib.chat.markdown import whole_characters
from anytoany_lib.generation.enlarged import enlargement
from anytoany_lib.media.containers import MediaError, video_codec
from anytoany_lib.messages import Message, Part, check, medium_of
from anytoany_lib.speech.spoken_parts import sound_part
from anytoany_lib.system.files import read_json, write_file

CONVERSATION = "messages.json"
EMBEDDED_BYTES = 32 * 2**20  # of one medium; browsers choke on pages of hundreds of megabytes
_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
# What browsers show or play without help; a preview stands in for the rest.
_SHOWN_AS_IS = {
    "image": ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"),
    "audio": (
        "audio/x-wav",
        "audio/wav",
        "audio/mpeg",
        "audio/ogg",
        "audio/flac",
        "audio/mp4",
        "audio/webm",
    ),
    "video": ("video/mp4", "video/webm"),
}
_CODECS_PLAYED = ("h264", "vp8", "vp9", "libvpx-vp9", "av1", "libdav1d")

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --ink: #1c2128; --quiet: #636c76; --line: #dfe3e8;
  --user: #d8e9fd; --model: #fff; --accent: #0b66c3; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #14171c; --ink: #e4e8ed; --quiet: #98a2ae; --line: #2c323b;
  --user: #1d3a5a; --model: #1e232a; --accent: #6cb2ff; --wrong: #ffb4ab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
header, main, footer { max-width: 820px; margin: 0 auto; padding: 0 clamp(12px, 4vw, 28px); }
header { padding-top: 36px; }
h1 { font-size: clamp(1.4rem, 4vw, 1.9rem); line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
header .a2a-text { color: var(--quiet); font-size: .92rem; }
header::after { content: ""; display: block; border-bottom: 1px solid var(--line); margin-top: 20px; }
.log { display: flex; flex-direction: column; gap: 18px; padding: 24px 0; }
article { max-width: min(88%, 660px); align-self: flex-start; min-width: 0; }
article > h2 { font-size: .78rem; font-weight: 600; color: var(--quiet); margin: 0 12px 4px; letter-spacing: .02em; }
.bubble { background: var(--model); border: 1px solid var(--line); border-radius: 4px 16px 16px 16px; padding: 10px 14px; }
.user { align-self: flex-end; }
.user > h2 { text-align: right; }
.user .bubble { background: var(--user); border-color: transparent; border-radius: 16px 4px 16px 16px; }
.system { align-self: center; }
.system .bubble { background: none; border-style: dashed; border-radius: 16px; color: var(--quiet); }
.bubble > * + * { margin-top: 10px !important; }
.bubble figure img { background: repeating-conic-gradient(rgba(128, 128, 128, .12) 0 25%, transparent 0 50%) 0 0 / 16px 16px; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: .8rem; color: var(--quiet); margin-top: 4px;
  overflow-wrap: anywhere; }
a { color: var(--accent); }
.a2a-error { color: var(--wrong); }
a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 2px; }
footer { color: var(--quiet); font-size: .8rem; padding-bottom: 32px; }
@media (max-width: 520px) { article { max-width: 96%; } }
@media print { body { background: none; } article, figure { break-inside: avoid; } }
"""


def page(messages: list[Message], title: str = "Conversation", about: str = "") -> str:
    """The conversation as one self-contained page; `about`, in markdown, says below the title what talked.

    A medium that can no longer be read leaves a note in its place. ValueError if the messages are malformed.
    """
    contents = check(messages) if messages else []
    turns = "\n".join(
        _turn_html(message["role"], parts)
        for message, parts in zip(messages, contents, strict=True)
    )
    name = html.escape(title)
    return whole_characters(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<style>{CONTENT_STYLE}{_STYLE}</style>
</head>
<body>
<header><h1>{name}</h1>{text_html(about) if about.strip() else ""}</header>
<main><div class="log" role="log" aria-label="Conversation">
{turns or note_html("Nothing has been said yet.")}
</div></main>
<footer>Saved from anytoany. This page holds everything it shows and works offline.</footer>
</body>
</html>
"""
    )


def write_page(
    messages: list[Message], path: str | Path, title: str = "Conversation", about: str = ""
) -> Path:
    """Writes `page` to a file, which appears whole or not at all; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, page(messages, title, about), private=True)
    return path


def _turn_html(role: str, parts: list[Part]) -> str:
    content = "".join(map(_part_html, parts)) or note_html("nothing was said")
    name = NAMES[role]
    return (
        f'<article class="{role}" aria-label="{name}"><h2>{name}</h2>'
        f'<div class="bubble">{content}</div></article>'
    )


def _part_html(part: Part) -> str:
    if spoken := sound_part(part):
        return text_html(part["text"]) + _part_html(spoken)
    if part["type"] == "text" or medium_of(part) is None:
        return part_html(part)
    try:
        return _medium_html(part)
    except MediaError as error:
        text = f"{ICON[part['type']]} {label_of(part)}: {error.reason}: {error.detail}"
        return note_html(text, "a2a-error")


def _medium_html(part: Part) -> str:
    """A medium as it is with a link that saves it; reduced where browsers would not show it or choke on it."""
    name, mime, data = original(part)
    description = f"{html.escape(name)} · {_size(len(data))}"
    if len(data) > EMBEDDED_BYTES:
        description += (
            f" · too large for this page, which holds up to {_size(EMBEDDED_BYTES)}: a reduced copy"
        )
        return figure_html(part, *preview(part), f"<figcaption>{description}</figcaption>")
    links = _link("Download", name, mime, data)
    shown = (mime, data) if _shown_as_is(part, mime) else preview(part)
    if "enlarged" in part:
        larger, mime, data = enlarged_file(part)
        links = _link("Download", larger, mime, data) + _link("as made", name, *shown)
        description, shown = f"{enlargement(part)} · {_size(len(data))}", (mime, data)
    return figure_html(part, *shown, f"<figcaption>{links}<span>{description}</span></figcaption>")


def _link(text: str, name: str, mime: str, data: bytes) -> str:
    """A link that saves these bytes as a file of that name."""
    name = html.escape(name)
    return f'<a href="{data_uri(mime, data)}" download="{name}" aria-label="Download {name}">{text}</a>'


def _shown_as_is(part: Part, mime: str) -> bool:
    kind, medium = part["type"], medium_of(part)
    if mime not in _SHOWN_AS_IS.get(kind, ()):
        return False
    from_file = kind == "video" and isinstance(medium, str | Path)
    return not from_file or video_codec(Path(medium)) in _CODECS_PLAYED


def _size(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{max(1, count // 2**10)} KB"


def kept(save: Callable[[Path], Path]) -> tuple[str, str, bytes]:
    """`archive` as a file to download: (name, MIME type, bytes)."""
    return "conversation.zip", "application/zip", archive(save)


def to_send(messages: list[Message], about: str) -> tuple[str, str, bytes]:
    """`page` as a file to download: (name, MIME type, bytes)."""
    return "conversation.html", "text/html", page(messages, "A conversation", about).encode()


def new_folder() -> str:
    """A folder to offer for a conversation of now: a name with its minute, and one that no other conversation has."""
    return f"conversations/{datetime.now():%Y-%m-%d-%H%M}-{secrets.token_hex(2)}"


def archive(save: Callable[[Path], Path]) -> bytes:
    """What a session's `save` writes as a zip file, which `Session.load` opens once it is unpacked. Raises as `save` does."""
    with tempfile.TemporaryDirectory() as folder:
        saved = save(Path(folder) / "conversation")
        return Path(shutil.make_archive(str(saved), "zip", saved)).read_bytes()


def read_record(folder: Path) -> dict[str, Any]:
    """messages.json of a conversation. ValueError if it is something else."""
    record = read_json(folder / CONVERSATION)
    if not isinstance(record, dict) or not {"messages", "seed"} <= record.keys():
        raise ValueError("expected messages and seed in it")
    if not isinstance(record["messages"], list):
        raise ValueError(f"expected a list of messages, found {record['messages']!r:.80}")
    return record


def refuse_to_replace(folder: Path) -> None:
    """Raises ValueError if there is something at this path that is no saved conversation."""
    if not folder.exists():
        return
    found = "a file"
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        if not names:
            return
        if CONVERSATION in names:
            try:
                read_record(folder)
                return
            except ValueError:
                found = f"a {CONVERSATION} that is no saved conversation"
        else:
            found = f"{len(names)} other files, {names[0]} among them"
    raise ValueError(f"not saved: {folder} holds {found}; choose a folder that is new or empty")
