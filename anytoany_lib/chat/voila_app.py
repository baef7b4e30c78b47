"""The chat as a page of its own, by Voila: anytoany app [--run RUN] [--port PORT] [--theme dark].

Voila runs a notebook of two cells, made here, in a kernel of its own for each visitor; the first one waits, its model
loaded, before anybody comes. ?theme=dark or ?theme=light in the address overrides the theme. The page is for this machine
alone unless --host says otherwise, and for whoever has the link that is printed (see `access` for what they may do).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import tornado.web
from jupyter_server._tz import utcnow
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from voila.app import Voila

from anytoany_lib.chat.access import (
    Answer,
    Gate,
    Limits,
    check_port,
    gate_of,
    parser,
    run_named,
    shown_name,
)
from anytoany_lib.config import home

_CELLS = (
    """%%capture
from anytoany_lib import AnyToAny, Chat
from anytoany_lib.chat.access import Limits

model = AnyToAny.from_pretrained({run!r})""",
    """chat = Chat(model, name={name!r}, height="calc(100vh - 195px)", served={limits!r})
chat.layout = {{"width": "100%", "max_width": "860px", "margin": "0 auto"}}
chat""",
)
_LEFT_SECONDS = 60  # after which a kernel that no page is connected to ends


class Kernels(AsyncMappingKernelManager):
    """A kernel for each visitor, ended soon after the page is left, and when nothing was done for long."""

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """Ends a kernel that nobody is connected to; what else is idle, Jupyter ends."""
        idle = utcnow() - self._kernels[kernel_id].last_activity
        if not self._kernel_connections.get(kernel_id) and idle.total_seconds() > _LEFT_SECONDS:
            await self.shutdown_kernel(kernel_id)
        else:
            await super().cull_kernel_if_idle(kernel_id)


class _Answered(tornado.web.RequestHandler):
    """Gives a request, whatever its method, the answer of the gate."""

    def initialize(self, answer: Answer) -> None:
        self._answer = answer

    def prepare(self) -> None:
        self.set_status(self._answer.status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        for name, value in self._answer.headers.items():
            self.set_header(name, value)
        self.finish(self._answer.text)


class Served(Voila):
    """Voila behind a `Gate`, which every request passes first: pages, files, sockets."""

    gate = Gate()
    places = 1

    def listen(self) -> None:
        """Opens the port, with the gate before all that Voila answers."""
        find = self.app.find_handler

        def gated(request: Any, **more: Any) -> Any:
            """The handler of a request: the gate's own, or Voila's."""
            answer = self.gate.answer(request.uri, request.headers) or self._full(request)
            if answer:
                return self.app.get_handler_delegate(request, _Answered, {"answer": answer})
            return find(request, **more)

        self.app.find_handler = gated
        super().listen()

    def _full(self, request: Any) -> Answer | None:
        """The refusal of one page more than there are `places`: each takes a kernel with a model of its own."""
        if request.path == "/" and len(self.kernel_manager.list_kernel_ids()) >= self.places:
            return Answer(503, "all places of this chat are taken: try again in some minutes")
        return None


def write_notebook(folder: Path, run: Path, limits: Limits | None = None) -> Path:
    """Writes a notebook in `folder` that loads a run without output and shows the chat as visitors may use it."""
    values = {"run": str(run.absolute()), "name": shown_name(run), "limits": limits or Limits()}
    sources = [cell.format(**values) for cell in _CELLS]
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
        *(str(notebook), "--no-browser", f"--theme={theme}", "--show_tracebacks=False"),
        *(f"--Voila.ip={host}", f"--port={port}", "--Voila.port_retries=0"),
        *(f"--preheat_kernel={waiting > 0}", f"--pool_size={waiting}"),
        # Of the files here none is for visitors, and the theme is all that an address may choose.
        *(f"--Voila.root_dir={notebook.parent}", "--VoilaConfiguration.file_allowlist=(?!)"),
        "--VoilaConfiguration.allow_template_override=NO",
        "--VoilaConfiguration.multi_kernel_manager_class=anytoany_lib.chat.voila_app.Kernels",
        *(f"--Kernels.cull_idle_timeout={Limits.idle_seconds}", "--Kernels.cull_interval=15"),
        "--Kernels.cull_connected=True",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: serve a run, the newest one of profile tiny if none is named."""
    command = parser("app", "The chat as a page of its own, by Voila.", 8866)
    command.add_argument("--theme", choices=("light", "dark"), default="light")
    command.add_argument(
        "--waiting", type=int, default=1, help="kernels that wait with a loaded model (default: 1)"
    )
    command.add_argument(
        "--visitors",
        type=int,
        default=Limits.visitors,
        help=f"at most so many at once, each with a model of its own (default: {Limits.visitors})",
    )
    given = command.parse_args(arguments)
    check_port(given.host, given.port)
    run = run_named(given.run)
    Served.gate, Served.places = gate_of(given), given.visitors + given.waiting
    with tempfile.TemporaryDirectory(prefix="anytoany-app-") as folder:
        notebook = write_notebook(Path(folder), run)
        # Whatever visitors upload lies in here too, and goes with it.
        os.environ |= {"TMPDIR": folder, "ANYTOANY_HOME": str(home().absolute())}
        tempfile.tempdir = None
        link = Served.gate.link(given.host, given.port)
        print(f"the chat is at {link} as soon as its model is loaded", flush=True)
        serve = options(notebook, given.host, given.port, given.theme, given.waiting)
        os.chdir(home())
        Served.launch_instance(serve)
