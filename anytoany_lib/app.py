"""The chat as a page of its own, by Voila: python -m anytoany_lib.app [--run RUN] [--port PORT] [--theme dark].

Voila runs a notebook of two cells, made here, in a kernel of its own for each visitor; the first one waits, its model
loaded, before anybody comes. ?theme=dark or ?theme=light in the address overrides the theme. The page is for this machine
alone unless --host says otherwise.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from voila.app import Voila

from anytoany_lib.config import home, portable
from anytoany_lib.serving import parser, run_named

_CELLS = (
    """%%capture
from anytoany_lib import AnyToAny, Chat

model = AnyToAny.from_pretrained({run!r})""",
    """chat = Chat(model, name={name!r}, height="calc(100vh - 195px)")
chat.layout = {{"width": "100%", "max_width": "860px", "margin": "0 auto"}}
chat""",
)


def write_notebook(folder: Path, run: Path) -> Path:
    """A notebook in `folder` that loads a run, without a word, and shows the chat."""
    sources = [cell.format(run=str(run.absolute()), name=portable(run)) for cell in _CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=list(map(nbformat.v4.new_code_cell, sources)), metadata={"kernelspec": kernel}
    )
    path = folder / "chat.ipynb"
    nbformat.write(notebook, path)
    return path


def options(notebook: Path, host: str, port: int, theme: str, waiting: int) -> list[str]:
    """Voila's command line that serves it, with so many kernels that wait for visitors."""
    return [
        *(str(notebook), "--no-browser", f"--theme={theme}", "--show_tracebacks=True"),
        *(f"--Voila.ip={host}", f"--port={port}", "--Voila.port_retries=0"),
        *(f"--preheat_kernel={waiting > 0}", f"--pool_size={waiting}"),
    ]


def main() -> None:
    """Command line: serve a run, the newest one of profile tiny if none is named."""
    wanted = parser("The chat as a page of its own, by Voila.", 8866)
    wanted.add_argument("--theme", choices=("light", "dark"), default="light")
    wanted.add_argument(
        "--waiting", type=int, default=1, help="kernels that wait with a loaded model (default: 1)"
    )
    given = wanted.parse_args()
    run = run_named(given.run)
    with tempfile.TemporaryDirectory(prefix="anytoany-app-") as folder:
        notebook = write_notebook(Path(folder), run)
        print(f"the chat is at http://{given.host}:{given.port} as soon as its model is loaded")
        serve = options(notebook, given.host, given.port, given.theme, given.waiting)
        os.chdir(home())
        Voila.launch_instance(serve)


if __name__ == "__main__":
    main()
