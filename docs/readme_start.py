"""The first screen of the README: the chat in a moving picture, how to get the kit, and three ways in.

Minutes are those of docs/demo/fresh.json, the address is that of pyproject.toml; what is not there is not said.
"""

from __future__ import annotations

import math
from pathlib import Path

import make_address
import readme_results

ROOT = Path(__file__).resolve().parents[1]
CHAT = "docs/demo/chat.gif"
DRAWING = "docs/figures/framework.svg"


def picture() -> str:
    """The chat as it was recorded, or the drawing of the system as long as nobody has."""
    if (ROOT / CHAT).is_file():
        shown = "The chat: a request is typed, words stream, a picture, a sound and a clip appear"
        return f'<img src="{CHAT}" alt="{shown}">'
    shown = (
        "Data from left to right: ImageBind, input projection, a language model in 4-bit with LoRA, signal tokens, "
        "output projections, diffusion decoders; frozen and trained parts told apart"
    )
    return f'<img src="{DRAWING}" alt="{shown}">'


def start() -> str:
    """Commands from nothing to the chat, and the seconds they took on fresh machines."""
    lines = [
        "```",
        f"git clone {make_address.address() or 'URL'} anytoany",
        "cd anytoany",
        "make lab",
        "```",
    ]
    if seconds := _seconds("make lab"):
        measured = " to ".join(_clock(n) for n in dict.fromkeys((min(seconds), max(seconds))))
        lines += ["", f"`make lab` took {measured} on two CPU cores with an empty pip cache."]
    return "\n".join(lines)


def paths() -> str:
    """Three ways in, each with its time and its commands."""
    return "\n".join(
        [
            f"**1. Talk to it now{_minutes('make lab')}.** In the notebook that `make lab` opened, run the cells and type a request. Or stay in the",
            "terminal; media go to `out/chat`:",
            "",
            "```",
            '.venv/bin/anytoany chat "Draw a red bell."',
            "```",
            "",
            f"**2. Train all of it on a laptop{_minutes('make demo')}.** Data, features, three stages, the matrix below, a conversation. It needs no",
            "GPU. `make lab` then talks to your own run, and [the course](docs/notebooks.md) explains each step:",
            "",
            "```",
            "make demo",
            "```",
            "",
            "**3. 7 B on your card.** What fits it, what is to be fetched and on what terms, what your card does with random weights:",
            "",
            "```",
            ".venv/bin/anytoany memory --profile nextgpt-7b --gigabytes 16",
            "make gpu-check",
            ".venv/bin/anytoany fetch --profile nextgpt-7b",
            "```",
        ]
    )


def _seconds(command: str) -> list[float]:
    """Of every fresh machine on which a command was timed."""
    return [of[command]["seconds"] for of in readme_results.fresh_times().values() if command in of]


def _minutes(command: str) -> str:
    """ ": 2 minutes", rounded up, of the slowest machine; nothing if the command was not timed."""
    seconds = _seconds(command)
    return f": {math.ceil(max(seconds) / 60)} minutes" if seconds else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
