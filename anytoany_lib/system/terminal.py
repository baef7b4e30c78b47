"""The terminal: parsers of command lines, and tables (`display.table` shows the same rows in a notebook)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


def parser(command: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """The parser of `anytoany COMMAND`, whose help ends with examples: what stands behind the command in each."""
    shown = "\n".join(" ".join(["  anytoany", *filter(None, (command, one))]) for one in examples)
    return argparse.ArgumentParser(
        prog=f"anytoany {command}",
        description=description,
        epilog=f"for example:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as aligned columns below them: numbers on the right, the rest on the left, None as a dash."""
    if not rows:
        return "no rows"
    columns = [[name, *(_shown(row[name]) for row in rows)] for name in rows[0]]
    return "\n".join(
        "  ".join(cells).rstrip() for cells in zip(*map(_column, columns), strict=True)
    )


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def _column(cells: Sequence[str]) -> list[str]:
    """A heading and the cells below it, all of one width."""
    width = max(map(len, cells))
    counts = all(cell[:1].isdigit() or cell in ("", "–") for cell in cells[1:])
    return [cell.rjust(width) if counts else cell.ljust(width) for cell in cells]
