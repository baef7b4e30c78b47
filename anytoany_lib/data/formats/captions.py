"""Captioned records: what they call their text, which files of a folder are data, and to which split a path belongs.

What the readers of captioned media share: a record with a list of captions gives a row for each of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from anytoany_lib.data.formats.interleaving import MAX_CAPTION
from anytoany_lib.data.formats.media_references import is_text
from anytoany_lib.data.ledger import is_regular
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import Row, captioned_row

CAPTION_KEYS = ("caption", "text", "captions", "texts", "description", "prompt")
_NUMBERED = re.compile(r"captions?[_ -]?\d{1,3}")
_SPLIT_NAMES = {
    "train": "train training development",
    "validation": "validation valid val dev",
    "test": "test testing eval evaluation",
}
_SPLIT_OF = {name: split for split, names in _SPLIT_NAMES.items() for name in names.split()}


def text_of(record: Any, key: str) -> tuple[str, str]:
    """(the text under `key`, "") or ("", the reason there is none)."""
    if not isinstance(record, dict) or key not in record:
        return "", f"{key} missing"
    return checked_text(record[key], key)


def checked_text(value: Any, key: str) -> tuple[str, str]:
    """(the text, "") or ("", what is wrong with it)."""
    if not is_text(value):
        return "", f"{key} not text"
    if len(value) > MAX_CAPTION:
        return "", f"{key} too long"
    return (value, "") if value.strip() else ("", f"{key} empty")


def captions_of(record: Any) -> list[Any]:
    """The captions of a record, as they stand: one, those of a list, or of `caption_1`, `caption_2` and so on."""
    held = record if isinstance(record, dict) else {}
    for key in CAPTION_KEYS:
        if held.get(key) is not None:
            return list(held[key]) if isinstance(held[key], list | tuple) else [held[key]]
    numbered = [key for key in held if isinstance(key, str) and _NUMBERED.fullmatch(key.lower())]
    return [held[key] for key in numbered if held[key] not in (None, "")]


def captioned_rows(
    report: Report, source: Path, name: str, kind: str, captions: list[Any], split: str = ""
) -> Iterator[Row]:
    """A row for each caption of the medium `name` in a folder, which is also its id; what is wrong with one is reported."""
    if not captions:
        report.drop("caption missing", name, [source / name])
    for caption in captions:
        text, reason = checked_text(caption, "caption")
        if reason:
            report.drop(reason, name, [source / name])
            continue
        row = captioned_row(name, source.name, kind, name, text)
        yield Row(row.id, row.source, row.messages, row.meta | ({"split": split} if split else {}))


def split_of(name: str) -> str:
    """The split that a path says it belongs to, by the name of a folder: `val/a.jpg`; "" if it says none."""
    folders = PurePosixPath(name).parts[:-1]
    return next((_SPLIT_OF[f.lower()] for f in folders if f.lower() in _SPLIT_OF), "")


def split_of_file(name: str) -> str:
    """The split that a table's path says it holds: `data/train-00000-of-00002.parquet`, `captions_val2017.json`; "" if none."""
    words = re.split("[^a-z]+", PurePosixPath(name).name.lower())
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), split_of(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a program's own: `.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`."""
    return name.startswith((".", "__"))


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder and is data, sorted by name; one folder's names are in memory."""
    with os.scandir(folder) as found:
        return sorted((e for e in found if not is_hidden(e.name)), key=lambda entry: entry.name)


def files_below(folder: str | Path) -> Iterator[Path]:
    """Every file of data in a folder of any depth, sorted; hidden ones are none, and links to folders are not followed."""
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path)
        elif is_regular(entry):
            yield Path(entry.path)
