"""What is measured, for docs/measured.md: a line each with its number, where all of it stands, and the command that shows it.

Numbers come from the shipped run's metrics.json, docs/demo and bench/results; none is typed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import readme_results

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
_RESULTS_PAGE = "docs/results.md"
_HEADER = ("| what | measured | all of it | measure it anew |", "| --- | --- | --- | --- |")


def newest(kind: str) -> dict[str, Any]:
    """The newest record of a bench; of those of one day, that of the machine with the most cores, then the first by name."""
    paths = sorted(RESULTS.glob(f"{kind}-*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return max(records, key=lambda record: (record["date"], _cores(record)))


def _cores(record: dict[str, Any]) -> int:
    """Cores of the machine that a record names: 2 of "AMD EPYC x2"; a card has none."""
    return int(record["machine"].rpartition("x")[2]) if "machine" in record else 0


def laptop() -> str:
    """What was measured on two CPU cores with profile tiny."""
    return "\n".join([*_HEADER, *_fresh_machines(), *_shipped_run(), *_speed(), *_data()])


def card() -> str:
    """What was measured on a CUDA card, with random weights in the published sizes."""
    record = newest("gpu-nextgpt-7b")
    sections = record["sections"]
    training, chat, talking = sections["training"], sections["chat"], sections["talking"]
    versions, context = sections["four-bits"]["versions"], sections["four-bits"]["context"]
    pages = "[speed](docs/SCALE.md#what-one-card-measured), [memory](docs/memory.md#planned-and-measured)"
    rows = [
        _row(
            f"training step, {name.replace(',', ' of 4 rows and')}",
            f"{step['tokens_per_second']:,} tokens a second, {step['card_gb']:.1f} GB, {step['ratio to bare, logits everywhere']:.2f} of the bare libraries' time",
            pages,
            "make gpu-check",
        )
        for name, step in training.items()
        if name.startswith("stage")
    ]
    made = [part for name, part in chat.items() if name.startswith("first turn: making")]
    writing = talking["with LoRA: writing 32"]
    rows += [
        _row(
            "a chat turn that makes a picture, a sound and a clip",
            f"{max(part['card_gb'] for part in made):.1f} GB at most, {sum(part['seconds'] for part in made):.0f} s of diffusion with loading",
            pages,
            "make gpu-check",
        ),
        _row(
            "writing, beside bare `generate`",
            f"{writing['tokens_per_second']:.1f} and {writing['of bare generate']:.1f} tokens a second",
            pages,
            "make gpu-check",
        ),
    ]
    intro = (
        f"One {context['card']}, `{record['profile']}` with random weights, tensors held below {record['cap_gb']} GB, torch {versions['torch']}, "
        f"{record['date']}."
    )
    return "\n".join([intro, "", *_HEADER, *rows])


def _row(what: str, number: str, page: str, command: str) -> str:
    return f"| {what} | {number} | {page} | `{command}` |"


def _fresh_machines() -> Iterator[str]:
    """The times of README's commands on fresh machines, and the demo's memory."""
    times = readme_results.fresh_times()
    for command in dict.fromkeys(name for found in times.values() for name in found):
        minutes = [found[command]["seconds"] / 60 for found in times.values() if command in found]
        yield _row(
            f"`{command}` from a fresh clone",
            f"{max(minutes):.1f} minutes at most",
            f"[times]({_RESULTS_PAGE}#on-fresh-machines)",
            f"python docs/fresh_machine.py {command.removeprefix('make ')}",
        )
    peak = f"{readme_results.demo_peak():.1f} GB"
    yield _row(
        "memory of `make demo`",
        peak,
        f"[the demo]({_RESULTS_PAGE}#what-make-demo-leaves)",
        "make demo",
    )


def _shipped_run() -> Iterator[str]:
    """The shipped run's sums over its matrix."""
    metrics = readme_results.shipped_metrics()
    page = f"[the matrix]({_RESULTS_PAGE}#the-shipped-run)"
    for what, number in (
        ("replies with the right kinds of media", f"{readme_results.right_kinds(metrics)} %"),
        (
            "wholly right about pairs that were never trained on",
            f"{100 * readme_results.held_out(metrics):.0f} %",
        ),
        (
            "loss on plain talk, beside the untouched language model's",
            f"{metrics['language_loss_ratio']:.2f}",
        ),
    ):
        yield _row(what, number, page, "make chat-check")


def _machine(record: dict[str, Any]) -> str:
    """The machine of a record, as a link to where the records lie."""
    return f"[{record['machine']}](bench/results)"


def _speed() -> Iterator[str]:
    """Steps, talking and diffusion beside the bare libraries."""
    training, chat = newest("training"), newest("chat")
    ratios = (f"{training[f'stage {number}']['ratio to bare']:.2f}" for number in (1, 2, 3))
    for what, number in (
        ("a training step, of the bare libraries' time (stages 1, 2, 3)", ", ".join(ratios)),
        ("going on after a kill, to the next step", f"{training['resume']['seconds']:.1f} s"),
        ("two processes, rows a second beside one", f"{training['processes']['ratio to one']:.2f}"),
    ):
        yield _row(what, number, _machine(training), "make bench")
    text, media = chat["text"], chat["diffusion"]
    written = f"{text['a second']:.1f} and {text['bare a second']:.1f} tokens a second"
    made = (f"{kind} {media[kind]['seconds']:.1f} s" for kind in ("image", "audio", "video"))
    for what, number in (
        ("writing in the chat, beside bare `generate`", written),
        ("a medium in the chat", ", ".join(made)),
    ):
        yield _row(what, number, _machine(chat), "python bench/chat.py")


def _data() -> Iterator[str]:
    """Features, manifests, and scores of captions."""
    features, manifests, captions = newest("features-tiny"), newest("manifests"), newest("captions")
    kinds = ("image", "audio", "video")
    ratios = (f"{features[f'{kind} captions']['ratio to bare']:.2f}" for kind in kinds)
    yield _row(
        "caption features, of the bare text encoder's rate (image, audio, video)",
        ", ".join(ratios),
        _machine(features),
        "python bench/features.py",
    )
    lines = manifests["jsonl"]
    seconds, growth = lines["1000000"]["build"]["seconds"], lines["build_memory_growth_mb"]
    yield _row(
        "a manifest of a million rows",
        f"{seconds:.0f} s, {growth:.0f} MB more than one of 10,000",
        _machine(manifests),
        "python bench/manifests.py",
    )
    yield _row(
        f"BLEU, ROUGE-L and CIDEr-D of {captions['captions']:,} captions",
        f"{captions['seconds']['all']:.0f} s on one core",
        _machine(captions),
        "python bench/captions.py",
    )
