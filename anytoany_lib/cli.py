"""`anytoany COMMAND ...`: one command line for everything, over the same functions that the notebooks call.

Each command is the `main` of a module, loaded when it is asked for: `anytoany --help` costs nothing. An error ends in one
line, with exit status 1 (2 for wrong usage, 130 for an interrupt); `--debug` shows its traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

from anytoany_lib.system import terminal


class Command(NamedTuple):
    """A command: the module whose `main` it is, what it is for, and the extra of the package that it needs."""

    module: str
    purpose: str
    extra: str = ""


COMMANDS = {
    "demo": Command("demo", "the whole job for real: data, features, three stages, the matrix"),
    "fetch": Command("checkpoints.fetching", "fetch the frozen models of a profile"),
    "memory": Command("memory.planning", "plan the memory of every phase of a profile"),
    "rehearse": Command("memory.rehearsal", "hold that plan against a rehearsal on shapes alone"),
    "data": Command("data.building", "a dataset's own files -> a manifest with its media"),
    "features": Command("features.precomputing", "what the frozen models make of a dataset"),
    "train": Command("train", "train one stage"),
    "evaluate": Command("evaluation.matrix", "the any-to-any matrix of a run"),
    "retrieval": Command("evaluation.retrieval", "how well a run tells captioned media apart"),
    "perplexity": Command("evaluation.perplexity", "whether a run still talks as its LLM did"),
    "benchmark": Command(
        "benchmarks.understanding",
        "papers' numbers: predict and score texts, generate and compare media",
    ),
    "recipe": Command("recipe.command", "from public data to a measured run, on one card in a day"),
    "speech": Command("evaluation.spoken", "measure a run that is spoken to and read aloud"),
    "chat": Command("chat.console", "talk to a run in the terminal"),
    "app": Command("chat.voila_app", "serve the chat as a page, by Voila", "app"),
    "gradio": Command("chat.gradio_app", "serve the chat as a page, by Gradio", "gradio"),
    "export": Command("export.command", "a run for others: its LLM, itself on the hub, a Space"),
    "copy": Command("system.remote", "copy a folder to a URL, or from one"),
}
# The steps of `benchmark` that make media; the others describe them.
_MEDIA_STEPS = ("generate", "compare")


def _module(command: str, rest: Sequence[str]) -> str:
    """The module that runs a command with what follows it on the line."""
    if command == "benchmark" and rest[:1] and rest[0] in _MEDIA_STEPS:
        return "benchmarks.generation"
    return COMMANDS[command].module


def _parser() -> argparse.ArgumentParser:
    """The help of `anytoany` itself; each command parses its own arguments."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {one.purpose}" for name, one in COMMANDS.items())
    summary = f"{__doc__.splitlines()[0]}\n\ncommands (each has a --help):\n{commands}"
    parser = terminal.parser("", summary, "train --help", "chat")
    parser.usage = "anytoany COMMAND ..."
    return parser


def _load(command: str, rest: Sequence[str]) -> Callable[[Sequence[str]], int | None]:
    """The `main` of a command. ImportError says how to install the extra that it needs."""
    extra = COMMANDS[command].extra
    try:
        return import_module(f"anytoany_lib.{_module(command, rest)}").main
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not extra or missing == "anytoany_lib":
            raise
        raise ImportError(
            f"anytoany {command} needs the extra {extra!r}, of which {missing} is not installed: {install_line(extra)}"
        ) from error


def install_line(extra: str) -> str:
    """The command that installs an extra of this package: from the checkout if it runs in one, else from where that is published."""
    checkout = Path(__file__).resolve().parents[1]
    pip = f"{sys.executable} -m pip install"
    if (checkout / "pyproject.toml").is_file():
        return f'{pip} -e "{checkout}[{extra}]"'
    urls = metadata.metadata("anytoany").get_all("Project-URL") or []
    repository = next((url.split()[1] for url in urls if url.startswith("Repository, ")), "")
    return f'{pip} "anytoany[{extra}]{repository and f" @ git+{repository}"}"'


def _dispatch(arguments: Sequence[str]) -> int | None:
    """Runs the command that the arguments begin with; returns its exit status."""
    command, *rest = arguments or [""]
    if command not in COMMANDS:
        parser = _parser()
        if command.startswith("-"):
            parser.parse_args([command])  # --help, or an option that there is not
        found = repr(command) if command else "nothing"
        parser.error(f"expected one of {', '.join(COMMANDS)}; found {found}")
    return _load(command, rest)(rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status. Errors and interrupts are told in one line (see `terminal.run`)."""
    return terminal.run(_dispatch, arguments)


if __name__ == "__main__":
    sys.exit(main())
