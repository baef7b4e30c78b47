"""Captions as lists of words, the way the caption metrics count them.

The published numbers are counted on what Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`) makes of a
caption, less a list of punctuation. `tokenize` does that in Python: Penn Treebank conventions (contractions are two
words, brackets have names, abbreviations keep their point), lower case, no punctuation. It gives the same words as the
Java tool for all but 3 of 92,451 captions that people wrote (docs/REPRODUCE.md); what differs is rare, as "U. Miami".
"""

from __future__ import annotations

import re

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "—": "--", "–": "--", "€": "$", "£": "#"}
)
# Words that end in a point of their own, beside single letters and what is made of them ("u.s.").
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|st|jr|sr|rev|gen|col|sgt|capt|lt|gov|sen|rep|vs|etc|inc|co|corp|ltd|dept|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mt|ft|ave|blvd|rd"
)
_TOKEN = re.compile(
    rf"""
      https?://\S+ | www\.\S+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+          # addresses
    | </?[a-z!][^<>\s]*>                                              # mark-up
    | (?:[a-z]\.){{2,}}                                               # u.s., a.m.
    | (?:{_ABBREVIATIONS})\.(?=[\s,]|$) | no\.(?=\s*\d)               # mr., etc., no. 5
    | '(?:\d\ds | em | til | cause | n' )(?!\w)                       # '90s, 'em, rock 'n' roll
    | (?:n't | '(?:s|m|d|re|ve|ll))(?!\w)                             # what a contraction leaves behind
    | [+-]?\d+(?:[.,:/]\d+)+                                          # 2.5, 1,000, 10:30, 1/2
    | (?:o'clock | ma'am)(?!\w)
    | \#[^\W\d]\w*                                                    # a tag
    | (?:\w(?!n't(?!\w)))* \w (?:[-/.](?=\w)(?:\w(?!n't(?!\w)))*\w)*  # words, also joined
    | \.{{2,}} | [!?]+ | --+ | \*+ | \#+ | `` | ''                    # runs that stay together
    | [^\s\w\U00010000-\U0010ffff]                                    # any other sign, but no emoji
    """,
    re.VERBOSE,
)
_TWO_WORDS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
}


def tokenize(caption: str) -> list[str]:
    """A caption's words in order; none of them if it is empty or punctuation alone."""
    words: list[str] = []
    for token in _TOKEN.findall(caption.lower().translate(_PLAIN)):
        if token in _TWO_WORDS:
            words += _TWO_WORDS[token]
        elif token not in PUNCTUATION and token.strip('".'):  # nor any run of points
            words.append(_BRACKETS.get(token, token))
    return words
