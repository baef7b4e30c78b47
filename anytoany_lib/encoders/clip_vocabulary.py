"""Finds the vocabulary of CLIP, by which ImageBind reads texts and without which it is published.

Stable Diffusion, the video models and CLIP itself carry the same 49,408 of them, so a profile has them wherever one of its
decoders, or of its models of `similarity`, lies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from anytoany_lib.config import Profile, resolve

PUBLISHED = 49408
# The last two words; ImageBind looks for the highest id.
_MARKS = ("<|startoftext|>", "<|endoftext|>")


def folders(profile: Profile) -> list[Path]:
    """The folders of a profile's tokenizers that may be CLIP's, most likely first; some may not be there."""
    pipelines = [resolve(config.folder) for config in profile.decoders.values()]
    parts = [folder / name for name in ("tokenizer", "tokenizer_2") for folder in pipelines]
    return parts + [resolve(folder) for folder in profile.similarity.values()]


def find(own: Path, others: Iterable[Path], words: int) -> Path | None:
    """The first folder with a CLIP tokenizer of so many words, None if there is none.

    Others than an encoder's own have the words it was trained with only if those are CLIP's published ones: tokenizers that
    were learnt from other texts may be as large.
    """
    among = [own, *(others if words == PUBLISHED else ())]
    return next((folder for folder in among if _is_clip(folder, words)), None)


def _is_clip(folder: Path, words: int) -> bool:
    """Whether a folder has vocab.json with so many words, CLIP's marks last, and merges.txt; or tokenizer.json with the same."""
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        known = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    elif (folder / "tokenizer.json").is_file():
        whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        known = whole.get("model", {}).get("vocab", {})
    else:
        return False
    if not isinstance(known, dict) or len(known) != words:
        return False
    return [known.get(mark) for mark in _MARKS] == [words - 2, words - 1]


def lacking(where: str, words: int) -> str:
    """The error message where there is none."""
    return (
        f"{where} has no words to read texts by: expected a CLIP tokenizer of {words} words (vocab.json and merges.txt) "
        "beside its weights, in the tokenizer folder of a decoder of the profile, or in one of its similarity folders; "
        "fetch the decoders with notebooks/01_checkpoints.ipynb, or put the two files beside the weights"
    )
