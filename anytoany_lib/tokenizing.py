"""Opening a language model's tokenizer, and checking it with the profile's template before anything heavy is fetched or read."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from anytoany_lib.config import Profile, resolve
from anytoany_lib.foreign_code import LOCAL, without_code
from anytoany_lib.legacy_tokenizer import LegacyTokenizer
from anytoany_lib.messages import MessageEncoder, Vocabulary
from anytoany_lib.pieces import Tokenizer

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(profile: Profile, folder: Path | None = None) -> Tokenizer:
    """The tokenizer in `folder` (the profile's LLM folder if None), of the kind that the profile names.

    FileNotFoundError if there is none, ValueError if it cannot be read.
    """
    folder = without_code(folder or resolve(profile.llm.folder))
    if profile.llm.tokenizer == "sentencepiece-legacy":
        return LegacyTokenizer(folder)
    if not any((folder / name).is_file() for name in _FILES):
        raise FileNotFoundError(
            f"no tokenizer in {folder} (expected {', '.join(_FILES[:-1])}, or {_FILES[-1]} and merges.txt): run "
            "notebooks/01_checkpoints.ipynb, or set llm.folder in the profile"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # a file that is cut raises whatever its parser does
        raise ValueError(
            f"the tokenizer in {folder} cannot be read: one of its files is cut, or of another model; delete "
            f"tokenizer* there and fetch them again ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def check_tokenizer(profile: Profile, folder: Path | None = None) -> Tokenizer:
    """The tokenizer in `folder`, which needs the small files alone (config.json and the tokenizer's), checked with the profile.

    Checked are that it has no more words than the embedding has rows, that it knows the template's special tokens, that the
    template ends a reply, and that a prompt is how a learnt conversation begins. ValueError says what does not fit.
    """
    folder = folder or resolve(profile.llm.folder)
    tokenizer = load_tokenizer(profile, folder)
    rows = _rows(folder)
    wanted = profile.llm.vocabulary or rows
    if wanted > rows:
        raise ValueError(
            f"{folder / 'config.json'} names {rows} words, the profile {wanted}: correct llm.vocabulary, or take the language "
            "model that the profile was written for"
        )
    MessageEncoder(tokenizer, profile, Vocabulary.of(wanted, profile))
    return tokenizer


def _rows(folder: Path) -> int:
    """Rows of the embedding by a folder's config.json."""
    try:
        return AutoConfig.from_pretrained(folder, **LOCAL).get_text_config().vocab_size
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} is no configuration of a language model: expected model_type and vocab_size; fetch it "
            f"again ({str(error).splitlines()[0][:200]})"
        ) from error
