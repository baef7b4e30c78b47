"""Digests of whole files, which cost a reading of every byte once: they are remembered by size and time.

What lies in memory is asked first, then `data/.digests.json`, where the machine's processes find what others have read.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from anytoany_lib.config import home
from anytoany_lib.system.files import read_json, write_file

MEMORY = "data/.digests.json"
_KEPT = 5000  # files, the newest of those that were read
_KNOWN: dict[str, str] = {}


def read_digest(file: Path) -> str:
    """32 hex digits of all bytes of a file, which are read now, a little at a time. OSError if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, as registries and hubs state it: 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(file: Path) -> str:
    """The same as `read_digest`, remembered as long as the file's size and times are the same."""
    path = file.resolve()
    found = path.stat()
    # The time a name was last given to it too: whoever sets a file's time back changes that one.
    key = f"{path} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    if key not in _KNOWN:
        _KNOWN.update(_read())
    if key not in _KNOWN:
        _KNOWN[key] = read_digest(path)
        _write()
    return _KNOWN[key]


def _read() -> dict[str, str]:
    """What was remembered; nothing if the file is none that `_write` writes: all is read again then."""
    file = home() / MEMORY
    try:
        known = read_json(file) if file.is_file() else {}
    except ValueError:
        return {}
    plain = isinstance(known, dict) and all(isinstance(v, str) for v in known.values())
    return known if plain else {}


def _write() -> None:
    """Remembers on the disk, where there is one to write to: a folder of data that is there."""
    file, kept = home() / MEMORY, dict(list(_KNOWN.items())[-_KEPT:])
    with suppress(OSError):  # read-only or full: what is not remembered is read again
        if file.parent.is_dir():
            write_file(file, json.dumps(kept), private=True)
