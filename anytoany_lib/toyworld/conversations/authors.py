"""Who words the requests: people who did not see each other's work, some of whom no training set has.

The authors in `authors/train` and `authors/test` wrote independently, but for 20 to 24, which are one writer's plain talk in
five styles. A JSON file has wordings with blanks for each key
({image}, {thing}, {colour}...; numbered where there are several); a JSON Lines file has whole requests in which each word
for an attribute is marked with what it stands for: "a [kitty|thing=cat] in [pink|colour]". The kit's own wordings are those
of kit.yaml, where of [alternatives|set|like this] one is drawn.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

KIT = "kit"
_FOLDER = Path(__file__).parent / "authors"
_MARK = re.compile(
    r"\[([^\[\]|]+)\|(thing|colour|size|place|motion|count|pitch)([1-9]?)(?:=([\w]+))?\]"
)

# What the kit's own wordings are called in the table of all authors' keys; to those in `ORDERS` politeness is added.
_KIT_KEYS = {
    "ask_image": "draw",
    "ask_audio": "play",
    "ask_video": "film",
    "describe_image": "describe_image",
    "describe_audio": "describe_audio",
    "describe_video": "describe_video",
    "which_colour": "ask_colour",
    "name_thing": "ask_thing",
    "how_often": "ask_count",
    "high_or_low": "ask_pitch",
    "how_does_it_move": "ask_motion",
    "image_recoloured": "recolour",
    "clip_to_picture": "redraw",
    "sound_to_picture_colour": "draw_heard",
    "image_to_sound": "play_shown",
    "clip_to_sound": "play_shown",
    "image_to_sound_times": "play_shown_times",
    "sound_again_times": "replay",
    "sound_again": "echo",
    "image_to_clip_moving": "film_shown",
    "clip_moving": "film_shown",
    "sound_to_clip_colour_moving": "film_heard",
    "belong_together": "match",
    "which_is_colour": "which_colour",
    "hear_in_colour_of": "draw_mixed",
    "image_and_sound": "draw_and_play",
    "image_and_clip": "draw_and_film",
    "clip_and_sound": "film_and_play",
    "edit_colour": "then_colour",
    "then_clip_moving": "then_film",
    "then_hear_it": "then_play",
    "then_see_it": "then_draw",
}
_ORDERS = frozenset(
    [
        "draw",
        "play",
        "film",
        "recolour",
        "redraw",
        "draw_heard",
        "play_shown",
        "play_shown_times",
        "replay",
        "echo",
        "film_shown",
        "film_heard",
        "draw_and_play",
        "draw_and_film",
        "film_and_play",
    ]
)
PLAIN_KEYS = (
    "about_media",
    "thanks_and_bye",
    "small_talk",
    "facts",
    "arithmetic",
    "translate",
    "lists",
    "feelings",
)


@dataclass(frozen=True)
class Marked:
    """A word or phrase in a whole request: what it says, of which attribute, of which of the media, and which value."""

    words: str
    attribute: str
    number: int
    value: str | int


@dataclass(frozen=True)
class Request:
    """A whole request: texts and marked words in turn, the kinds of media that are shown with it, and what it wants.

    `reply` holds (kind, number of the description that it shows) of the media it wants; `ask` says what it asks about those
    shown, `mix` what is to be made of two, and `remark` what is said of a medium that was made before and wants words alone
    ("praise", "wrong"...). Plain talk has none of the four.
    """

    author: str
    shown: tuple[str, ...]
    parts: tuple[str | Marked, ...]
    reply: tuple[tuple[str, int], ...]
    ask: str = ""
    mix: str = ""
    remark: str = ""

    @property
    def plain(self) -> bool:
        """Whether it wants words alone, and shows nothing."""
        return not (self.reply or self.ask or self.mix or self.remark)

    @property
    def text(self) -> str:
        """The request as its author wrote it."""
        return "".join(part if isinstance(part, str) else part.words for part in self.parts)


@cache
def kit() -> dict[str, Any]:
    """The kit's own wordings, as kit.yaml has them."""
    return yaml.safe_load((_FOLDER / "kit.yaml").read_text(encoding="utf-8"))


def is_order(key: str) -> bool:
    """Whether the kit's wordings of a key are orders, to which politeness can be added."""
    return _KIT_KEYS[key] in _ORDERS


def _folder(split: str) -> Path:
    return _FOLDER / ("test" if split == "test" else "train")


@cache
def wordings(split: str) -> dict[str, dict[str, list[str]]]:
    """{author: {key: wordings with blanks}} of a split's authors, the kit among them."""
    own = "test" if split == "test" else "train"
    found = {KIT: {key: kit()[name][own] for key, name in _KIT_KEYS.items()}}
    for path in sorted(_folder(split).glob("*.json")):
        found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _parsed(author: str, line: str) -> Request:
    row = json.loads(line)
    parts: list[str | Marked] = []
    at = 0
    for mark in _MARK.finditer(row["text"]):
        words, attribute, number, value = mark.groups()
        value = value or words.lower()
        known = int(value) if attribute == "count" else value
        parts += [row["text"][at : mark.start()], Marked(words, attribute, int(number or 1), known)]
        at = mark.end()
    parts.append(row["text"][at:])
    shown = tuple(row["shown"].split("+")) if row["shown"] else ()
    reply = tuple((kind, int(number)) for kind, number in row.get("reply", ()))
    return Request(
        author,
        shown,
        tuple(parts),
        reply,
        row.get("ask", ""),
        row.get("mix", ""),
        row.get("remark", ""),
    )


@cache
def whole_requests(split: str) -> dict[str, list[Request]]:
    """{author: whole requests} of a split's authors."""
    return {
        path.stem: [
            _parsed(path.stem, line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for path in sorted(_folder(split).glob("*.jsonl"))
    }


@cache
def known_answers() -> list[tuple[str, list[str]]]:
    """(question, the forms that a right answer may have) of plain questions for testing; no training set has them."""
    path = _FOLDER / "known_answers.jsonl"
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(row["question"], row["answers"]) for row in rows]


@cache
def plain(split: str) -> dict[str, list[str]]:
    """{author: questions and remarks that want words alone} of a split ("train", "validation" or "test")."""
    found = {KIT: list(kit()["plain"][split])}
    if split == "validation":  # questions that the training set does not have
        return found
    for author, keys in wordings(split).items():
        if author != KIT:
            found[author] = [line for key in PLAIN_KEYS for line in keys[key]]
    for author, requests in whole_requests(split).items():
        found[author] = [request.text for request in requests if request.plain]
    return found
