"""Writes the parts of README.md and of pages in docs that follow from the repository: what was measured, tables, trees, drawings.

    python docs/make_readme.py                                          writes from what is there
    python docs/make_readme.py --run ckpt/runs/tiny/stage3 --out out    takes over a new demo first
    python docs/make_readme.py --conversation ckpt/tiny/run             talks to a run first, a minute or two

Each part stands on its page between two marks; what is outside them is written by hand. docs/demo holds the demo's
metrics.json, demo.json (time and memory of each notebook) and a sheet of its replies, the conversation with its media, and
fresh.json if somebody timed the commands on fresh machines: {"python": {"3.11": {"make demo": {"seconds": 1, "bytes": 1}}}}.
A recording of the chat, docs/demo/chat.gif, is what the README opens with if it is there.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

import readme_commands
import readme_conversation
import readme_figures
import readme_measured
import readme_peers
import readme_profiles
import readme_recipe
import readme_results
import readme_speech
import readme_start
import readme_tree

from anytoany_lib.config import Profile

ROOT = Path(__file__).resolve().parents[1]
DRAWN = "tiny"  # the profile whose stages are drawn
# Of each page, from the repository's root: its parts, and what writes them with links as from the root.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "picture": readme_start.picture,
        "start": readme_start.start,
        "paths": readme_start.paths,
        "conversation": readme_conversation.short,
        "matrix": readme_results.matrix,
    },
    "docs/README.md": {"tree": readme_tree.tree},
    "docs/commands.md": {
        "commands": readme_commands.targets,
        "command line": readme_commands.command_line,
    },
    "docs/licences.md": {
        "licences": readme_profiles.licences,
        "citation": readme_tree.citation,
    },
    "docs/measured.md": {
        "laptop": readme_measured.laptop,
        "card": readme_measured.card,
    },
    "docs/notebooks.md": {"notebooks": readme_tree.notebooks},
    "docs/peers.md": {"peers": readme_peers.tables, "trips": readme_peers.trips},
    "docs/profiles.md": {"ladder": readme_profiles.ladder, "profiles": readme_profiles.table},
    "docs/RECIPE.md": {
        "data": readme_recipe.data,
        "plan": readme_recipe.plan,
        "targets": readme_recipe.targets,
    },
    "docs/results.md": {
        "shipped": readme_results.shipped,
        "whole conversation": readme_conversation.table,
        "demo": readme_results.demo,
        "fresh": readme_results.fresh,
    },
    "docs/speech.md": {"speech": readme_speech.measured},
}
_ADDRESS = re.compile(r'(\]\(|(?:src|href)=")(?![a-z]+:|#)([^)"\s]+)')


def mark(name: str) -> str:
    """The line before a part."""
    return f"<!-- {name}: written by docs/make_readme.py, do not edit -->"


def part(page: str, name: str) -> str:
    """A part of a page between its marks, with the blank lines that markdown wants, its links as from that page."""
    folder = Path(page).parent
    body = _ADDRESS.sub(
        lambda found: found[1] + Path(os.path.relpath(found[2], folder)).as_posix(),
        PAGES[page][name](),
    )
    between = f"\n\n{body}\n\n" if body else "\n"
    return f"{mark(name)}{between}<!-- end of {name} -->"


def write() -> None:
    """Puts every part in its place, and both drawings into docs/figures."""
    for page, parts in PAGES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in parts:
            begin, end = text.index(mark(name)), f"<!-- end of {name} -->"
            text = text[:begin] + part(page, name) + text[text.index(end) + len(end) :]
        (ROOT / page).write_text(text, encoding="utf-8")
    readme_figures.write(Profile.load(DRAWN))


def main() -> None:
    """Takes over a demo and records a conversation if either is named, and writes all pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of a demo's stage 3, evaluated")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder with the demo's demo.json"
    )
    parser.add_argument("--conversation", type=Path, help="run folder to talk to")
    options = parser.parse_args()
    if options.run:
        readme_results.take_over(options.run, options.out)
    if options.conversation:
        readme_conversation.record(options.conversation)
    write()


if __name__ == "__main__":
    main()
