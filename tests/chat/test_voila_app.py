"""The chat as a page of its own: what Voila is told. Its pages are seen in test_access. Skipped where it is not installed."""

from __future__ import annotations

import nbformat
import pytest

from anytoany_lib.chat.access import gate_of, parser, run_named
from anytoany_lib.config import resolve

app = pytest.importorskip("anytoany_lib.chat.voila_app", reason="the extra app is not installed")


def test_the_notebook_names_its_run_and_shows_nothing_else(tmp_path):
    run = resolve("ckpt/tiny/run")
    notebook = nbformat.read(app.write_notebook(tmp_path, run), 4)
    loading, showing = (cell.source for cell in notebook.cells)
    assert loading.startswith("%%capture") and repr(str(run.absolute())) in loading
    assert showing.endswith("\nchat") and "'ckpt/tiny/run'" in showing


def test_this_machine_alone_and_the_port_asked_for(tmp_path):
    options = app.options(tmp_path / "chat.ipynb", "127.0.0.1", 8866, "light", 0)
    assert "--Voila.ip=127.0.0.1" in options and "--Voila.port_retries=0" in options
    assert "--preheat_kernel=False" in options


def test_the_run_that_is_served():
    assert run_named("ckpt/tiny/run") == resolve("ckpt/tiny/run")
    assert (run_named(None) / "run.json").is_file()
    with pytest.raises(FileNotFoundError, match="no run in .*nowhere"):
        run_named("ckpt/nowhere")
    given = parser("app", "", 8866).parse_args([])
    assert (given.host, given.port) == ("127.0.0.1", 8866)
    assert (
        gate_of(given).token and not gate_of(parser("app", "", 1).parse_args(["--no-token"])).token
    )
