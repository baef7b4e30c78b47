"""What the chat's own pages (`app`, `gradio_app`) are told on the command line: which run, and where to serve it."""

from __future__ import annotations

import argparse
from pathlib import Path

from anytoany_lib import checkpoints
from anytoany_lib.config import Profile, resolve
from anytoany_lib.remote import local
from anytoany_lib.runs import newest_run, profile_of, read_record


def parser(description: str, port: int) -> argparse.ArgumentParser:
    """--run, --host and --port, for this machine alone unless the host says otherwise."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--run", help="a run folder (default: the newest of profile tiny)")
    options.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one)"
    )
    options.add_argument("--port", type=int, default=port)
    return options


def run_named(name: str | None) -> Path:
    """The folder of the run that was named, else the newest of profile tiny; the models it needs are fetched.

    FileNotFoundError if there is none, or one of its models is not there and cannot be fetched.
    """
    run = local(name) if name else newest_run(Profile.load("tiny").name)
    run = run or resolve("ckpt/runs")  # of which it is said what is missing, and how to make it
    checkpoints.fetch(profile_of(read_record(run), run))
    return run
