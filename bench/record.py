"""What a bench measured, kept under the name of the machine that it ran on."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


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


def keep(result: dict[str, Any], what: str) -> None:
    """Prints a result and writes it to results/WHAT-MACHINE.json; `result["machine"]` names the machine."""
    name = re.sub(r"\W+", "-", result["machine"]).strip("-").lower()
    text = json.dumps(result, indent=2, default=float) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{what}-{name}.json").write_text(text)
    print(text)
