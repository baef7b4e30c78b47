"""The comparison with other public systems, for docs/peers.md, from docs/peers.yaml: every answer links to the file that shows it."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import yaml

PEERS = Path(__file__).resolve().parent / "peers.yaml"


def tables() -> str:
    """A table a group, one column a system, one row a question; and the commits that were read, by day."""
    record = yaml.safe_load(PEERS.read_text(encoding="utf-8"))
    lines = []
    for title, names in record["groups"].items():
        lines += [f"### {title}", "", *_table(record, names), ""]
    return "\n".join([*lines, *_sources(record["systems"])])


def _table(record: dict[str, Any], names: list[str]) -> list[str]:
    """The rows of one group's systems."""
    systems: dict[str, dict[str, Any]] = {name: record["systems"][name] for name in names}
    lines = ["| | " + " | ".join(systems) + " |", "| --- |" + " --- |" * len(systems)]
    for key, question in record["rows"].items():
        cells = (_cell(system, system[key]) for system in systems.values())
        lines.append(f"| {question} | " + " | ".join(cells) + " |")
    return lines


def _sources(systems: dict[str, dict[str, Any]]) -> list[str]:
    """Which repositories were read, at which commits, a line for each day of reading."""
    days: dict[str, list[str]] = {}
    for name, system in systems.items():
        if "repository" in system:
            shown = f"[{name}]({_address(system, '')}) {system['commit']} of {system['date']}"
            days.setdefault(str(system["checked"]), []).append(shown)
    return [
        f"- Read on {day} in the repositories as they stood: {', '.join(read)}."
        for day, read in sorted(days.items())
    ]


def trips() -> str:
    """What trips up users of NExT-GPT, and what becomes of it here."""
    record = yaml.safe_load(PEERS.read_text(encoding="utf-8"))
    theirs, ours = record["systems"]["NExT-GPT"], {}
    lines = ["| in NExT-GPT | here |", "| --- | --- |"]
    for (there, shown), here in record["trips"]:
        if isinstance(shown, int):
            issue = f"https://github.com/{theirs['repository']}/issues/{shown}"
            lines.append(f"| {there} ([#{shown}]({issue})) | {_cell(ours, here)} |")
        else:
            lines.append(f"| {_cell(theirs, [there, shown])} | {_cell(ours, here)} |")
    return "\n".join(lines)


def _cell(system: dict[str, Any], fact: str | list[str]) -> str:
    if isinstance(fact, str):
        return fact
    answer, path = fact
    return f"[{answer}]({_address(system, path)})"


def _address(system: dict[str, Any], path: str) -> str:
    """Of a file or folder at the commit that was read; relative for this repository's own."""
    if "repository" not in system:
        return path
    root = f"https://github.com/{system['repository']}/tree/{system['commit']}"
    where = posixpath.normpath(posixpath.join(system.get("folder", ""), path))
    return root if where == "." else f"{root}/{where}"
