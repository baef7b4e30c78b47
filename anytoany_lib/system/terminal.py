"""The terminal: parsers of command lines, and tables (`display.table` shows the same rows in a notebook)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


def parser(command: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """The parser of `anytoany COMMAND` (or of `anytoany` itself: ""), whose help ends with examples of its arguments."""
    program = f"anytoany {command}".rstrip()
    shown = "\n".join(f"  {program} {arguments}".rstrip() for arguments in examples)
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=f"for example:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as aligned columns below their names: numbers on the right, the rest on the left, None as a dash."""
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
    numbers = all(cell[:1].isdigit() or cell in ("", "–") for cell in cells[1:])
    return [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]
