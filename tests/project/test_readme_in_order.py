"""The README's shell blocks, pasted one after another into the shell of a newcomer: a new clone, its own environment.

`make demo` is one of them, so this takes three quarters of an hour and is in `make test-long` alone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from browser import free_port
from test_readme_page import README, REPOSITORY, read, shell_blocks

pytestmark = pytest.mark.long
PATIENCE = 2 * 3600  # seconds
# What a machine without a card, or without the model hub, is told in one line.
NO_CARD, NO_HUB = "expected a CUDA card", "huggingface"
FIRST, *LATER = shell_blocks(read(README))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the newcomer's shell begins; `git clone` finds the repository at the address of the README."""
    folder = tmp_path_factory.mktemp("home")
    address = re.search(r"git clone (\S+)", FIRST[0]).group(1)
    (folder / ".gitconfig").write_text(f'[url "{REPOSITORY}"]\n    insteadOf = {address}\n')
    return folder


def shell(home: Path, lines: str, folder: str = "anytoany", **settings: str) -> subprocess.Popen:
    """Bash with the lines, which end at the first that fails."""
    (home / folder).mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.Popen(
        ["bash", "-ec", lines],
        cwd=home / folder,
        env=environment | {"HOME": str(home), "BROWSER": "true", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(shell: subprocess.Popen) -> tuple[int, str]:
    """The exit status and all that was printed."""
    output, _ = shell.communicate(timeout=PATIENCE)
    return shell.returncode, output


def test_the_first_block_clones_and_opens_jupyterlab(home: Path):
    port = free_port()
    server = shell(home, "\n".join(FIRST), folder=".", JUPYTER_PORT=str(port))
    until = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            assert server.poll() is None, ended(server)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=60) as api:
                    assert api.status == 200
                    return
            except OSError:
                time.sleep(1)
        pytest.fail("JupyterLab did not answer")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@pytest.mark.parametrize("line", [line for block in LATER for line in block])
def test_each_later_line_runs_in_that_clone(home: Path, line: str):
    status, output = ended(shell(home, line))
    if status:  # the path for a card, where there is none
        assert NO_CARD in output or NO_HUB in output, output
        assert "Traceback" not in output
    if "chat" in line:
        assert "Here is a red bell" in output
    if "demo" in line:
        assert (home / "anytoany/ckpt/runs/tiny/stage3/metrics.json").is_file()
