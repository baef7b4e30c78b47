"""Runs the gallery, a notebook that is kept with its outputs, and keeps of them what GitHub can show.

    python docs/make_gallery.py        a minute

Progress bars go, and whatever the Colab cell says; pictures get a palette, which is a third of their bytes, and sounds become
MP3, which is a tenth. The notebook remembers which code it ran, so that a test can say when it is stale.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from pathlib import Path

import nbformat
import soundfile
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from anytoany_lib.system.files import appearing_file

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "gallery.ipynb"
RAN = "ran"  # in the notebook's metadata: the digest of the code that made the outputs
_WAV = re.compile("data:audio/wav;base64,([A-Za-z0-9+/=]+)")
_BAR = "application/vnd.jupyter.widget-view+json"


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: NotebookNode) -> str:
    """Of all the code in a notebook but the Colab cell, which does nothing here and changes with the repository's address."""
    cells = [cell for cell in code_of(notebook) if "colab" not in cell.metadata.get("tags", [])]
    code = "\0".join(cell.source for cell in cells)
    return hashlib.blake2b(code.encode(), digest_size=8).hexdigest()


def with_palette(png: str) -> str:
    """A PNG in base64 with fewer colours."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    smaller = io.BytesIO()
    image.quantize(method=Image.Quantize.MAXCOVERAGE).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def as_mp3(wav: re.Match) -> str:
    """The address that holds a WAV file as one that holds an MP3."""
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(wav[1])))
    smaller = io.BytesIO()
    soundfile.write(smaller, samples, rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(smaller.getvalue()).decode()}"


def tidy(notebook: NotebookNode) -> None:
    """Leaves the outputs that are to be kept, in place."""
    for cell in code_of(notebook):
        here = "colab" in cell.metadata.get("tags", [])
        cell.outputs = [o for o in cell.outputs if not here and _BAR not in o.get("data", {})]
        for data in (output.data for output in cell.outputs if "data" in output):
            if "image/png" in data:
                data["image/png"] = with_palette(data["image/png"])
            if "text/html" in data:
                data["text/html"] = _WAV.sub(as_mp3, data["text/html"])
    notebook.metadata.pop("widgets", None)
    notebook.metadata[RAN] = digest(notebook)


def main() -> None:
    """Runs the notebook in place."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ["TQDM_DISABLE"] = "1"
    NotebookClient(
        notebook, resources={"metadata": {"path": NOTEBOOK.parent}}, record_timing=False
    ).execute()
    tidy(notebook)
    with appearing_file(NOTEBOOK) as beside:
        nbformat.write(notebook, beside)


if __name__ == "__main__":
    main()
