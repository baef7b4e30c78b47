"""JSON files of any size as a stream of their records: an array, one record a line, or the arrays of one object.

Of a file a few MiB are in memory. What is cut, damaged or no UTF-8 is a DataError with the place; a file that holds one thing
that is no list of records is a NoRecords, which names its keys.
"""

import codecs
import json
import re
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from anytoany_lib.data.rows import DataError

_SOMETHING = re.compile(r"[^ \t\r\n]")
_JSON = json.JSONDecoder()
_CHUNK = 2**20  # bytes read at a time
_LONGEST_VALUE = 2**26  # characters after which a value that does not end is taken for damage
_KEYS_TOLD = 6
_NUMBER_GOES_ON = 3  # characters: where reading stops, "1" may be the beginning of "1e-5"


class NoRecords(DataError):
    """A JSON file that is no list of records."""


class _Window(AbstractContextManager):
    """The stretch of a file's text that is being read. DataError where the file is not UTF-8 or cannot be read."""

    def __init__(self, path: Path):
        self.text, self.ended = "", False
        self._path, self._decoder = path, codecs.getincrementaldecoder("utf-8")()
        self.before = self._lines = self._bytes = 0
        self.first = -1  # where in the file the first of several values begins
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def __exit__(self, *_) -> None:
        self._file.close()

    def _read_on(self, at: int) -> None:
        """Forgets what lies before `at`, which is the beginning from now on, and reads as much again."""
        self.before += at
        self._lines += self.text.count("\n", 0, at)
        self.text = self.text[at:]
        found = self._file.read(max(_CHUNK, len(self.text)))
        pending, _ = self._decoder.getstate()
        try:
            more = self._decoder.decode(found, final=not found)
        except UnicodeDecodeError as error:
            place = self._bytes - len(pending) + error.start
            raise DataError(f"{self._path}: not UTF-8 text at byte {place}") from error
        begins = self._bytes == len(pending)
        self.text += more.removeprefix("\ufeff") if begins else more
        self._bytes += len(found)
        self.ended = not found

    def past_blanks(self, at: int) -> int:
        """Where the next thing stands: at the end of the text only if the file ends there."""
        while (found := _SOMETHING.search(self.text, at)) is None and not self.ended:
            self._read_on(len(self.text))
            at = 0
        return found.start() if found else len(self.text)

    def value(self, at: int) -> tuple[Any, int]:
        """The JSON value at a place, and where it ends."""
        while True:
            try:
                value, end = _JSON.raw_decode(self.text, at)
                if self.ended or end + _NUMBER_GOES_ON <= len(self.text):
                    return value, end
            # Beside JSONDecodeError, numbers of thousands of digits and bottomless nesting.
            except (ValueError, RecursionError) as error:
                hopeless = isinstance(error, RecursionError)
                long = len(self.text) - at > _LONGEST_VALUE
                if long and self.before + at == self.first and self.text.startswith("{", at):
                    raise NoRecords(f"{self._path}: {self._one_object(at)}") from error
                if hopeless or self.ended or long:
                    raise self.damage(getattr(error, "pos", at), str(error)) from error
            self._read_on(at)
            at = 0

    def _one_object(self, at: int) -> str:
        """What to say of an object that does not end."""
        keys: list[str] = []
        at += 1
        while len(keys) < _KEYS_TOLD and (found := _SOMETHING.search(self.text, at)):
            try:
                key, at = _JSON.raw_decode(self.text, found.start())
                keys.append(f"{key!s:.40}")
                _, at = _JSON.raw_decode(self.text, self.past_blanks(self.past_blanks(at) + 1))
            except (ValueError, RecursionError):
                break
            at = self.past_blanks(at) + 1
        size = f"one object of over {_LONGEST_VALUE:,} characters, with {', '.join(keys)}"
        return f"{size}: expected a list of records, or one record a line; or it is damaged"

    def damage(self, at: int, message: str) -> DataError:
        """An error that names the place."""
        line = self._lines + self.text.count("\n", 0, at) + 1
        of = f" of {self.before + len(self.text)}" if self.ended else ""
        where = f"cut or damaged at line {line}, character {self.before + at}{of}"
        return DataError(f"{self._path}: {where}: {message}; get the file again")


def json_records(path: Path) -> Iterator[Any]:
    """The values of a JSON array, or of JSON lines, one at a time; of the file a few MiB are in memory.

    Raises DataError naming the file and the position where it is cut, damaged or not UTF-8; NoRecords if it begins with an
    object that does not end in `_LONGEST_VALUE` characters (see `json_members`).
    """
    with _Window(path) as window:
        at = window.past_blanks(0)
        if window.text.startswith("[", at):
            at = yield from _items(window, at)
            if (after := window.past_blanks(at)) < len(window.text):
                raise window.damage(after, "text after the closing ']'")
            return
        window.first = window.before + at
        while at < len(window.text):
            value, at = window.value(at)
            yield value
            at = window.past_blanks(at)


def _items(window: _Window, at: int) -> Generator[Any, None, int]:
    """The items of the array that begins at a place; returns where it ends."""
    at = window.past_blanks(at + 1)
    ended = window.text.startswith("]", at)
    while not ended:
        value, at = window.value(at)
        yield value
        at = window.past_blanks(at)
        ended = window.text.startswith("]", at)
        if not ended:
            if not window.text.startswith(",", at):
                raise window.damage(at, "expected ',' or ']'")
            at = window.past_blanks(at + 1)
    return at + 1


def json_members(path: Path, *wanted: str) -> Iterator[tuple[str, Any]]:
    """(key, item) of the arrays under the wanted keys of the one object in a file, in its order; DataError as in `json_records`."""
    with _Window(path) as window:
        at = window.past_blanks(0)
        if not window.text.startswith("{", at):
            raise NoRecords(f"{path}: expected one object with {', '.join(wanted)} in it")
        at = window.past_blanks(at + 1)
        while not window.text.startswith("}", at):
            key, at = window.value(at)
            at = window.past_blanks(at)
            if not isinstance(key, str) or not window.text.startswith(":", at):
                raise window.damage(at, "expected a key and ':'")
            at = window.past_blanks(at + 1)
            if window.text.startswith("[", at):
                items = _items(window, at)
                while True:
                    try:
                        item = next(items)
                    except StopIteration as ended:
                        at = ended.value
                        break
                    if key in wanted:
                        yield key, item
            else:
                _, at = window.value(at)
            at = window.past_blanks(at)
            if window.text.startswith(",", at):
                at = window.past_blanks(at + 1)
            elif not window.text.startswith("}", at):
                raise window.damage(at, "expected ',' or '}'")
