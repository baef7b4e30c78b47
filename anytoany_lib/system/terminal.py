"""The terminal: parsers of command lines, how a command ends, and tables (`display.table` shows the same rows in a notebook)."""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

DEBUG = "--debug"
# What to do about an error that the system itself words; the library's own errors say it themselves.
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "name a folder",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name another path, or move away what is there",
    errno.EACCES: "name another path, or have its owner give you access",
    errno.EPERM: "name another path, or have its owner give you access",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some space, or name a folder on another disk",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
# Kinds of errors that are raised with a sentence for the user. Others (KeyError, TypeError ...) are mistakes of the code.
_WORDED = (ValueError, OSError, RuntimeError, ImportError)


class _Parser(argparse.ArgumentParser):
    """A parser that knows `--debug`, and ends as every error does: in a line that begins with "error: "."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        # `run` takes it off the line before anything is parsed: it stands here for --help.
        shown = "show the traceback of an error"
        self.add_argument(DEBUG, action="store_true", default=argparse.SUPPRESS, help=shown)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}; `{self.prog} --help` explains the options\n")


def parser(command: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """The parser of `anytoany COMMAND` (or of `anytoany` itself: ""), whose help ends with examples of its arguments."""
    program = f"anytoany {command}".rstrip()
    shown = "\n".join(f"  {program} {arguments}".rstrip() for arguments in examples)
    return _Parser(
        prog=program,
        description=description,
        epilog=f"for example:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(command: Callable[[list[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Runs a command on the arguments of this process, or on others; returns the exit status.

    Its own status (None is 0); 1 after an error and 130 after an interrupt, each told in one line on standard error.
    `--debug`, anywhere before `--`, adds the traceback. Wrong usage ends in a parser, by SystemExit with 2.
    """
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    ended: BaseException
    end = given.index("--") if "--" in given else len(given)
    options = [one for one in given[:end] if one != DEBUG]
    try:
        return command([*options, *given[end:]]) or 0
    except KeyboardInterrupt as interrupt:
        ended, status, line = interrupt, 130, f"interrupted: {interrupt}".rstrip(": ")
    except Exception as error:  # whatever it is, it ends the command, and is told
        ended, status, line = error, 1, f"error: {_sentence(error)}"
    if DEBUG in given[:end]:
        traceback.print_exception(ended)
    print(_one_line(line), file=sys.stderr)
    return status


def _sentence(error: Exception) -> str:
    """An error in words: its own, or for a bare error of the system which file, what happened, and what to do."""
    text = str(error)
    if isinstance(error, OSError) and error.errno:
        reason = os.strerror(error.errno)
        if error.strerror == reason:  # no better words
            names = " -> ".join(str(f) for f in (error.filename, error.filename2) if f is not None)
            what = f"{names}: {reason}" if names else reason
            return "; ".join(filter(None, [what, _REMEDIES.get(error.errno)]))
    if isinstance(error, _WORDED) and text:
        return text
    what = f"{type(error).__name__}: {text}".rstrip(": ")
    return f"{what}: the program did not expect this; the same command with {DEBUG} shows where"


def _one_line(text: str) -> str:
    """A text of several lines as one: lines that end in the middle of nothing end in a semicolon."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    last = len(lines) - 1
    return " ".join(
        line if at == last or line[-1] in ".:;,?!" else f"{line};" for at, line in enumerate(lines)
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as aligned columns below their names: numbers on the right, the rest on the left, None as a dash."""
    if not rows:
        return "no rows"
    shown = [{n: "–" if v is None else str(v) for n, v in row.items()} for row in rows]
    columns = [_column([name, *(row[name] for row in shown)]) for name in rows[0]]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _column(cells: Sequence[str]) -> list[str]:
    """A heading and the cells below it, all of one width."""
    width = max(map(len, cells))
    numbers = all(cell[:1].isdigit() or cell in ("", "–") for cell in cells[1:])
    return [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]
