"""Files and folders that are never seen half-written, and work that one process does at a time."""

import ctypes
import errno
import fcntl
import json
import os
import re
import resource
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)  # a folder of that name is there
# A full disk, a full quota on it, and a file longer than the limit of the process or the disk.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# As libraries written in Rust have it, such as safetensors.
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
# Said of every write that fails, whatever the reason, by torch (three of them), NumPy, libsndfile and SQLite.
_NO_REASON = re.compile(
    r"unexpected pos \d+ vs|PytorchStreamWriter failed|iostream error|\d+ requested and \d+ written|System error\.|disk I/O error"
)
_PROBE_BYTES = 2**20


class DiskFull(OSError):
    """Nothing more can be written (`errno` is one of NO_ROOM); the message says where, and what to do."""


class Busy(RuntimeError):
    """Another process writes where this one is to write; the message names it."""


@contextmanager
def held(folder: Path, work: str) -> Iterator[None]:
    """Keeps a folder for this process by a lock on itself, which dies with it; Busy names who has it and what is `work` there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"{folder}: {_holder(handle)} {work}: wait for it to end, or name another folder"
            ) from None
        except OSError as error:
            # A network's file system may have no locks for folders: there, whoever starts two sees to it.
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        if not folder.exists() or folder.stat().st_ino != os.fstat(handle).st_ino:
            raise Busy(f"{folder}: another process {work}, and has just ended: run again")
        yield
        fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    """The process that has locked an open folder, as the system's list of locks has it."""
    wanted, listed = f":{os.fstat(handle).st_ino}", Path("/proc/locks")
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        words = line.split()
        if "FLOCK" in words and len(words) > 5 and words[5].endswith(wanted):
            command = Path(f"/proc/{words[4]}/cmdline")
            arguments = command.read_bytes().replace(b"\0", b" ") if command.is_file() else b""
            shown = " ".join(arguments.decode(errors="replace").split())
            return f"process {words[4]} ({shown[:120]})"
    return "another process"


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name only when all has been written; an older one is replaced.

    OSError (no space, no permission) leaves the older folder as it was and nothing half-written behind. Busy if another
    process is writing it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.part")
    work.mkdir(exist_ok=True)
    with held(work, f"writes {folder}"):
        recover(folder)
        for left in work.iterdir():  # of a process that was killed
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        try:
            with room_for(folder):
                yield work
            _take_place(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _take_place(work: Path, folder: Path) -> None:
    """Gives a folder the name of another one, which then has the first one's: at once where the system can."""
    if not folder.exists():
        work.replace(folder)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    arguments = (_HERE, os.fsencode(work), _HERE, os.fsencode(folder), _EXCHANGE)
    if exchange is None or exchange(*arguments) != 0:
        _take_place_in_two(work, folder)


def _take_place_in_two(work: Path, folder: Path) -> None:
    """The same in two renames; who reads between them may `recover` the older folder, which is then put aside again."""
    old = folder.with_name(f".{folder.name}.old")
    while True:
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        try:
            work.replace(folder)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            shutil.rmtree(old, ignore_errors=True)
            return


def recover(folder: Path) -> None:
    """Brings back a folder whose writer was killed after it had put the older one aside, and before the new one was there."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        try:
            old.replace(folder)
        except OSError as error:  # its writer lives, and has done it meanwhile
            if error.errno not in (*_TAKEN, errno.ENOENT):
                raise


def settle(folder: Path) -> None:
    """Returns when a file, or all below a folder, is on the disk itself, which a loss of power does not take away."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """What libraries say of a full disk, each in its words, as a DiskFull that names `path` and says what to do."""
    try:
        yield
    except Exception as error:
        number = lack_of_room(error, path)
        if not number:
            raise
        todo = "Make room"
        if number == errno.EFBIG:
            todo = "Raise the limit of a file's length (ulimit -f), or name a disk that holds longer files,"
        raise DiskFull(
            number,
            f"{os.strerror(number)}: {path} could not be written, and what was there before is as it was. {todo} and run again",
        ) from error


def lack_of_room(error: BaseException | None, path: Path) -> int:
    """Which of NO_ROOM an error means that was raised while `path` was written, 0 if none; all that it came of is looked at.

    Where a library does not say why it could not write, the disk is asked, by writing beside `path`.
    """
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        match = _NUMBER_IN_TEXT.search(str(error))
        number = int(match[1]) if match else getattr(error, "errno", None)
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            number = errno.ENOSPC
        # FFmpeg has these numbers of the system for damaged media too.
        own = type(error).__module__.startswith("av.")
        if number in NO_ROOM and not own:
            return number
        if (number in NO_ROOM or _NO_REASON.search(str(error))) and (number := _refused(path)):
            return number
        error = error.__cause__ or error.__context__
    return 0


def _refused(path: Path) -> int:
    """Which of NO_ROOM keeps a file from being written beside `path`, 0 if none does."""
    folder = next(one for one in path.absolute().parents if one.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # some disks say it only now
    except OSError as error:
        return error.errno if error.errno in NO_ROOM else 0
    limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return errno.EFBIG if limited else 0


@contextmanager
def appearing_file(path: Path) -> Iterator[Path]:
    """A file to write beside its place, which takes its name only when all is written; OSError leaves the older one as it was."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with room_for(path):
            yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_file(path: Path, content: str, private: bool = False) -> None:
    """Writes a text file that is never seen half-written (see `appearing_file`); a `private` one only its owner reads."""
    with appearing_file(path) as beside:
        if private:
            beside.touch(0o600)
        beside.write_text(content, encoding="utf-8")


def copy_or_link(path: Path, target: Path, link: bool) -> bool:
    """Copies a file to a place in any folder; with `link` hard-links it if it can be: disks differ, and some have no links.

    False if something was there already, which stays.
    """
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with suppress(OSError):
            os.link(path.resolve(), target)
            return True
    shutil.copyfile(path, target)
    return True


def keep_private(folder: Path) -> None:
    """Lets a folder's owner alone read what is in it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Writes a JSON file, for people to read too (see `write_file`)."""
    write_file(path, json.dumps(content, indent=indent) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file says. ValueError names the file if it is none, or is nested deeper than Python can follow."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected JSON, found a file that is cut or damaged: {error}; get it again"
        ) from None


@contextmanager
def alone(lock: Path, work: str) -> Iterator[None]:
    """Waits, and says so of the `work`, until no other process holds the lock file; holds it while it lasts. The file stays."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        message = f"another process {work}; waiting for it to end"
        tqdm.write(message, file=sys.stderr)  # what is printed is the result
        held.acquire()
    try:
        yield
    finally:
        held.release()
