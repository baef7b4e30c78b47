"""What a bench measured, kept under the name of the machine that it ran on, and what changed since it was committed."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytoany_lib.system import terminal

RESULTS = Path(__file__).parent / "results"
NOTICED = 0.05  # of a number; what differs by less may be chance


def machine() -> str:
    """The card's name, or the processor's and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return f"{found[1] if found else platform.processor()} x{torch.get_num_threads()}"


def synchronise() -> None:
    """Waits for what a card is still at."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def turns(*works: Callable[[], None], rounds: int, warmup: int = 0) -> np.ndarray:
    """Seconds (rounds, works) of works done in turns: what else the machine does meets them alike."""
    times: list[list[float]] = []
    for _ in range(warmup + rounds):
        times.append([])
        for work in works:
            synchronise()
            started = time.perf_counter()
            work()
            synchronise()
            times[-1].append(time.perf_counter() - started)
    return np.array(times[warmup:])


def medians(*works: Callable[[], None], rounds: int, warmup: int = 0) -> list[float]:
    """Median seconds of each work, in turns."""
    return np.median(turns(*works, rounds=rounds, warmup=warmup), axis=0).tolist()


def verdicts(
    result: dict[str, Any], at_most: dict[str, float], at_least: dict[str, float]
) -> dict[str, str]:
    """What was found beside its limit, for all that was measured; limits are named "PART: WHAT"."""
    lines = {}
    for name, limit in (at_most | at_least).items():
        part, what = name.split(": ")
        if what in result.get(part, {}):
            found, least = result[part][what], name in at_least
            reached = found >= limit if least else found <= limit
            relation = "at least" if least else "at most"
            lines[name] = f"{found:.3g}, {relation} {limit:g}: {'yes' if reached else 'NO'}"
    return lines


def committed(file: Path) -> dict[str, Any] | None:
    """What git has of a result, None if it has none."""
    command = ["git", "show", f"HEAD:./{file.name}"]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def numbers(result: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a result, named by the way to them: "stage 1: seconds: bare"."""
    if isinstance(result, dict | list):
        for key, value in result.items() if isinstance(result, dict) else enumerate(result):
            yield from numbers(value, f"{name}: {key}" if name else str(key))
    elif isinstance(result, int | float) and not isinstance(result, bool):
        yield name, result


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers that differ by more than `NOTICED`, or that one of two results lacks, as rows of a table."""
    old, new = dict(numbers(before)), dict(numbers(now))
    rows = []
    for name in old | new:
        was, found = old.get(name), new.get(name)
        ratio = found / was if was and found is not None else None
        if was == found or (ratio is not None and abs(ratio - 1) <= NOTICED):
            continue
        shown = {key: None if n is None else f"{n:.4g}" for key, n in (("was", was), ("is", found))}
        rows.append({"what": name, **shown, "ratio": None if ratio is None else f"{ratio:.2f}"})
    return rows


def comparison(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """What changed since the committed result of the same kind of machine, in words and a table."""
    if before is None:
        return f"no result of {now['machine']} is committed to compare with"
    for name in ("profile", "run"):
        if before.get(name) != now.get(name):
            other = f"{name} {before.get(name)}, this one of {now.get(name)}"
            return f"the committed result is of {other}: not compared"
    rows = changes(before, now)
    since = f"since {before.get('date', 'the committed result')} on {now['machine']}"
    if not rows:
        return f"{since} nothing changed by more than {NOTICED:.0%}"
    return f"{since}, by more than {NOTICED:.0%}:\n{terminal.table(rows)}"


def keep(result: dict[str, Any], what: str) -> None:
    """Prints a result, and what changed since it was committed; writes it to results/WHAT-MACHINE.json.

    `result["machine"]` names the machine.
    """
    name = re.sub(r"\W+", "-", result["machine"]).strip("-").lower()
    text = json.dumps(result, indent=2, default=float) + "\n"
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{what}-{name}.json"
    file.write_text(text)
    print(text)
    print(comparison(committed(file), json.loads(text)))
