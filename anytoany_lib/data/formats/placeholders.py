"""Placeholders: the places in a turn's text where a medium stands, as the projects that publish data write them.

`<image>`, `<|image_pad|>`, `<ImageHere>`, `<image_1>`, `[IMG]`; in wrappers, `<Img><ImageHere></Img>`, `<|vision_start|>..`; by
name, `<img>a.jpg</img>`, `<Image>name</Image>`; and `Picture 1:`. Whether one stands for a medium or is text that only
looks so is for the record to say (see `interleaving`): here it is found, and what was written is kept.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from anytoany_lib.media.file_types import kind_by_name

LONGEST_NAME = 1000  # characters of a path or URL


@dataclass(frozen=True)
class Placeholder:
    """A place for a medium: `kind` (None: any), the `text` as it was written, the `name` or `number` of the medium if it is told.

    `label` is what only may be a placeholder: `Picture 1:`; `part` is no text, but a part of a message that cannot be anything else.
    `caption` tells a medium that a reply makes.
    """

    kind: str | None
    text: str
    name: str | None = None
    number: int | None = None
    label: bool = False
    part: bool = False
    caption: object = None


@dataclass(frozen=True)
class _Tag:
    """Something in brackets that speaks of a medium: `role` is "core", "open" or "close"."""

    start: int
    end: int
    kind: str | None
    role: str
    word: str
    number: int | None


_KIND_WORDS = {
    "image": "images?|imgs?|pictures?|pics?|photos?",
    "audio": "audios?|sounds?|speech|music",
    "video": "videos?|vids?",
}
_OPENS, _CLOSES = "start|begin|bos", "end|eos"
_BRACKETS = re.compile(
    r"<(\|?)(/?)([A-Za-z_][A-Za-z0-9_ :./-]{0,40}?)\|?>|\[()(/?)([A-Z][A-Z_]{2,24}\d*)\]"
)
_WORD = re.compile(
    rf"(?:dj|vila)?(?:(?P<before>{_OPENS}|{_CLOSES})(?:of)?)?"
    + "(?:"
    + "|".join(f"(?P<{kind}>{words})" for kind, words in _KIND_WORDS.items())
    + "|(?P<any>vision|media)|(?P<im>im)(?=start|end|patch))"
    + rf"(?:(?P<after>{_OPENS}|{_CLOSES})|here|pad|soft|tokens?|placeholder|patch|context|content|embeds?)*(?P<number>\d{{0,4}})"
)
_LINKED = re.compile(
    r"""<img\b[^<>]{0,300}?\bsrc\s*=\s*["']?([^"'<>\s]+)["']?[^<>]{0,300}>|!\[[^\]\n]{0,300}\]\(([^()\s]{1,1000})[^()\n]{0,300}\)"""
)
_LABELS = {"Picture": "image", "Audio": "audio", "Video": "video"}
# "No letter before it" is asked behind the word: an expression that begins with it is tried at every character.
_LABEL = re.compile(
    "(" + "|".join(f"{word}(?<![A-Za-z]{word})" for word in _LABELS) + r") ?(\d{1,4}) ?: ?"
)


def split_at_placeholders(text: str, named: Mapping[str, str]) -> list[str | Placeholder]:
    """A turn's text as pieces of text and placeholders, in order; together they are the whole text.

    `named` says of the media that the record names elsewhere what kind they are: where such a name stands in a link or a wrapper, it is a placeholder.
    """
    items: list[str | Placeholder] = []
    at = 0
    for start, end, placeholder in _found(text, named):
        if start < at:
            continue  # inside of another
        if start > at:
            items.append(text[at:start])
        items.append(placeholder)
        at = end
    if at < len(text):
        items.append(text[at:])
    return items


def _found(text: str, named: Mapping[str, str]) -> list[tuple[int, int, Placeholder]]:
    """(start, end, placeholder) of every placeholder, by where it starts."""
    found: list[tuple[int, int, Placeholder]] = []
    # Most turns have no bracket, and looking for one is far cheaper than for a placeholder.
    if "<" in text or "[" in text:
        found += _tagged(text, named)
        for link in _LINKED.finditer(text) if named else ():
            if kind := named.get(name := link[1] or link[2]):
                found.append((link.start(), link.end(), Placeholder(kind, link[0], name)))
    if ":" in text:
        for label in _LABEL.finditer(text):
            placeholder = Placeholder(_LABELS[label[1]], label[0], number=int(label[2]), label=True)
            found.append((label.start(), label.end(), placeholder))
    return sorted(found, key=lambda one: one[0])


@lru_cache(4096)  # records of one set have the same few tags
def _meaning(
    inside: str, of_chat: bool, slash: bool
) -> tuple[str | None, str, str, int | None] | None:
    """(kind, role, word, number) of the tag that holds `inside`; None if it speaks of no medium."""
    word = re.sub("[^a-z0-9]", "", inside.lower())
    parsed = _WORD.fullmatch(word)
    # <|im_start|> begins a turn of a chat, not a picture.
    if parsed is None or (parsed["im"] and of_chat):
        return None
    kind = "image" if parsed["im"] else next((k for k in _KIND_WORDS if parsed[k]), None)
    role = "core"
    if slash or {parsed["before"], parsed["after"]} & set(_CLOSES.split("|")):
        role = "close"
    elif parsed["before"] or parsed["after"]:
        role = "open"
    return kind, role, word, int(parsed["number"]) if parsed["number"] else None


def _tagged(text: str, named: Mapping[str, str]) -> Iterator[tuple[int, int, Placeholder]]:
    """Placeholders in brackets, with the wrapper around them."""
    tags: list[_Tag] = []
    for found in _BRACKETS.finditer(text):
        of_chat, slash = bool(found[1]), bool(found[2] or found[5])
        if (meaning := _meaning(found[3] or found[6], of_chat, slash)) is not None:
            tags.append(_Tag(found.start(), found.end(), *meaning))
    at = 0
    while at < len(tags):
        tag = tags[at]
        if tag.role == "close":
            at += 1
            continue
        closing = _closing(tags, at)
        if closing is not None:
            last = tags[closing]
            placeholder = _wrapped(text, tag, tags[at + 1 : closing], last, named)
            if placeholder is not None:
                yield tag.start, last.end, placeholder
            # Without a placeholder it is an element of a page, <video>..</video>, and text.
            if placeholder is not None or tag.role == "core":
                at = closing + 1
                continue
        written = text[tag.start : tag.end]
        yield tag.start, tag.end, Placeholder(tag.kind, written, number=tag.number)
        at += 1


def _closing(tags: list[_Tag], at: int) -> int | None:
    """The tag that closes the one at `at`, if nothing but placeholders stands between."""
    tag = tags[at]
    for number in range(at + 1, len(tags)):
        other = tags[number]
        if other.role == "close":
            same = other.word == tag.word if tag.role == "core" else other.kind == tag.kind
            return number if same else None
        if other.role == "open":
            return None
    return None


def _wrapped(
    text: str, first: _Tag, inner: list[_Tag], last: _Tag, named: Mapping[str, str]
) -> Placeholder | None:
    """The placeholder that a wrapper holds; None if what it holds is neither a name nor one."""
    held = text[first.end : last.start]
    for tag in reversed(inner):
        held = held[: tag.start - first.end] + held[tag.end - first.end :]
    written, name = text[first.start : last.end], held.strip()
    kind = first.kind or (inner[0].kind if inner else None)
    number = next((tag.number for tag in (first, *inner) if tag.number is not None), None)
    if not name or name == "./":
        return Placeholder(kind, written, number=number)
    if inner or "\n" in name or len(name) > LONGEST_NAME:
        return None
    if name in named or kind_by_name(name) or name.startswith(("http://", "https://", "data:")):
        return Placeholder(named.get(name, kind), written, name)
    return Placeholder(kind, written) if first.role == "open" and " " not in name else None
