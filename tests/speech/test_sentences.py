"""What is read aloud: markdown cut into sentences while it grows, and said without its marks."""

from __future__ import annotations

import pytest

from anytoany_lib.speech.sentences import LONGEST, sentences, words_of

TALK = """It is a **red bell**. It rings at 3.5 seconds, e.g. twice! "Really?" Yes.

1. Dr. Smith [painted it](https://example.org/a.b).
2. `print` says it

```python
print("never said. Not this.")
```

| thing | colour |
| --- | --- |
| bell | red |
"""
SAID = [
    "It is a red bell.",
    "It rings at 3.5 seconds, e.g. twice!",
    '"Really?"',
    "Yes.",
    "Dr. Smith painted it.",
    "print says it",
    "thing , colour",
    "bell , red",
]


def test_markdown_is_said_in_sentences_without_its_marks():
    assert sentences(TALK) == (SAID, len(TALK))


@pytest.mark.parametrize("step", [1, 3, 50])
def test_text_that_grows_is_said_once_and_never_before_a_sentence_is_whole(step: int):
    said, start = [], 0
    for end in range(step, len(TALK) + step, step):
        found, start = sentences(TALK[:end], start, ended=False)
        said += found
        assert start <= end
    found, start = sentences(TALK, start)
    assert said + found == SAID and start == len(TALK)
    assert said, "the first sentences are said before the last is there"


@pytest.mark.parametrize("text", ["", "  \n\n", "***", "---", "```\ncode", "| --- |"])
def test_what_has_no_word_is_passed_over(text: str):
    assert sentences(text) == ([], len(text))


def test_what_has_no_full_stop_is_cut_at_blanks():
    text = "word " * 300
    found, end = sentences(text)
    assert end == len(text) and all(len(one) <= LONGEST for one in found)
    assert " ".join(found).split() == text.split()
    solid, end = sentences("x" * 1000)
    assert "".join(solid) == "x" * 1000 and end == 1000


@pytest.mark.parametrize(
    ("markdown", "said"),
    [
        ("# A *title*", "A title"),
        ("- an item", "an item"),
        ("![a bell](bell.png) rings", "a bell rings"),
        ("<b>bold</b> text", "bold text"),
        ("2 \\* 3 is 6", "2 * 3 is 6"),
        ("**half of it", "half of it"),
    ],
)
def test_marks_are_not_said(markdown: str, said: str):
    assert words_of(markdown) == said
