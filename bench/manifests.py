"""How fast a dataset becomes a manifest, how fast a manifest is read, and that the memory of both does not grow.

    python bench/manifests.py [--rows 1000000 --work /tmp]

Talks without media, drawn from a seed, as JSON lines and as one JSON array, of 10,000 rows and of a hundred times as many;
each is built and read in a fresh process, whose peak memory is taken. Results go to bench/results/manifests-MACHINE.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
from record import keep, machine

from anytoany_lib.data.building import build
from anytoany_lib.data.manifests import dataset_fingerprint, read_manifest

FEW = 10_000
RANDOM_READS = 5_000
WORDS = "a red bell rings twice while the small boat moves left over quiet water under clouds"


def records(count: int) -> Iterator[str]:
    """So many different instructions with answers of about 300 characters, as JSON."""
    rng = np.random.default_rng(0)
    for number in range(count):
        words = " ".join(WORDS[n] for n in rng.integers(0, len(WORDS), 60))
        yield json.dumps(
            {"instruction": f"Tell me more of {number}.", "input": "", "output": words}
        )


def write_source(folder: Path, form: str, count: int) -> None:
    """A source folder of the `instructions` reader: `jsonl`, or `json` for one array."""
    folder.mkdir()
    with (folder / f"talks.{form}").open("w") as file:
        file.write("[\n" if form == "json" else "")
        for number, record in enumerate(records(count)):
            file.write((",\n" if form == "json" else "\n") * bool(number) + record)
        file.write("\n]" if form == "json" else "\n")


def peak_memory_mb() -> float:
    """Most memory that this process has had, in MB of 2^20 bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def built(source: Path, out: Path) -> dict:
    """Builds a manifest: what a report of it costs."""
    before, processor = peak_memory_mb(), time.process_time()
    report = build("instructions", source, out)
    return {
        "rows": report.kept_rows,
        "seconds": report.seconds,
        "processor_seconds": time.process_time() - processor,
        "rows_per_second": report.kept_rows / report.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "peak_memory_before_mb": before,
    }


def read(out: Path) -> dict:
    """Opens a manifest's training split, fingerprints the dataset and reads rows in random and in their own order."""
    times = [time.perf_counter()]
    manifest = read_manifest(out)
    times.append(time.perf_counter())
    indices = manifest.catalogue.rows_where([True] * len(manifest.catalogue.kinds))
    times.append(time.perf_counter())
    dataset_fingerprint(out)
    times.append(time.perf_counter())
    for index in np.random.default_rng(0).choice(indices, RANDOM_READS):
        manifest[int(index)]
    times.append(time.perf_counter())
    in_order = min(len(manifest), 20 * RANDOM_READS)
    for index in range(in_order):
        manifest[index]
    times.append(time.perf_counter())
    opening, catalogue, fingerprint, random, ordered = np.diff(times)
    return {
        "rows": len(manifest),
        "open_seconds": opening,
        "catalogue_seconds": catalogue,
        "fingerprint_seconds": fingerprint,
        "random_rows_per_second": RANDOM_READS / random,
        "ordered_rows_per_second": in_order / ordered,
        "peak_memory_mb": peak_memory_mb(),
    }


def alone(function, *arguments):
    """The function's result, computed in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(rows: int, work: Path) -> dict:
    """All numbers of both forms, of few and of `rows` rows."""
    result: dict = {}
    for form in ("jsonl", "json"):
        found = {}
        for count in (FEW, rows):
            source, out = work / f"source-{form}-{count}", work / f"out-{form}-{count}"
            write_source(source, form, count)
            found[str(count)] = {"build": alone(built, source, out), "read": alone(read, out)}
        growth = {
            f"{what}_memory_growth_mb": found[str(rows)][what]["peak_memory_mb"]
            - found[str(FEW)][what]["peak_memory_mb"]
            for what in ("build", "read")
        }
        result[form] = found | growth
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="folder on the disk to measure")
    options = parser.parse_args()
    result = {"machine": machine(), "date": date.today().isoformat()}
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        result |= measure(options.rows, Path(work))
    keep(result, "manifests")


if __name__ == "__main__":
    main()
