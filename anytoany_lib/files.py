"""Files and folders that are never seen half-written, and work that one process does at a time."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name only when all has been written; an older one is replaced.

    OSError (no space, no permission) leaves the older folder as it was and nothing half-written behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.replace(old)
        work.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def appearing_file(path: Path) -> Iterator[Path]:
    """A file to write beside its place, which takes its name only when all has been written; an older one is replaced.

    OSError (no space, no permission) leaves the older file as it was and nothing half-written behind.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_file(path: Path, content: str) -> None:
    """Writes a text file that is never seen half-written (see `appearing_file`)."""
    with appearing_file(path) as beside:
        beside.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Writes a JSON file, for people to read too (see `write_file`)."""
    write_file(path, json.dumps(content, indent=indent) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file says. ValueError names the file if it is none, or is nested deeper than Python can follow."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


@contextmanager
def alone(lock: Path, work: str) -> Iterator[None]:
    """Waits until no other process holds the lock file, and says so of the `work` if it has to; holds it while it lasts.

    A process that dies gives its lock up. The lock file stays.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        said = f"another process {work}; waiting for it to end"
        tqdm.write(said, file=sys.stderr)  # what is printed is the result
        held.acquire()
    try:
        yield
    finally:
        held.release()
