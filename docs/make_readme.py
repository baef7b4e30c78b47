"""Writes the parts of the README that follow from the repository: what was measured and recorded, tables, trees, drawings.

    python docs/make_readme.py                                          writes from what is there
    python docs/make_readme.py --run ckpt/runs/tiny/stage3 --out out    takes over a new demo first
    python docs/make_readme.py --conversation ckpt/tiny/run             talks to a run first, a minute or two

Each part stands in README.md between two marks; what is outside them is written by hand. docs/demo holds the demo's
metrics.json, demo.json (time and memory of each notebook) and a sheet of its replies, the conversation with its media, and
fresh.json if somebody timed the commands on fresh machines: {"python": {"3.11": {"make demo": {"seconds": 1, "bytes": 1}}}}.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import readme_conversation
import readme_figures
import readme_peers
import readme_profiles
import readme_results
import readme_tree

from anytoany_lib.config import Profile

README = Path(__file__).resolve().parents[1] / "README.md"
DRAWN = "tiny"  # the profile whose stages are drawn
PARTS: dict[str, Callable[[], str]] = {
    "conversation": readme_conversation.table,
    "matrix": readme_results.shipped,
    "fresh": readme_results.fresh,
    "commands": readme_tree.commands,
    "notebooks": readme_tree.notebooks,
    "profiles": readme_profiles.table,
    "demo": readme_results.demo,
    "peers": readme_peers.table,
    "trips": readme_peers.trips,
    "tree": readme_tree.tree,
    "licences": readme_profiles.licences,
    "citation": readme_tree.citation,
}


def mark(name: str) -> str:
    """The line before a part."""
    return f"<!-- {name}: written by docs/make_readme.py, do not edit -->"


def part(name: str) -> str:
    """A part of the README between its marks, with the blank lines that markdown wants."""
    body = PARTS[name]()
    between = f"\n\n{body}\n\n" if body else "\n"
    return f"{mark(name)}{between}<!-- end of {name} -->"


def write() -> None:
    """Puts every part in its place, and both drawings into docs/figures."""
    text = README.read_text(encoding="utf-8")
    for name in PARTS:
        begin, end = text.index(mark(name)), f"<!-- end of {name} -->"
        text = text[:begin] + part(name) + text[text.index(end) + len(end) :]
    README.write_text(text, encoding="utf-8")
    readme_figures.write(Profile.load(DRAWN))


def main() -> None:
    """Takes over a demo and records a conversation if either is named, and writes the README."""
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
