"""The chat as a page of its own: Voila for real, seen in Chromium. Skipped where either is not installed."""

from __future__ import annotations

import sys

import nbformat
import pytest
from browser import browser_page, free_port, needs_chromium, screenshot, server

from anytoany_lib.chat.access import parser, run_named
from anytoany_lib.config import resolve

app = pytest.importorskip("anytoany_lib.chat.voila_app", reason="the extra app is not installed")
INPUT = ".a2a-chat .a2a-input textarea"


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


@needs_chromium
def test_a_visitor_talks_to_the_model(tmp_path):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "anytoany_lib",
        "app",
        "--run",
        str(resolve("ckpt/tiny/run")),
    ]
    command += ["--port", str(port), "--waiting", "0", "--no-token"]
    # What answers before a kernel is needed: the page itself starts one.
    with (
        server(command, f"{address}/voila/static/voila.js", tmp_path),
        browser_page(1100, 800) as page,
    ):
        page.goto(f"{address}/?theme=dark", timeout=120_000)
        page.wait_for_selector(INPUT, timeout=120_000)
        page.fill(INPUT, "Draw a red bell.")
        page.click(".a2a-send")
        page.wait_for_function(
            "() => document.querySelector('.a2a-model img')?.naturalWidth === 64"
        )
        assert page.locator("body[data-jp-theme-light=false]").count() == 1
        assert "Loading weights" not in page.inner_text("body")
        assert page.evaluate("() => document.documentElement.scrollHeight <= innerHeight + 1")
        screenshot(page, "voila_dark", "body")
