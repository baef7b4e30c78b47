"""What the chat's own pages (`app`, `gradio_app`) are told on the command line: which run, and where to serve it."""

from __future__ import annotations

import argparse
from pathlib import Path

from anytoany_lib import checkpoints
from anytoany_lib.config import Profile, portable, resolve
from anytoany_lib.remote import local
from anytoany_lib.runs import newest_run, profile_of, read_record
from anytoany_lib.served import Gate
from anytoany_lib.sources import how_to_get


def parser(description: str, port: int) -> argparse.ArgumentParser:
    """--run, --host and --port, for this machine alone unless the host says otherwise."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--run", help="a run folder (default: the newest of profile tiny)")
    options.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one)"
    )
    options.add_argument("--port", type=int, default=port)
    options.add_argument("--token", help="what the link ends with (default: drawn anew)")
    options.add_argument(
        "--no-token", action="store_true", help="let in whoever reaches the port, without a token"
    )
    options.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that this page is visited under, beside localhost and this machine's own",
    )
    return options


def gate_of(given: argparse.Namespace) -> Gate:
    """The gate that the command line asks for, whose token no log says."""
    gate = Gate.of("" if given.no_token else given.token, given.allow_host)
    gate.keep_out_of_logs()
    return gate


def shown_name(run: Path) -> str:
    """What visitors are told of where a run lies: not the folders of this machine."""
    name = portable(run)
    return run.name if Path(name).is_absolute() else name


def run_named(name: str | None) -> Path:
    """The folder of the run that was named, else the newest of profile tiny, whose models are fetched.

    Of a run that was named nothing is fetched: whoever wrote it may be anybody. FileNotFoundError if there is none, or says
    which of its models are missing and what fetches them.
    """
    if name is None:
        checkpoints.fetch(Profile.load("tiny"))
    run = local(name) if name else newest_run("tiny")
    run = run or resolve("ckpt/runs")  # of which it is said what is missing, and how to make it
    profile = profile_of(read_record(run), run)
    if absent := checkpoints.missing(profile):
        said = "; ".join(
            f"{what} in {folder}: {how_to_get(what, folder)}" for what, folder in absent.items()
        )
        raise FileNotFoundError(f"{run} needs models that are not there: {said}")
    checkpoints.verify(profile)
    return run
