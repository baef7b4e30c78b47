"""Markdown as people and models write it, turned into HTML that can be read and do nothing else.

CommonMark with tables and with line breaks kept. TeX, backslashes and asterisks inside words stay as they were written.
HTML in it stays visible text; a link leads to http, https or mail and opens beside the page; a picture from elsewhere
would be loaded without being asked for, so it becomes a link to it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

# Longer text is shown as it is: parsing this much takes a second where somebody tries to make it slow.
MARKED_CHARACTERS = 20_000
_LONGEST_TEX = 2000  # characters
_LINK = re.compile(r"(https?://|mailto:)", re.IGNORECASE)


def to_html(text: str) -> str:
    """Markdown as harmless HTML."""
    text = whole_characters(text)
    if len(text) > MARKED_CHARACTERS:
        return f'<p style="white-space: pre-wrap">{html.escape(text)}</p>'
    return _PARSER.render(text)


def whole_characters(text: str) -> str:
    """The text with "?" for halves of characters, which names of files can hold and no page can."""
    return text.encode(errors="replace").decode()


def _links_out(children: list[Token]) -> list[Token]:
    """The same line of text with every picture as a link, and every link opening beside the page."""
    line: list[Token] = []
    inside_link = False
    for token in children:
        if token.type == "image":
            text = Token("text", "", 0, content=token.content or str(token.attrs["src"]))
            link = Token("link_open", "a", 1, attrs={"href": token.attrs["src"]})
            line += [text] if inside_link else [link, text, Token("link_close", "a", -1)]
        else:
            inside_link = token.type == "link_open" or (inside_link and token.type != "link_close")
            line.append(token)
    for token in line:
        if token.type == "link_open":
            token.attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
    return line


def _harmless(state: StateCore) -> None:
    for token in state.tokens:
        if token.children:
            token.children = _links_out(token.children)


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return bool(_LINK.match(url))


_TEX = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
_ENVIRONMENT = re.compile(r"\\begin\{([a-zA-Z]+\*?)\}")
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _backslash(state: StateInline, silent: bool) -> bool:
    """A backslash and what it stands before, both as they were written: neither begins anything."""
    at = state.pos
    if state.src[at] != "\\":
        return False
    following = state.src[at + 1 : at + 2]
    taken = following if following in _PUNCTUATION else ""
    if not silent:
        state.pending += "\\" + taken
    state.pos += 1 + len(taken)
    return True


def _star(state: StateInline, silent: bool) -> bool:
    """Asterisks inside a word or number, as in 2*3*4, emphasise nothing."""
    at = state.pos
    if state.src[at] != "*":
        return False
    end = at
    while end < state.posMax and state.src[end] == "*":
        end += 1
    inside = at > 0 and end < state.posMax and _in_word(state.src[at - 1], state.src[end])
    if not inside:
        return False
    if not silent:
        state.pending += state.src[at:end]
    state.pos = end
    return True


def _in_word(before: str, after: str) -> bool:
    """Words of scripts that put no spaces between them have no inside."""
    letters = all((one.isalnum() and one < "\u2e80") or one in ")(" for one in (before, after))
    return letters and before != "(" and after != ")"


def _tex(state: StateInline, silent: bool) -> bool:
    """TeX in a line, as it was written: nothing in it is markdown."""
    at = state.pos
    opening = next((mark for mark in _TEX if state.src.startswith(mark, at)), None)
    if opening is None:
        return False
    begin = at + len(opening)
    end = state.src.find(_TEX[opening], begin, min(state.posMax, begin + _LONGEST_TEX))
    inside = state.src[begin:end]
    if end < 0 or not inside.strip() or "\n" in inside:
        return False
    # "$5 and $10" holds no formula: as Pandoc has it.
    if opening == "$" and (inside != inside.strip() or state.src[end + 1 : end + 2].isdigit()):
        return False
    end += len(_TEX[opening])
    if not silent:
        state.pending += state.src[at:end]
    state.pos = end
    return True


def _tex_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """TeX on lines of its own: $$, \\[ or an environment, to where it ends."""
    line = state.src[state.bMarks[first] + state.tShift[first] : state.eMarks[first]]
    environment = _ENVIRONMENT.match(line)
    if environment:
        closing, after = f"\\end{{{environment[1]}}}", environment.end()
    elif line.startswith(("$$", "\\[")):
        closing, after = _TEX[line[:2]], 2
    else:
        return False
    text = state.src[state.bMarks[first] + state.tShift[first] + after : state.eMarks[first]]
    for number in range(first, min(last, first + _LONGEST_TEX // 10)):
        if number > first:
            text = state.src[state.bMarks[number] : state.eMarks[number]]
        if not text.strip() and number > first:
            return False
        if closing in text:
            if text.rstrip().endswith(closing):
                return silent or _written(state, first, number)
            return False
    return False


def _written(state: StateBlock, first: int, last: int) -> bool:
    """Puts lines into the page as they are."""
    token = state.push("as_written", "p", 0)
    token.content = state.getLines(first, last + 1, state.blkIndent, False)
    token.map = [first, last + 1]
    state.line = last + 1
    return True


def _as_written(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    lines = html.escape(tokens[at].content.strip("\n")).split("\n")
    return "<p>" + "<br>\n".join(lines) + "</p>\n"


def _parser() -> MarkdownIt:
    parser = _Markdown("commonmark", {"html": False, "breaks": True}).enable("table")
    # Each of these takes away what was written: a definition of a link, "&amp;", a backslash.
    parser.disable(["reference", "entity"])
    parser.inline.ruler.at("escape", _backslash)
    parser.inline.ruler.before("escape", "tex", _tex)
    parser.inline.ruler.before("emphasis", "star", _star)
    parser.block.ruler.before(
        "fence", "tex", _tex_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    parser.add_render_rule("as_written", _as_written)
    parser.core.ruler.push("harmless", _harmless)
    return parser


_PARSER = _parser()
