"""Markdown that grows, cut into sentences as they are said: without marks, code, or the addresses behind links."""

from __future__ import annotations

import re
from functools import cache

from markdown_it import MarkdownIt

LONGEST = 400  # characters that are said in one go: what has no full stop is cut at a blank
_FENCE = re.compile(r"\s*(```|~~~)")
# A full stop with what closes behind it, if something follows; or the end of a line.
_BREAK = re.compile(r"[.!?…]+[\"'”’)\]*_`]*[ \t]+(?=\S)|\n+")
# A full stop behind these ends no sentence: a title, an abbreviation, an initial, the number of an item.
_GOES_ON = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|fig|approx|e\.g|i\.e|cf)|\b[A-Z]|^\s*\d+)\.$",
    re.IGNORECASE | re.MULTILINE,
)
_SILENT = ("fence", "code_block", "html_block")


def sentences(text: str, start: int = 0, ended: bool = True) -> tuple[list[str], int]:
    """The sentences in text[start:] that are whole, as they are said, and where what is not yet whole begins.

    Once the text has `ended` all of it is. What has no word in it (rules, code, a row of dashes) is passed over.
    """
    found = []
    while (end := _end(text, start, ended)) > start:
        words = words_of(text[start:end])
        if any(character.isalnum() for character in words):
            found.append(words)
        start = end
    return found, start


def words_of(markdown: str) -> str:
    """What of a stretch of markdown is read aloud, in one line."""
    said = []
    for block in _parser().parse(markdown.strip()):
        if block.type in _SILENT:
            continue
        for token in block.children or ():
            if token.type in ("text", "code_inline", "image"):
                said.append(token.content)
            elif token.type in ("softbreak", "hardbreak"):
                said.append(" ")
    return " ".join("".join(said).replace("|", ", ").replace("**", "").split()).strip(", ")


def _end(text: str, start: int, ended: bool) -> int:
    """Where the sentence or block of code that begins at `start` ends; `start` itself if that is not known yet."""
    rest = len(text) if ended else start
    if fence := _FENCE.match(text, start):
        closing = text.find(f"\n{fence[1]}", fence.end())
        line = text.find("\n", closing + 1) if closing >= 0 else -1
        return line + 1 if line >= 0 else rest
    for found in _BREAK.finditer(text, start):
        if found.end() - start > LONGEST:
            break
        if "\n" in found[0] or _ends(text, start, found):
            return found.end()
    if len(text) - start > LONGEST:
        blank = text.rfind(" ", start + 1, start + LONGEST)
        return blank + 1 if blank > start else start + LONGEST
    return rest


def _ends(text: str, start: int, found: re.Match[str]) -> bool:
    """Whether a full stop with something behind it is the end of a sentence."""
    stop = text[start : found.end()].rstrip()
    return not _GOES_ON.search(stop) and not text[found.end()].islower()


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark")
