"""Markdown as people and models write it, turned into HTML that can be read and do nothing else.

CommonMark with tables and with line breaks kept. HTML in it stays visible text; a link leads to http, https or mail and
opens beside the page; a picture from elsewhere would be loaded without being asked for, so it becomes a link to it.
"""

from __future__ import annotations

import html
import re

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

# Longer text is shown as it is: parsing this much takes a second where somebody tries to make it slow.
MARKED_CHARACTERS = 50_000
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


def _parser() -> MarkdownIt:
    parser = _Markdown("commonmark", {"html": False, "breaks": True}).enable("table")
    parser.core.ruler.push("harmless", _harmless)
    return parser


_PARSER = _parser()
