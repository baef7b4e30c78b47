"""A CUDA card looked over, section by section: `make gpu-check`.

    python bench/gpu.py [--profile nextgpt-7b --cap 15 --dtype auto --out DIR --scratch DIR --only four-bits,chat]

Every section is a process of its own with a time limit, and what it finds is written the moment it is found: a crash or the
limit loses one section's rest, not all; at the end stands what changed since bench/results. Sections that check numbers run side by side while the weights are written; those
that time something run alone. Models that are absent are replaced by random ones of full size, in memory (/dev/shm) where
there is some. With `--profile tiny` it runs on a CPU in minutes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Section:
    """Its function (MODULE:NAME), its time limit in seconds, whether it reads the profile's models, and runs alone."""

    function: str
    limit: int
    weights: bool = True
    alone: bool = True


SECTIONS = {
    "four-bits": Section("card_checks:four_bits", 90, weights=False, alone=False),
    "same-numbers": Section("card_checks:same_numbers", 150, weights=False, alone=False),
    "half-precision": Section("card_checks:half_precision", 150, weights=False, alone=False),
    "processes": Section("card_checks:processes", 180, weights=False, alone=False),
    "training": Section("card_speed:training", 150),
    "chat": Section("card_speed:chat", 150),
    "talking": Section("card_speed:talking", 110),
    "training-float16": Section("card_speed:training_in_float16", 80),
    "features": Section("card_speed:features", 60),
}


def _python(*arguments: str) -> list[str]:
    return [sys.executable, str(Path(__file__)), *arguments]


class Check:
    """One run of all sections: processes that write weights, processes that measure, and one file of what they found."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options, self.scratch, self.started = options, scratch, time.monotonic()
        self.out = Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.file = self.out / f"gpu-{Path(options.profile).stem}.json"
        self.result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "profile": options.profile,
            "cap_gb": options.cap,
            "dtype": options.dtype,
            "sections": {},
        }
        self._writer: subprocess.Popen | None = None

    def _arguments(self, *more: str) -> list[str]:
        o = self.options
        told = {"profile": o.profile, "cap": o.cap, "dtype": o.dtype, "tokens": o.tokens}
        told |= {"scratch": self.scratch, "out": self.out}
        return _python(*(f"--{name}={value}" for name, value in told.items()), *more)

    def write_weights(self) -> None:
        """Begins to write random weights in the place of models that are absent."""
        self._writer = subprocess.Popen(self._arguments("--write"))

    def _wait_for_weights(self) -> None:
        if self._writer is not None and self._writer.wait():
            raise RuntimeError("random weights could not be written")

    def section(self, name: str) -> None:
        """Runs one section to its end or limit, and takes over what it found."""
        section, started = SECTIONS[name], time.monotonic()
        left = self.options.seconds - (started - self.started)
        status, found = "done", {}
        file = self.out / f"{name}.part.json"
        try:
            if section.weights:
                self._wait_for_weights()
            command = self._arguments(f"--section={name}")
            limit = min(section.limit * self.options.patience, left)
            subprocess.run(command, timeout=max(1, limit), check=True)
        except (subprocess.SubprocessError, RuntimeError) as error:
            status = f"{type(error).__name__}: {error}"[:300]
        if file.is_file():
            found = json.loads(file.read_text())
            file.unlink()
        seconds = round(time.monotonic() - started, 1)
        self.result["sections"][name] = {"status": status, "seconds": seconds, **found}
        self.file.write_text(json.dumps(self.result, indent=1) + "\n")
        print(
            f"== {name}: {status}, {seconds} s, {time.monotonic() - self.started:.0f} s in all",
            flush=True,
        )

    def all(self, names: list[str]) -> None:
        """The sections that check numbers side by side, then the others one by one."""
        if any(SECTIONS[name].weights for name in names):
            self.write_weights()
        together = [name for name in names if not SECTIONS[name].alone]
        with ThreadPoolExecutor(max(1, min(len(together), (os.cpu_count() or 1) // 2))) as pool:
            list(pool.map(self.section, together))
        for name in names:
            if SECTIONS[name].alone:
                self.section(name)

    def compared(self) -> str:
        """What changed since the committed result of the same card."""
        from record import committed, comparison, file_of  # torch comes with it, see `_run_section`

        contexts = (found.get("context") for found in self.result["sections"].values())
        card = next((context["card"] for context in contexts if context), None)
        if card is None:
            return "not compared: only the section four-bits says which card it is"
        before = committed(file_of(self.file.stem, card))
        if before is not None:  # of what was looked at now
            sections = self.result["sections"].keys() & before["sections"]
            before["sections"] = {name: before["sections"][name] for name in sections}
        return comparison(before, self.result | {"machine": card})


def _run_section(options: argparse.Namespace) -> None:
    # Only here: the process that calls the sections is to hold no memory of a card.
    from card import Options
    from replicas import fill

    from anytoany_lib.config import Profile

    section, scratch = SECTIONS[options.section], Path(options.scratch)
    module, _, name = section.function.partition(":")
    profile, random = Profile.load(options.profile), []
    if section.weights:
        profile, random = fill(profile, scratch, processes=1)  # it finds them written
    file = Path(options.out) / f"{options.section}.part.json"
    work: Callable[[Any], None] = getattr(importlib.import_module(module), name)
    told = Options(profile, options.cap, options.dtype, options.tokens, scratch, file)
    told.note("random weights", random)
    work(told)


_GIGABYTES_OF_A_CPU = (
    2  # of a language model: with more, sections without a card would only meet their limits
)


def _refuse_without_a_card(name: str) -> None:
    """SystemExit for a profile of full size on a machine without a CUDA card."""
    from anytoany_lib.config import Profile

    source = Profile.load(name).llm.source
    if source is None or source.gigabytes is None or source.gigabytes <= _GIGABYTES_OF_A_CPU:
        return
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    if subprocess.check_output(asked, text=True).strip() != "True":
        raise SystemExit(
            f"expected a CUDA card for the profile {name}, whose models are of full size; torch sees none."
            " To see the same checks on a CPU: make gpu-check PROFILE=tiny"
        )


def _write(options: argparse.Namespace) -> None:
    from replicas import fill

    from anytoany_lib.config import Profile

    started = time.monotonic()
    fill(Profile.load(options.profile), Path(options.scratch))
    print(f"== random weights: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="nextgpt-7b")
    parser.add_argument(
        "--cap", type=float, default=15, help="GB of the card that tensors may take"
    )
    parser.add_argument("--dtype", default="auto", help="float16 is what a T4 has")
    parser.add_argument("--tokens", type=int, default=128, help="of a training row")
    parser.add_argument("--out", default="out/gpu")
    parser.add_argument("--scratch", help="keep random models here for the next time")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    parser.add_argument("--seconds", type=float, default=3600, help="that all may take")
    parser.add_argument("--patience", type=float, default=1, help="factor of the sections' limits")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        return _run_section(options)
    if options.write:
        return _write(options)
    _refuse_without_a_card(options.profile)
    memory = Path("/dev/shm")
    scratch = Path(options.scratch or tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        check = Check(options, scratch)
        check.all(options.only.split(","))
        print(check.compared())
    finally:
        if not options.scratch:
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
