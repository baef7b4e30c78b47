"""Writes the README's results from what a demo measured.

    python docs/make_readme.py --run ckpt/runs/tiny/stage3 --out out    takes over a new demo, then writes
    python docs/make_readme.py                                          writes from docs/demo

docs/demo holds the demo's metrics.json, demo.json (time and memory of each notebook) and a sheet of examples.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anytoany_lib import media
from anytoany_lib.modalities import KINDS

DOCS = Path(__file__).resolve().parent
DEMO, README = DOCS / "demo", DOCS.parent / "README.md"
SHIPPED = DOCS.parent / "ckpt" / "tiny" / "run"
BEGIN = "<!-- results: written by docs/make_readme.py from docs/demo, do not edit -->"
END = "<!-- end of results -->"
SHEET = "examples.png"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _matrix(metrics: dict) -> Iterator[str]:
    yield "| in \\ out | " + " | ".join(KINDS) + " |"
    yield "| --- |" + " --- |" * len(KINDS)
    for given in KINDS:
        cells = []
        for wanted in KINDS:
            cell = metrics["matrix"][f"{given}->{wanted}"]
            names = [name for name in cell if name not in ("n", "modality", "unseen_pairs")]
            cells.append(", ".join(f"{name} {_percent(cell[name])}" for name in names))
        yield f"| **{given}** | " + " | ".join(cells) + " |"


def _combinations(metrics: dict) -> Iterator[str]:
    """What several media in one message come to, a line each; nothing in records from before these were cells."""
    if found := metrics.get("combinations"):
        yield "| several media in one message | judged right |"
        yield "| --- | --- |"
        for name, cell in found.items():
            names = [rate for rate in cell if rate not in ("n", "modality", "unseen_pairs")]
            yield f"| {name} | " + ", ".join(f"{r} {_percent(cell[r])}" for r in names) + " |"
        yield ""


def _bounds(metrics: dict) -> Iterator[str]:
    yield "| output | decoder given the true caption | guessing |"
    yield "| --- | --- | --- |"
    for kind, bound in metrics["upper_bound"].items():
        chance = metrics["chance"].get(kind, {})
        names = [name for name in bound if name != "n"]
        best = ", ".join(f"{name} {_percent(bound[name])}" for name in names)
        guessed = ", ".join(f"{name} {_percent(chance[name])}" for name in names if name in chance)
        yield f"| {kind} | {best} | {guessed} |"


def _times(times: dict) -> str:
    minutes = sum(notebook["seconds"] for notebook in times.values()) / 60
    peak = max(notebook["peak_memory_bytes"] for notebook in times.values()) / 1e9
    stages = [f"{n} {v['seconds'] / 60:.1f}" for n, v in times.items()]
    return f"{minutes:.0f} minutes and {peak:.1f} GB at most ({', '.join(stages)} minutes)"


def _shipped() -> Iterator[str]:
    """The matrix of the run that comes with the repository."""
    metrics = json.loads((SHIPPED / "metrics.json").read_text())
    steps = json.loads((SHIPPED / "run.json").read_text())["steps"]
    cells = [cell["n"] for cell in metrics["matrix"].values()]
    unseen = [c for c in metrics["matrix"].values() if "unseen_pairs" in c]
    held_out = [round(c["n"] / 4) for c in unseen]  # a quarter of each cell's requests
    composed = sum(n * c["unseen_pairs"] for n, c in zip(held_out, unseen, strict=True))
    follow_ups = metrics["more"]["follow-up"]
    yield f"The run in `ckpt/tiny/run`, which `make lab` talks to, was trained for longer ({steps:,} steps of stage 3). On {min(cells)}"
    yield f"requests a cell, {max(cells)} where only text goes in (`make chat-check` measures them anew):"
    yield ""
    yield from _matrix(metrics)
    yield ""
    yield from _combinations(metrics)
    yield f"Right kinds of media {100 * metrics['modality_accuracy']:.1f} %, everything right about held-out pairs"
    yield f"{100 * composed / sum(held_out):.0f} %, things in follow-up turns {_percent(follow_ups['thing'])} %, loss on plain talk"
    yield f"{metrics['language_loss_ratio']:.2f} of the untouched LLM's."
    yield ""


def section() -> str:
    """The README's results as markdown, from docs/demo and ckpt/tiny/run."""
    metrics = json.loads((DEMO / "metrics.json").read_text())
    times = json.loads((DEMO / "demo.json").read_text())
    cells = [cell["n"] for cell in metrics["matrix"].values()]
    lines = [
        BEGIN,
        "",
        f"Recorded at commit {metrics['commit'][:8]}: on 2 CPU cores `make demo` took {_times(times)}, downloads aside.",
        "What came out of it:",
        "",
        f"![replies of the run that the demo trained](docs/demo/{SHEET})",
        "",
        f"The any-to-any matrix, in % judged right by classifiers that were trained apart ({min(cells)} unseen requests a",
        "cell, worded as no training row is, a quarter of them on colour and motion pairs that no training set has):",
        "",
        *_matrix(metrics),
        "",
        *_combinations(metrics),
        f"The right kinds of media were answered in {100 * metrics['modality_accuracy']:.1f} % of all requests; the loss on",
        f"held-out plain talk is {metrics['language_loss_ratio']:.2f} of the untouched LLM's. How good the frozen decoders are is the bound:",
        "",
        *_bounds(metrics),
        "",
        *_shipped(),
        END,
    ]
    return "\n".join(lines)


def _show(axes: Axes, part: dict, folder: Path) -> None:
    axes.set_axis_off()
    kind = part["type"]
    if kind == "image":
        axes.imshow(media.load_image(folder / part[kind]))
    elif kind == "video":
        frames, _ = media.load_video(folder / part[kind])
        axes.imshow(np.concatenate(frames[:: max(1, len(frames) // 4)][:4], axis=1))
    else:
        samples, rate = media.load_audio(folder / part[kind])
        axes.specgram(samples + 1e-6, NFFT=512, Fs=rate, noverlap=384, vmin=-120)


def sheet(run: Path, target: Path, columns: int = 4) -> None:
    """A sheet of the first media reply of every task that the evaluation kept, good or bad."""
    folder = run / "evaluation"
    examples = json.loads((folder / "examples.json").read_text())
    firsts = {}
    for example in examples:
        made = [part for part in example["messages"][-1]["content"] if part["type"] != "text"]
        if made:
            firsts.setdefault(example["task"], (example, made[0]))
    rows = -(-len(firsts) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.1 * rows), layout="constrained")
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, (task, (example, part)) in zip(grid.flat, firsts.items(), strict=False):
        _show(axes, part, folder)
        asked = [p for m in example["messages"][:-1] if m["role"] == "user" for p in m["content"]]
        words = " ".join(p.get("text", f"[{p['type']}]") for p in asked)
        axes.set_title(f"{task}\n{words[:52]}", fontsize=7)
    figure.savefig(target, dpi=90)


def main() -> None:
    """Takes over a demo if one is named, and writes the README's results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of stage 3, evaluated")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder with the demo's demo.json"
    )
    options = parser.parse_args()
    if options.run:
        DEMO.mkdir(exist_ok=True)
        metrics = json.loads((options.run / "metrics.json").read_text())
        (DEMO / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        shutil.copy(options.out / "demo.json", DEMO / "demo.json")
        sheet(options.run, DEMO / SHEET)
    text = README.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + section() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
