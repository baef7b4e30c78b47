"""A conversation with a real run, recorded with its media for the README.

`record` needs the frozen models and takes about a minute; `table` writes what was recorded as markdown. Nobody chooses
between replies: the turns stand below, the seed is 0, and what the model answers is what is shown.
"""

from __future__ import annotations

import html
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from matplotlib.figure import Figure
from PIL import Image

from anytoany_lib import AnyToAny, Session
from anytoany_lib.config import portable
from anytoany_lib.media import media_files
from anytoany_lib.messages import Message, Part, medium_of
from anytoany_lib.system.runs import provenance
from anytoany_lib.toyworld import FPS, draw, film, sound

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "demo" / "conversation"
RECORD = "messages.json"
SEED = 0
_WIDTH = {"image": 96, "audio": 224, "video": 96}


def turns(rng: np.random.Generator) -> list[list[Part]]:
    """What is said to the model, a list of parts a turn: every kind of medium goes in, and every kind is asked for."""
    return [
        [_text("Draw a red bell.")],
        [_text("Film it moving left.")],
        [{"type": "audio", "audio": sound("train", rng)}, _text("What do you hear?")],
        [_text("Draw it in green.")],
        [{"type": "image", "image": draw("drum", "blue", rng)}, _text("Play its sound.")],
        [{"type": "video", "video": film("boat", "yellow", "right", rng)}, _text("What happens?")],
        [_text("What is the capital of France?")],
    ]


def _text(words: str) -> Part:
    return {"type": "text", "text": words}


def record(run: Path, folder: Path = FOLDER) -> None:
    """Talks to a run and keeps messages.json and every medium in `folder`, in place of what was there."""
    session = Session(AnyToAny.from_pretrained(run), seed=SEED)
    for turn in turns(np.random.default_rng(SEED)):
        for _ in session.send(turn):
            pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    numbers = itertools.count(1)
    messages = [
        message | {"content": [_kept(part, numbers, folder) for part in message["content"]]}
        for message in session.messages
    ]
    told = {"run": portable(run), "seed": SEED, "commit": provenance()["commit"] or "unknown"}
    text = json.dumps(told | {"messages": messages}, indent=1, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _kept(part: Part, numbers: Iterator[int], folder: Path) -> dict[str, str]:
    """A part as the record holds it, its medium written to a file of the next number."""
    kind = part["type"]
    if kind == "text":
        return {"type": kind, "text": part["text"]}
    number, medium = next(numbers), medium_of(part)
    if kind == "image":
        name = f"{number}.png"
        media_files.as_image(medium).save(folder / name, optimize=True)
    elif kind == "audio":
        name = f"{number}.flac"
        samples, rate = media_files.as_audio(medium)
        soundfile.write(folder / name, samples, rate)
        _draw_waveform(samples, rate, folder / f"{number}.png")
    else:
        name = f"{number}.gif"
        fps = medium[1] if isinstance(medium, tuple) else FPS
        frames = [Image.fromarray(frame) for frame in media_files.as_video(medium)]
        options = {"save_all": True, "append_images": frames[1:], "duration": round(1000 / fps)}
        frames[0].save(folder / name, loop=0, **options)
    return {"type": kind, kind: name}


def _draw_waveform(samples: np.ndarray, rate: int, target: Path) -> None:
    """The loudest and the lowest sample of every short piece, against seconds."""
    pieces = np.array_split(samples, 320)
    seconds = np.linspace(0, len(samples) / rate, len(pieces))
    figure = Figure(figsize=(2.8, 0.9), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(
        seconds, [p.min() for p in pieces], [p.max() for p in pieces], color="#2a9d8f"
    )
    axes.set(ylim=(-1, 1), xlim=(0, seconds[-1]), yticks=[], xticks=range(round(seconds[-1]) + 1))
    axes.tick_params(labelsize=6)
    axes.set_xlabel("seconds", fontsize=6)
    figure.savefig(target, dpi=160, facecolor="white")


def recorded() -> dict:
    """The record: the run, the seed, the commit, and the messages with their media by the names of their files."""
    return json.loads((FOLDER / RECORD).read_text(encoding="utf-8"))


def short() -> str:
    """The turns of the recorded conversation in which a kind of medium goes in or comes out for the first time."""
    record = recorded()
    seen: set[tuple[str, str]] = set()
    kept = []
    for turn in _turns(record):
        kinds = {(message["role"], part["type"]) for message in turn for part in message["content"]}
        if kinds - seen:
            kept.append(turn)
        seen |= kinds
    spoken = len(record["messages"]) // 2
    lines = [
        f"{len(kept)} of the {spoken} turns of one session, seed {record['seed']}, first replies; [all of them](docs/results.md#the-whole-conversation). Media as",
        "made, 64 pixels wide.",
    ]
    return "\n".join([*_rows(kept), "", *lines])


def table() -> str:
    """The recorded conversation as a markdown table, a row a turn."""
    record = recorded()
    return "\n".join(
        [
            *_rows(_turns(record)),
            "",
            f"One session with `{record['run']}`, seed {record['seed']}, first replies, recorded at commit {record['commit'][:8]} by",
            f"`python docs/make_readme.py --conversation {record['run']}`. Pictures and clips are 64 pixels wide as made.",
        ]
    )


def _turns(record: dict) -> list[tuple[Message, Message]]:
    """What was said to the model, and what it answered."""
    messages = record["messages"]
    return list(zip(messages[0::2], messages[1::2], strict=True))


def _rows(shown: list[tuple[Message, Message]]) -> list[str]:
    """A markdown table, a row a turn."""
    lines = ["| you | the model |", "| --- | --- |"]
    return lines + [f"| {_cell(asked)} | {_cell(answered)} |" for asked, answered in shown]


def _cell(message: Message) -> str:
    by = "shown to the model" if message["role"] == "user" else "made by the model"
    return "<br>".join(_shown(part, f"{part['type']} {by}") for part in message["content"])


def _shown(part: Part, said: str) -> str:
    kind = part["type"]
    if kind == "text":
        return html.escape(part["text"].strip(), quote=False).replace("|", "&#124;")
    path = f"{FOLDER.relative_to(ROOT).as_posix()}/{part[kind]}"
    picture = f"{path.removesuffix('.flac')}.png" if kind == "audio" else path
    shown = f'<img src="{picture}" width="{_WIDTH[kind]}" alt="{said}">'
    return f'<a href="{path}">{shown}</a><br>[play it (FLAC)]({path})' if kind == "audio" else shown
