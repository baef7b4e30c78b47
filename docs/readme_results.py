"""What was measured, for README and docs: any-to-any matrices, what a demo takes, and the sheet of its replies.

In come metrics.json of a run and the demo's records in docs/demo; out come lines of markdown, and one picture.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from anytoany_lib.media import media_files
from anytoany_lib.modalities import KINDS

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "docs" / "demo"
SHIPPED = ROOT / "ckpt" / "tiny" / "run"
SHEET = "examples.png"
FRESH = "fresh.json"
# Neither says what was judged of a reply: they have columns or sentences of their own.
_NO_RATES = ("n", "modality", "unseen_pairs")


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _rates(cell: dict) -> str:
    """The rates of a cell that say what was judged: "thing 100, colour 96"."""
    return ", ".join(f"{name} {_percent(cell[name])}" for name in cell if name not in _NO_RATES)


def _weakest(cell: dict) -> str:
    """The lowest of the rates that say what was judged: "96"."""
    return _percent(min(cell[name] for name in cell if name not in _NO_RATES))


def _matrix(metrics: dict, shown: Callable[[dict], str] = _rates) -> Iterator[str]:
    """The 16 cells, each as `shown` writes it."""
    yield "| in \\ out | " + " | ".join(KINDS) + " |"
    yield "| --- |" + " --- |" * len(KINDS)
    for given in KINDS:
        cells = (shown(metrics["matrix"][f"{given}->{wanted}"]) for wanted in KINDS)
        yield f"| **{given}** | " + " | ".join(cells) + " |"


def _combinations(metrics: dict) -> Iterator[str]:
    """What several media in one message come to, a line each; nothing in records from before these were cells."""
    if found := metrics.get("combinations"):
        yield from ("", "| several media in one message | judged right |", "| --- | --- |")
        for name, cell in found.items():
            yield f"| {name} | {_rates(cell)} |"


def _beyond(metrics: dict) -> Iterator[str]:
    """Tasks beyond the matrix, a line each: questions, several outputs, edits, turns, plain talk."""
    if found := metrics.get("more"):
        yield from ("", "| beyond the matrix | requests | right kinds of media | judged right |")
        yield "| --- | ---: | ---: | --- |"
        for name, cell in found.items():
            before = metrics.get("baselines", {}).get(name, {}).get("untouched")
            beside = f" (untouched language model: {_rates(before)})" if before else ""
            judged = _rates(cell) or "–"
            yield f"| {name} | {cell['n']} | {_percent(cell['modality'])} | {judged}{beside} |"


def _authors(metrics: dict) -> Iterator[str]:
    """How often all is right in whose words, and in which task least; nothing in records without authors."""
    if found := metrics.get("authors"):
        yield from (
            "",
            "| worded by | requests | right kinds of media | all right | least of all in |",
        )
        yield "| --- | ---: | ---: | ---: | --- |"
        for name, of in found.items():
            worst = min(of["cells"], key=lambda cell: of["cells"][cell]["right"])
            least = (
                f"{worst} ({_percent(of['cells'][worst]['right'])} of {of['cells'][worst]['n']})"
            )
            shares = f"{_percent(of['modality'])} | {_percent(of['right'])}"
            yield f"| {name.replace('_', ' ')} | {of['n']} | {shares} | {least} |"


def _bounds(metrics: dict) -> Iterator[str]:
    yield "| output | decoder given the true caption | guessing |"
    yield "| --- | --- | --- |"
    for kind, bound in metrics["upper_bound"].items():
        chance = metrics["chance"].get(kind, {})
        guessed = {name: chance[name] for name in bound if name in chance and name != "n"}
        yield f"| {kind} | {_rates(bound)} | {_rates(guessed)} |"


def _sizes(metrics: dict) -> tuple[int, int]:
    """Requests in the smallest and in the largest cell."""
    cells = [cell["n"] for cell in metrics["matrix"].values()]
    return min(cells), max(cells)


def held_out(metrics: dict) -> float:
    """The rate at which everything about held-out pairs was right, a quarter of each cell's requests."""
    cells = [cell for cell in metrics["matrix"].values() if "unseen_pairs" in cell]
    counts = [round(cell["n"] / 4) for cell in cells]
    right = sum(n * cell["unseen_pairs"] for n, cell in zip(counts, cells, strict=True))
    return right / sum(counts)


def shipped_metrics() -> dict:
    """metrics.json of the run that comes with the repository."""
    return json.loads((SHIPPED / "metrics.json").read_text(encoding="utf-8"))


def right_kinds(metrics: dict) -> str:
    """Percent of all replies that had the right kinds of media."""
    return f"{100 * metrics['modality_accuracy']:.1f}"


def matrix() -> str:
    """The shipped run's matrix in small: of each cell the lowest rate."""
    metrics = shipped_metrics()
    lines = [
        *_matrix(metrics, _weakest),
        "",
        f"The shipped run: in each direction the weakest of what is judged (thing, colour, motion, count ...), in %. {right_kinds(metrics)} % of all",
        f"replies had the right kinds of media, {_percent(held_out(metrics))} % were wholly right about pairs never trained on. Measured at commit",
        f"{metrics['commit'][:8]}; `make chat-check` measures it anew.",
    ]
    return "\n".join(lines)


def shipped() -> str:
    """All that was measured of the run that comes with the repository, as markdown."""
    metrics = shipped_metrics()
    steps = json.loads((SHIPPED / "run.json").read_text(encoding="utf-8"))["steps"]
    least, most = _sizes(metrics)
    lines = [
        f"The shipped run (`ckpt/tiny/run`, {steps:,} steps of stage 3), in % judged right by classifiers that were trained apart from it:",
        f"{least} requests a cell, {most} where only text goes in, worded as no training row is, a quarter of them on colour and",
        "motion pairs that no training set has.",
        "",
        *_matrix(metrics),
        *_combinations(metrics),
        *_beyond(metrics),
        *_authors(metrics),
        "",
        f"The right kinds of media came in {right_kinds(metrics)} % of all replies, everything was right about held-out pairs in",
        f"{_percent(held_out(metrics))} %. On plain talk its loss is {metrics['language_loss_ratio']:.2f} of the untouched language",
        f"model's. Measured at commit {metrics['commit'][:8]}; `make chat-check` measures it anew.",
    ]
    return "\n".join(lines)


def demo_times() -> dict[str, dict[str, float]]:
    """Seconds and peak memory in bytes of every notebook of the recorded demo, by its name."""
    return json.loads((DEMO / "demo.json").read_text(encoding="utf-8"))


def demo_peak() -> float:
    """The most memory that the recorded demo held at once, in GB."""
    return max(notebook["peak_memory_bytes"] for notebook in demo_times().values()) / 1e9


def demo_minutes() -> float:
    """Minutes that all notebooks of the recorded demo took together."""
    return sum(notebook["seconds"] for notebook in demo_times().values()) / 60


def demo() -> str:
    """What the recorded demo took and what it trained, as markdown."""
    metrics = json.loads((DEMO / "metrics.json").read_text(encoding="utf-8"))
    least, _ = _sizes(metrics)
    lines = [
        f"Recorded at commit {metrics['commit'][:8]} on 2 CPU cores: {demo_minutes():.0f} minutes (of each notebook: [the course](docs/notebooks.md)), {demo_peak():.1f} GB of memory at most, downloads",
        f"aside. The run that it trained saw less than the shipped one. On {least} requests a cell {100 * metrics['modality_accuracy']:.1f} % of the replies had the right kinds",
        f"of media; loss on plain talk: {metrics['language_loss_ratio']:.2f} of the untouched language model's.",
        "",
        *_matrix(metrics),
        *_combinations(metrics),
        "",
        "How good the frozen decoders are is the bound:",
        "",
        *_bounds(metrics),
        "",
        f'<img src="docs/demo/{SHEET}" alt="a reply of every task, good or bad, as the evaluation kept them">',
    ]
    return "\n".join(lines)


def fresh_times() -> dict[str, dict[str, dict]]:
    """What commands took on fresh machines, {version of Python: {command: its record}}; empty if nobody recorded any."""
    if not (DEMO / FRESH).is_file():
        return {}
    return json.loads((DEMO / FRESH).read_text(encoding="utf-8"))["python"]


def fresh() -> str:
    """Times and sizes on fresh machines, as a table; empty as long as nobody recorded any."""
    by_version = fresh_times()
    if not by_version:
        return ""
    commands = list(dict.fromkeys(name for found in by_version.values() for name in found))
    lines = [
        "From a fresh clone with an empty pip cache on two CPU cores: time until the command has ended, or its page is there, "
        "and disk in use afterwards. `+cu130` is the build of torch with CUDA, which pip takes where the CPU build's index is "
        "out of reach.",
        "",
        "| Python | torch | " + " | ".join(f"`{name}`" for name in commands) + " |",
        "| --- | --- |" + " --- |" * len(commands),
    ]
    for version, found in by_version.items():
        builds = ", ".join(dict.fromkeys(of["torch"] for of in found.values()))
        cells = (_cost(found[name]) if name in found else "–" for name in commands)
        lines.append(f"| {version} | {builds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cost(of_one: dict) -> str:
    minutes, seconds = divmod(round(of_one["seconds"]), 60)
    return f"{minutes} min {seconds:02d} s, {of_one['bytes'] / 1e9:.1f} GB"


def take_over(run: Path, out: Path) -> None:
    """Keeps a new demo's record in docs/demo: its metrics, the times in OUT, and a sheet of its replies."""
    DEMO.mkdir(exist_ok=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    (DEMO / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    shutil.copy(out / "demo.json", DEMO / "demo.json")
    sheet(run, DEMO / SHEET)


def sheet(run: Path, target: Path, columns: int = 4) -> None:
    """A sheet of the first media reply of every task that the evaluation kept, good or bad."""
    folder = run / "evaluation"
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
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
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=74)
    pixels = np.asarray(Image.open(drawn).convert("RGB"))
    # Five bits a colour look the same as eight and take half of the bytes.
    rounded = np.round(np.round(pixels / 255 * 31) / 31 * 255).astype(np.uint8)
    Image.fromarray(rounded).save(target, optimize=True)


def _show(axes: Axes, part: dict, folder: Path) -> None:
    kind = part["type"]
    if kind == "image":
        axes.imshow(media_files.load_image(folder / part[kind]))
    elif kind == "video":
        frames, _ = media_files.load_video(folder / part[kind])
        axes.imshow(np.concatenate(frames[:: max(1, len(frames) // 4)][:4], axis=1))
    else:
        samples, rate = media_files.load_audio(folder / part[kind])
        axes.specgram(samples + 1e-6, NFFT=512, Fs=rate, noverlap=384, vmin=-120)
