"""Word error rates: how many words of what was said a recogniser got wrong, both as Whisper's authors write them for that.

Case, punctuation, contractions, and numbers in words or digits count as the same (Radford et al. 2022, appendix C).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from transformers.models.whisper.english_normalizer import EnglishTextNormalizer


@cache
def _normaliser() -> EnglishTextNormalizer:
    return EnglishTextNormalizer({})  # no table of British spellings


def normalised(text: str) -> str:
    """English as it is compared."""
    return _normaliser()(text).strip()


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Words inserted, left out or changed, of all words that were said. ValueError if none of these texts has a word."""
    import jiwer

    pairs = [(normalised(a), normalised(b)) for a, b in zip(said, heard, strict=True)]
    pairs = [(a, b) for a, b in pairs if any(character.isalnum() for character in a)]
    if not pairs:
        raise ValueError("expected texts with words in them, found none")
    references, found = map(list, zip(*pairs, strict=True))
    return jiwer.wer(references, found)
