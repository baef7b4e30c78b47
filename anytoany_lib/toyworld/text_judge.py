"""Judges texts about the toy world by the words in them.

A text names an attribute rightly when, among the words known for that attribute, those of the
expected value occur as whole words and those of no other value do: "a red bell" is right about a
bell, "a bell or a drum" is not. What is not said is not right: "a bell ringing" leaves the count open.
"""

from __future__ import annotations

import re

from anytoany_lib.toyworld.pictures import COLOURS

WORDS: dict[str, dict[str | int, str]] = {
    "thing": {
        "bell": "bell bells",
        "bird": "bird birds birdie",
        "drum": "drum drums",
        "car": "car cars automobile",
        "cloud": "cloud clouds raincloud",
        "heart": "heart hearts heartbeat",
        "clock": "clock clocks",
        "bee": "bee bees bumblebee honeybee",
        "train": "train trains locomotive",
        "boat": "boat boats sailboat ship",
        "phone": "phone phones telephone telephones",
        "cat": "cat cats kitten kitty",
    },
    "colour": {name: name for name in COLOURS},
    "size": {"small": "small little tiny", "big": "big large huge"},
    "place": {"left": "left", "right": "right", "top": "top", "bottom": "bottom"},
    "pitch": {"high": "high high-pitched higher", "low": "low low-pitched lower deep"},
    "motion": {
        "left": "left leftward leftwards",
        "right": "right rightward rightwards",
        "up": "up upward upwards rising rises ascending",
        "down": "down downward downwards falling falls sinking sinks descending",
        "spinning": "spinning spins spin rotating rotates turning turns whirling twirling",
        "growing": "growing grows grow expanding expands bigger larger",
        "shrinking": "shrinking shrinks shrink smaller",
        "blinking": "blinking blinks blink flashing flashes flickering",
    },
}
TIMES: dict[str, int] = {
    **dict.fromkeys(("once", "one time", "1 time", "a single time"), 1),
    **dict.fromkeys(("twice", "two times", "2 times"), 2),
    **dict.fromkeys(("thrice", "three times", "3 times"), 3),
}
NUMBERS: dict[str, int] = {"one": 1, "single": 1, "1": 1, "two": 2, "2": 2, "three": 3, "3": 3}
MORE_NUMBERS = "zero four five six seven eight nine ten 0 4 5 6 7 8 9 10 several many"


def _has(phrase: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text) is not None


def _counts(text: str) -> set[str | int]:
    """The numbers of times that a text speaks of; other numbers are -1."""
    spoken: set[str | int] = {number for phrase, number in TIMES.items() if _has(phrase, text)}
    if (
        not spoken
    ):  # "one bell rings twice" is about two, so bare numbers speak only where no times do
        spoken = {number for word, number in NUMBERS.items() if _has(word, text)}
    return spoken | {-1 for word in MORE_NUMBERS.split() if _has(word, text)}


def named(attribute: str, text: str) -> set[str | int]:
    """All values of an attribute that a text names. Raises KeyError for an unknown attribute."""
    text = text.lower()
    if attribute == "count":
        return _counts(text)
    if attribute == "motion":
        text = re.sub(r"\b(on|at|in) the (left|right)\b", "", text)  # says where, not where to
    return {
        value
        for value, words in WORDS[attribute].items()
        if any(_has(word, text) for word in words.split())
    }


def judge_words(attribute: str, text: str, expected: str | int) -> bool:
    """Whether the text names the expected value of the attribute, and no other."""
    return named(attribute, text) == {expected}
