"""Whether what a recipe reads is on disk: data sets that are not there or half fetched, and disks that are too small."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from anytoany_lib.recipe.settings import Fetched, Recipe

# What downloaders leave beside or in the place of a file that has not come whole.
_UNFINISHED = ("*.part", "*.incomplete", "*.aria2", "*.crdownload", "*.download", "*.tmp")


def lacking(recipe: Recipe, folder: Path) -> list[str]:
    """One line for each data set or benchmark below a folder that is not there or not whole: what was expected, what was found,
    and the commands that fetch it. Empty if all are there.
    """
    return [
        line for name, one in recipe.fetched.items() for line in _problems(name, one, folder / name)
    ]


def _problems(name: str, fetched: Fetched, folder: Path) -> Iterator[str]:
    command = fetched.get.replace("{folder}", str(folder))
    get = f"{command} ({fetched.gigabytes:g} GB; {fetched.terms})"
    if not folder.is_dir():
        yield f"{name}: no folder {folder}; fetch it: mkdir -p {folder} && {get}"
        return
    unfinished = [path for pattern in _UNFINISHED for path in folder.rglob(pattern)]
    if unfinished:
        yield (
            f"{name}: half a download, {unfinished[0]} is not whole; let it end, or begin it again: {get}"
        )
        return
    for pattern, least in fetched.files.items():
        files = [path for path in islice(folder.glob(pattern), least) if path.is_file()]
        empty = next((path for path in files if not path.stat().st_size), None)
        if len(files) < least:
            yield (
                f"{name}: half a download, expected {least:,} files {pattern} in {folder}, found {len(files):,}; fetch the "
                f"rest: {get}"
            )
            return
        if empty is not None:
            yield f"{name}: {empty} is empty; delete it and fetch it again: {get}"
            return


def disk_shortage(out: Path, needed: Mapping[str, int]) -> str:
    """What is said where the disk of a folder has less room than the parts need in bytes; "" if there is room."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free, whole = shutil.disk_usage(there).free, sum(needed.values())
    if whole <= free:
        return ""
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in needed.items())
    return (
        f"{out} needs {whole / 1e9:.1f} GB of disk ({parts}) and {free / 1e9:.1f} GB are free: free some, or name an --out on "
        "a larger disk"
    )
