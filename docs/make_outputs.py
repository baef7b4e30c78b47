"""Gives the numbered notebooks the outputs of a demo, so that a reader on the web sees what they show.

    python docs/make_outputs.py --out out      the folder of a demo's executed notebooks: seconds

What is kept is what `make_gallery` keeps. A demo of other code is refused, and so is a notebook that grows beyond 400 kB.
Absolute paths of the machine become paths of the repository, as they stand in everybody's own.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import make_gallery
import nbformat
from nbformat import NotebookNode

from anytoany_lib.system.files import appearing_file

NOTEBOOKS = make_gallery.NOTEBOOK.parent
LARGEST = 400_000  # bytes of a notebook: more is slow to open on the web
INJECTED = "injected-parameters"  # papermill's tag of the cell with the values it was told


def executed_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of an executed notebook, but for the one in which papermill says its parameters."""
    return [
        cell
        for cell in make_gallery.code_of(notebook)
        if INJECTED not in cell.metadata.get("tags", [])
    ]


def without_place(output: NotebookNode, place: str) -> NotebookNode:
    """An output in which no text names `place`, the folder of the checkout that it was made in."""
    output = copy.deepcopy(output)
    texts = output.get("data", {}) if "data" in output else output
    for key, text in texts.items():
        if isinstance(text, str) and not key.startswith(("image/", "application/")):
            texts[key] = text.replace(f"{place}/", "").replace(place, ".")
    return output


def with_outputs(notebook: NotebookNode, executed: NotebookNode, place: str) -> NotebookNode:
    """A notebook with the outputs of its own code, executed in the checkout `place`.

    ValueError if the executed one has other code, or if the outcome is larger than `LARGEST`.
    """
    filled, cells = copy.deepcopy(notebook), executed_cells(executed)
    own = make_gallery.code_of(filled)
    if [cell.source for cell in own] != [cell.source for cell in cells]:
        raise ValueError("its code is not that of the executed notebook: run the demo anew")
    for cell, ran in zip(own, cells, strict=True):
        cell.outputs = [without_place(output, place) for output in ran.outputs]
        cell.execution_count = ran.execution_count
    make_gallery.tidy(filled)
    size = len(nbformat.writes(filled).encode())
    if size > LARGEST:
        raise ValueError(f"{size:,} bytes with its outputs, expected {LARGEST:,} at most")
    return filled


def numbered() -> list[Path]:
    """The notebooks that a demo runs."""
    return sorted(NOTEBOOKS.glob("0*.ipynb"))


def main(arguments: list[str] | None = None) -> None:
    """Writes the outputs of a demo into all numbered notebooks, or into none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="of the executed notebooks")
    out = parser.parse_args(arguments).out
    filled = {}
    for path in numbered():
        notebook = nbformat.read(path, as_version=4)
        executed = nbformat.read(out / path.name, as_version=4)
        try:
            filled[path] = with_outputs(notebook, executed, str(out.resolve().parent))
        except ValueError as error:
            raise SystemExit(f"{path.name}: {error}") from None
    for path, notebook in filled.items():
        with appearing_file(path) as beside:
            nbformat.write(notebook, beside)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
