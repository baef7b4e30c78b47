"""What a build has met so far, kept on disk: its memory is the same for ten million rows as for ten.

`DiskSet` knows the keys that were there before, `Files` what became of each file; `Splits` draws the splits when all media are
known. They are SQLite files that hold scratch: nothing in them outlives the build.
"""

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

USED, DROPPED, NOT_LOOKED_AT = "used", "dropped", "not looked at"
_CACHE_KIB = 8192
_ABOVE_ALL = 2**63
_BELOW_ALL = -(2**63) - 1
# The last ranks of validation and of test where all of a source's media are stated to be in one of them.
_STATED = {"validation": (_ABOVE_ALL, _ABOVE_ALL), "test": (_BELOW_ALL, _ABOVE_ALL)}


class _Scratch(AbstractContextManager):
    """A table in a file of its own; use it in a `with`. What is lost if the machine stops is not missed."""

    def __init__(self, path: Path, columns: str):
        self._database = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute(f"CREATE TABLE met ({columns}) WITHOUT ROWID")
        # One transaction for everything: SQLite writes pages when its cache is full, not for every row.
        self._database.execute("BEGIN")

    def __exit__(self, *_) -> None:
        self._database.close()


class DiskSet(_Scratch):
    """A set of texts or bytes in the file `path`, which must not exist yet."""

    def __init__(self, path: Path):
        super().__init__(path, "key PRIMARY KEY")

    def add(self, key: str | bytes) -> bool:
        """Adds a key; whether it is new."""
        done = self._database.execute("INSERT OR IGNORE INTO met VALUES (?)", (key,))
        return done.rowcount == 1


class Files(_Scratch):
    """What became of the files of some folders: what was used is used, whatever else is said of it."""

    def __init__(self, path: Path):
        super().__init__(path, "key PRIMARY KEY, used INTEGER")

    def add(self, path: str | Path, state: str) -> None:
        """Notes that a file is USED or DROPPED."""
        self._database.execute(
            "INSERT INTO met VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET used = max(used, excluded.used)",
            (_key_of(path), state == USED),
        )

    def state_of(self, path: str | Path) -> str:
        """USED, DROPPED or nothing."""
        found = self._database.execute("SELECT used FROM met WHERE key = ?", (_key_of(path),))
        row = found.fetchone()
        return "" if row is None else USED if row[0] else DROPPED


def _key_of(path: str | Path) -> bytes:
    # Names need not be UTF-8, and half a character in a record's name must not stop a build.
    return os.path.abspath(path).encode("utf-8", "surrogatepass")  # noqa: PTH100 - links stay links


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a program's own: `.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`."""
    return name.startswith((".", "__"))


def is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether what is in a folder is a file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False


def every_file(folder: str | Path, without: Path | None = None) -> Iterator[tuple[Path, str]]:
    """(path, "") of every file below a folder but `without`; with "hidden" or "no regular file" if it is no data."""
    waiting = [(str(folder), "")]
    while waiting:
        place, why = waiting.pop()
        with os.scandir(place) as found:
            entries = list(found)
        for entry in entries:
            reason = why or ("hidden" if is_hidden(entry.name) else "")
            if entry.is_dir(follow_symlinks=False):
                if without is None or Path(entry.path).resolve() != without:
                    waiting.append((entry.path, reason))
            else:
                yield Path(entry.path), reason or ("" if is_regular(entry) else "no regular file")


class Splits(_Scratch):
    """Draws validation and test within every source: add all media, `choose`, then ask `of` each.

    A medium belongs to the source that it was first met in. The seed puts the media of a source in an order, by rank (64
    bits of a hash), and the first of them are validation, the next ones test: equal content has an equal rank. A medium whose
    split is stated is in it; of a split that a source states nothing is drawn.
    """

    def __init__(self, path: Path, seed: int):
        super().__init__(path, "rank INTEGER PRIMARY KEY, source INTEGER")
        self._seed = seed
        self._numbers: dict[tuple[str, str], int] = {}
        self._ends: dict[int, tuple[int, int]] = {}

    def add(self, source: str, content: str, split: str = "") -> tuple[int, int]:
        """Notes a medium by what it holds, in the `split` that is stated, if any; the number of its source, and its rank."""
        digest = hashlib.blake2b(f"{self._seed} {content}".encode()).digest()
        rank = int.from_bytes(digest[:8], "big") - 2**63  # SQLite's integers are signed
        stated = split if split in _STATED else ""
        number = self._numbers.setdefault((source, stated), len(self._numbers))
        new = self._database.execute("INSERT OR IGNORE INTO met VALUES (?, ?)", (rank, number))
        if not new.rowcount:
            first = self._database.execute("SELECT source FROM met WHERE rank = ?", (rank,))
            (number,) = first.fetchone()
        return number, rank

    def choose(self, validation: float, test: float) -> None:
        """Draws the splits: these parts of every source, at least one medium for each part that is not 0.

        A source always keeps a medium to train on; of two media one is validation.
        """
        last: dict[int, tuple[int, int]] = {}
        of_number = {number: of for of, number in self._numbers.items()}
        sizes = self._database.execute("SELECT source, count(*) FROM met GROUP BY source")
        for source, size in sizes.fetchall():
            name, stated = of_number[source]
            self._ends[source] = _STATED.get(stated, (_BELOW_ALL, _BELOW_ALL))
            if stated:
                last[source] = (0, 0)
                continue
            parts = zip(_STATED, (validation, test), strict=True)
            wanted = [
                max(1, round(part * size)) if part and (name, split) not in self._numbers else 0
                for split, part in parts
            ]
            first = min(wanted[0], size - 1)
            last[source] = (first, first + min(wanted[1], size - 1 - first))
        met: Counter[int] = Counter()
        for rank, source in self._database.execute("SELECT rank, source FROM met ORDER BY rank"):
            met[source] += 1
            if met[source] <= last[source][1]:
                ends = self._ends[source]
                self._ends[source] = (rank if met[source] <= last[source][0] else ends[0], rank)

    def of(self, source: int, rank: int) -> str:
        """The split of a medium, by what `add` gave."""
        validation, test = self._ends[source]
        return "validation" if rank <= validation else "test" if rank <= test else "train"
