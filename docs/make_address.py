"""Writes the repository's address wherever it is needed: Colab badges, the notebooks' Colab cell, lines with `git clone`.

    python docs/make_address.py                            as pyproject.toml has it
    python docs/make_address.py https://github.com/OWNER/NAME
    python docs/make_address.py none                       while it is not published

It stands in one place, `[project.urls]` of pyproject.toml. Without an address there is no badge, and the Colab cell sets up
what lies there. Outputs of notebooks stay.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from anytoany_lib.system.files import appearing_file

REPOSITORY = Path(__file__).resolve().parents[1]
SETTINGS = "pyproject.toml"
NONE = "none"
COLAB = "colab"  # the tag of the Colab cell
CHAT = "07_chat"  # the notebook that README's badge opens
_BRANCH = "main"
_TABLE = re.compile(r'\[project\.urls\]\nRepository = "[^"\n]*"\n\n')
_BEFORE = "[project.optional-dependencies]\n"
_BADGE = re.compile(r"\[!\[Open in Colab\]\([^\n]*\n\n")
_PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"
_CLONE = re.compile(r"git clone \S+ anytoany\b")
# It is put into a shell's line as it is.
_ADDRESS = re.compile(r"(https|file)://[\w./:~+-]+")


def address() -> str | None:
    """The repository's address as pyproject.toml has it, None while it has none."""
    settings = tomllib.loads((REPOSITORY / SETTINGS).read_text(encoding="utf-8"))
    return settings["project"].get("urls", {}).get("Repository")


def badge(url: str | None, notebook: str) -> str:
    """The markdown of a badge that opens a notebook in Colab; "" for what Colab cannot open: it knows GitHub alone."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", url or "")
    if not found:
        return ""
    place = f"github/{found[1]}/blob/{_BRANCH}/notebooks/{notebook}.ipynb"
    return f"[![Open in Colab]({_PICTURE})](https://colab.research.google.com/{place})"


def with_badge(text: str, url: str | None, notebook: str) -> str:
    """Markdown with the badge below its title, in place of the one that was there."""
    text, shown = _BADGE.sub("", text, count=1), badge(url, notebook)
    title, blank, rest = text.partition("\n\n")
    return f"{title}\n\n{shown}\n\n{rest}" if shown and blank else text


def colab_cell(url: str | None) -> str:
    """The code that sets the kit up in Colab; anywhere else it does nothing."""
    what = "gets the kit" if url else "sets up the kit that lies in the folder anytoany"
    lines = [
        f"# @title In Colab: {what}. Anywhere else this cell does nothing.",
        'if "google.colab" in str(get_ipython()):',
    ]
    if url:
        # Run again, the kernel is in the clone; after a restart, beside it.
        there = "[ -d anytoany_lib -o -d anytoany ]"
        lines.append(f"    !{there} || git clone -q --depth 1 {url} anytoany")
    return "\n".join([*lines, "    %load_ext anytoany.notebooks.colab_setup"])


def with_address(notebook: NotebookNode, url: str | None, name: str) -> NotebookNode:
    """A notebook with its badge and its Colab cell, which comes behind the parameters; changed in place."""
    opening, *rest = notebook.cells
    opening.source = with_badge(opening.source, url, name)
    cells = [cell for cell in rest if COLAB in cell.metadata.get("tags", [])]
    if not cells:
        cell = nbformat.v4.new_code_cell(id=COLAB)
        cell.metadata = nbformat.from_dict(
            {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": [COLAB]}
        )
        tags = [one.metadata.get("tags", []) for one in notebook.cells]
        behind = next((at for at, own in enumerate(tags) if "parameters" in own), 0)
        notebook.cells.insert(behind + 1, cell)
        cells = [cell]
    cells[0].source = colab_cell(url)
    return notebook


def in_settings(settings: str, url: str | None) -> str:
    """The text of pyproject.toml with the address, or without."""
    settings = _TABLE.sub("", settings)
    if not url:
        return settings
    before, table, after = settings.partition(_BEFORE)
    return f'{before}[project.urls]\nRepository = "{url}"\n\n{table}{after}'


def texts(url: str | None, root: Path = REPOSITORY) -> dict[Path, str]:
    """Every file that holds the address, with the text that it should have."""
    found = {root / SETTINGS: in_settings((root / SETTINGS).read_text(encoding="utf-8"), url)}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook: Any = nbformat.read(path, as_version=4)
        found[path] = nbformat.writes(with_address(notebook, url, path.stem)) + "\n"
    for path in (
        root / "README.md",
        root / "CONTRIBUTING.md",
        *sorted((root / "docs").glob("*.md")),
    ):
        text = path.read_text(encoding="utf-8")
        if path.name == "README.md" and path.parent == root:
            text = with_badge(text, url, CHAT)
        if path.name != "LOG.md":  # which is never rewritten
            found[path] = _CLONE.sub(f"git clone {url or 'URL'} anytoany", text)
    return found


def write(url: str | None, root: Path = REPOSITORY) -> list[Path]:
    """Writes the files whose text is another; returns them. ValueError for what is no address."""
    if url and not _ADDRESS.fullmatch(url):
        raise ValueError(
            f"expected an address like https://github.com/OWNER/NAME, found {json.dumps(url)}"
        )
    changed = []
    for path, text in texts(url, root).items():
        if path.read_text(encoding="utf-8") != text:
            with appearing_file(path) as beside:
                beside.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> None:
    """Command line: writes the address that is named, else the one in pyproject.toml."""
    given = sys.argv[1] if len(sys.argv) > 1 else address()
    url = None if given == NONE else given
    changed = write(url)
    print(f"{url or 'no address'}: {len(changed)} files written")


if __name__ == "__main__":
    main()
