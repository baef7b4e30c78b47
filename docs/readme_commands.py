"""The commands, for docs/commands.md: the Makefile's targets and those of `anytoany`, each with what it does."""

from __future__ import annotations

import re
from pathlib import Path

from anytoany_lib import cli

ROOT = Path(__file__).resolve().parents[1]


def targets() -> str:
    """The Makefile's targets with what they do, as its first lines say it."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    described = [re.match(r"# (make [\w-]+)\s+(.+)", line) for line in lines]
    return _table([(found[1], found[2]) for found in described if found])


def command_line() -> str:
    """The commands of `anytoany` with what they are for."""
    return _table([(f"anytoany {name}", of.purpose) for name, of in cli.COMMANDS.items()])


def _table(rows: list[tuple[str, str]]) -> str:
    lines = ["| command | what it does |", "| --- | --- |"]
    return "\n".join(lines + [f"| `{command}` | {purpose} |" for command, purpose in rows])
