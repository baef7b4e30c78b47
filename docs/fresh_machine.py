"""Times the README's commands as a newcomer meets them: a fresh clone, no virtual environment, an empty pip cache.

    python docs/fresh_machine.py --python python3.13 demo test lab app

Each command has a clone of HEAD to itself. `demo` and `test` run to their end; `lab` and `app` until their page has
arrived, and are then stopped. Times and the disk in use afterwards go to docs/demo/fresh.json, each as soon as it is
known; a command that fails ends it, with the folder that holds its clone and its log. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import readme_results

from anytoany_lib.system.files import write_json

PAGES = {"lab": "api", "app": ""}  # what is asked of a command that serves, below its address
_LIMIT = 2 * 3600.0  # seconds


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def disk_in_use(folder: Path) -> int:
    """Bytes of disk that a folder's files take, what is linked twice counted once."""
    found = (path.lstat() for path in folder.rglob("*"))
    return sum({(of.st_dev, of.st_ino): 512 * of.st_blocks for of in found}.values())


def _arrives(address: str) -> bool:
    """Whether the whole page is there; Voila's ends when its last cell has run."""
    try:
        with urllib.request.urlopen(address, timeout=60) as page:
            page.read()
            return page.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _await(process: subprocess.Popen, address: str | None) -> None:
    """Until the command has ended or its page is there. RuntimeError if neither comes, or it fails."""
    until = time.monotonic() + _LIMIT
    while time.monotonic() < until:
        if process.poll() is not None:
            if process.returncode or address:
                raise RuntimeError(f"ended with status {process.returncode}")
            return
        if address and _arrives(address):
            return
        time.sleep(0.2)
    raise RuntimeError(f"not done after {_LIMIT / 3600:g} h")


def timed(command: str, python: str, folder: Path) -> dict:
    """Clones into FOLDER and makes COMMAND; its seconds, bytes on disk, torch and commit. RuntimeError if it fails."""
    clone, port = folder / "clone", free_port()
    subprocess.run(["git", "clone", "-q", str(readme_results.ROOT), str(clone)], check=True)
    address = f"http://127.0.0.1:{port}/{PAGES[command]}" if command in PAGES else None
    environment = os.environ | {
        "PIP_CACHE_DIR": str(folder / "pip"),
        "JUPYTER_PORT": str(port),
        "BROWSER": "true",  # the program of that name stands in for one
    }
    making = ["make", command, f"PYTHON={python}", f"PORT={port}"]
    started = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            making, cwd=clone, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _await(process, address)
            seconds = time.monotonic() - started
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)
    told = [".venv/bin/python", "-c", "import torch; print(torch.__version__)"]
    torch = subprocess.check_output(told, cwd=clone, text=True).strip()
    commit = subprocess.check_output(
        ["git", "rev-parse", "--short=8", "HEAD"], cwd=clone, text=True
    )
    return {
        "seconds": round(seconds),
        "bytes": disk_in_use(clone),
        "torch": torch,
        "commit": commit.strip(),
    }


def main() -> int:
    """Times the commands one after another; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="+", choices=("demo", "test", *PAGES))
    parser.add_argument("--python", default=sys.executable, help="the Python of the environments")
    options = parser.parse_args()
    asked = [options.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.check_output(asked, text=True).strip()
    record = readme_results.DEMO / readme_results.FRESH
    for command in options.commands:
        folder = Path(tempfile.mkdtemp(prefix="anytoany-fresh-"))
        try:
            found = timed(command, options.python, folder)
        except RuntimeError as error:
            print(f"error: make {command} {error}; see {folder}/log", file=sys.stderr)
            return 1
        shutil.rmtree(folder)
        print(f"Python {version}, make {command}: {found}", flush=True)
        kept = json.loads(record.read_text()) if record.is_file() else {"python": {}}
        kept["python"].setdefault(version, {})[f"make {command}"] = found
        write_json(record, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
