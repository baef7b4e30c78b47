"""The README's comparison with other public any-to-any systems, from docs/peers.yaml: every answer links to the file that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PEERS = Path(__file__).resolve().parent / "peers.yaml"


def table() -> str:
    """One column a system, one row a question, and the commits that were read."""
    told = yaml.safe_load(PEERS.read_text(encoding="utf-8"))
    systems: dict[str, dict[str, Any]] = told["systems"]
    lines = ["| | " + " | ".join(systems) + " |", "| --- |" + " --- |" * len(systems)]
    for key, question in told["rows"].items():
        cells = (_cell(system, system[key]) for system in systems.values())
        lines.append(f"| {question} | " + " | ".join(cells) + " |")
    read = ", ".join(
        f"[{name}]({_address(system, '')}) {system['commit']} of {system['date']}"
        for name, system in systems.items()
        if "repository" in system
    )
    return "\n".join(
        [*lines, "", f"Read on {told['checked']} in the repositories as they stood: {read}."]
    )


def trips() -> str:
    """What trips up users of NExT-GPT, and what becomes of it here."""
    told = yaml.safe_load(PEERS.read_text(encoding="utf-8"))
    theirs, ours = told["systems"]["NExT-GPT"], {}
    lines = ["| in NExT-GPT | here |", "| --- | --- |"]
    for (there, shown), here in told["trips"]:
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
    where = f"{system.get('folder', '')}{path}".rstrip("/")
    return f"https://github.com/{system['repository']}/tree/{system['commit']}/{where}".rstrip("/")
