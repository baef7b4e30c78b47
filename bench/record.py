"""What a bench measured, kept under the name of the machine that it ran on, and what changed since it was committed.

A part of a result may have a "noise": the share by which its numbers differ from one run to the next by chance alone, as far as
the rounds of one run tell. It holds for all that is in the part, unless a part of that has its own.
"""

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
NOTICED = 0.05  # of a number; what differs by less may be chance, however even the rounds were
NOISE = "noise"
# Of what was measured: results that differ in one of these cannot be compared.
SETTINGS = ("profile", "run", "dtype", "cap_gb", "captions", "seed")


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
    return timed(*works, rounds=rounds, warmup=warmup)[0]


def timed(
    *works: Callable[[], None], rounds: int, warmup: int = 0
) -> tuple[list[float], dict[str, float]]:
    """Median seconds of each work, in turns, and {"noise": ...} of them, to be put beside what is made of them."""
    times = turns(*works, rounds=rounds, warmup=warmup)
    return np.median(times, axis=0).tolist(), {NOISE: noise(times)}


def noise(times: np.ndarray) -> float:
    """Seconds (rounds, works) -> two standard errors of a median, as a share of it, of the work that has the largest.

    The errors are those of normal noise with the quartiles that were found, whatever a few late rounds took.
    """
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75), axis=0)
    deviation = (high - low) / 1.349
    return float((2 * 1.253 * deviation / np.sqrt(len(times)) / median).max())


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


def numbers(
    result: Any, name: str = "", chance: float = 0.0
) -> Iterator[tuple[str, tuple[float, float]]]:
    """All numbers of a result, named by the way to them ("stage 1: seconds: bare"), each with the noise of its part."""
    if isinstance(result, dict | list):
        items = result.items() if isinstance(result, dict) else enumerate(result)
        chance = result.get(NOISE, chance) if isinstance(result, dict) else chance
        for key, value in items:
            if key != NOISE:
                yield from numbers(value, f"{name}: {key}" if name else str(key), chance)
    elif isinstance(result, int | float) and not isinstance(result, bool):
        yield name, (result, chance)


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers that differ between two results, or that one lacks, as rows of a table: old, new, their ratio, and whether
    they are further apart than the noise of both and `NOTICED`.
    """
    old, new = dict(numbers(before)), dict(numbers(now))
    rows = []
    for name in old | new:
        (was, own), (found, other) = old.get(name, (None, 0.0)), new.get(name, (None, 0.0))
        if was == found:
            continue
        ratio = found / was if was and found is not None else None
        chance = max(NOTICED, float(np.hypot(own, other)))
        beyond = ratio is None or not 1 / (1 + chance) <= ratio <= 1 + chance
        shown = {key: None if n is None else f"{n:.4g}" for key, n in (("was", was), ("is", found))}
        shown |= {"ratio": None if ratio is None else f"{ratio:.2f}", "noise": f"{chance:.0%}"}
        rows.append({"what": name, **shown, "changed": "yes" if beyond else ""})
    return rows


def comparison(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """What changed since the committed result of the same kind of machine, in words and a table."""
    if before is None:
        return f"no result of {now['machine']} is committed to compare with"
    for name in SETTINGS:
        if before.get(name) != now.get(name):
            other = f"{name} {before.get(name)}, this one of {now.get(name)}"
            return f"the committed result is of {other}: not compared"
    rows = changes(before, now)
    beyond = sum(bool(row["changed"]) for row in rows)
    said = f"since {before.get('date', 'the committed result')} on {now['machine']} {beyond} of {len(dict(numbers(now)))} numbers"
    return f"{said} changed by more than noise" + (f":\n{terminal.table(rows)}" if rows else "")


def file_of(what: str, machine: str) -> Path:
    """Where the result of a bench on a machine is committed."""
    name = re.sub(r"\W+", "-", machine).strip("-").lower()
    return RESULTS / f"{what}-{name}.json"


def keep(result: dict[str, Any], what: str) -> None:
    """Prints a result, and what changed since it was committed; writes it to results/WHAT-MACHINE.json.

    `result["machine"]` names the machine.
    """
    text = json.dumps(result, indent=2, default=float) + "\n"
    RESULTS.mkdir(exist_ok=True)
    file = file_of(what, result["machine"])
    file.write_text(text)
    print(text)
    print(comparison(committed(file), json.loads(text)))
