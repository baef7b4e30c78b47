"""Datasets: from a source folder to a manifest with its media, and the command that does it.

Readers give rows of a source folder; `build` checks and copies their media, drops what cannot be used,
splits by content and writes a manifest folder with its report. A raw row holds one medium and its
caption: `as_comprehension` and `as_generation` word it for stages 1 and 2.
Run as `python -m anytoany_lib.data READER SOURCE OUT`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from anytoany_lib import media
from anytoany_lib.ahead import in_order
from anytoany_lib.manifests import (
    SPLITS,
    Manifest,
    dataset_fingerprint,
    media_in,
    media_path,
    read_manifest,
    splits_in,
    write_manifest,
)
from anytoany_lib.media import MediaError
from anytoany_lib.readers import READERS, DataError, Report, Row, map_media, read_folder
from anytoany_lib.shards import unpacked

__all__ = [
    "READERS",
    "SPLITS",
    "DataError",
    "Manifest",
    "Report",
    "Row",
    "as_comprehension",
    "as_generation",
    "build",
    "check_target",
    "dataset_fingerprint",
    "read_manifest",
    "splits_in",
    "write_manifest",
]

MEDIA_FOLDER = "media"
SHARDED = "webdataset"
ALL_READERS = READERS | {SHARDED: read_folder}

DESCRIBE = {
    "image": ("Describe this picture.", "What does this picture show?", "Write a caption for it."),
    "audio": ("Describe this sound.", "What do you hear?", "Write a caption for this recording."),
    "video": ("Describe this clip.", "What happens in this video?", "Write a caption for it."),
}
PRODUCE = {
    "image": ("Draw this: {}", "Show me a picture: {}", "I would like an image of this: {}"),
    "audio": ("Play this: {}", "Let me hear it: {}", "I would like the sound of this: {}"),
    "video": ("Film this: {}", "Show me a clip: {}", "I would like a video of this: {}"),
}


def build(
    reader: str,
    source: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    link: bool = False,
    overwrite: bool = False,
) -> Report:
    """Read a source folder into the manifest folder OUT, whole or not at all, and return its report.

    Media are copied (with `link` hard-linked where the disk allows) below OUT/media. The fractions
    go to validation and test, of every source at least one medium; rows of one medium stay together.
    DataError if nothing can be kept, or if OUT holds anything (`overwrite` replaces a manifest).
    """
    if reader not in ALL_READERS:
        raise DataError(f"unknown reader {reader!r}: expected one of {', '.join(ALL_READERS)}")
    fractions = (validation_fraction, test_fraction)
    if min(fractions) < 0 or sum(fractions) >= 1:
        raise DataError("validation and test fractions are at least 0 and add up to less than 1")
    source, out, started = Path(source), Path(out).resolve(), time.perf_counter()
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if source.resolve().is_relative_to(out):
        raise DataError(f"{out}: holds the source {source}; choose another OUT")
    check_target(out, overwrite)
    report, work = Report(), out.with_name(f".{out.name}.{os.getpid()}")
    work.mkdir(parents=True)
    try:
        origins: list[tuple[str, str]] = []
        if reader == SHARDED:
            # What was unpacked is nobody else's: its files can be linked.
            source, link = unpacked(source, work / "unpacked", report), True
        rows = _kept(ALL_READERS[reader](source, report), source, work, link, report, origins)
        if not write_manifest(rows, work / "spool", "train"):
            raise DataError(f"{source}: nothing could be kept. {report}")
        spool = read_manifest(work / "spool", "train")
        chosen = _choose_splits(origins, seed, fractions)
        for split in SPLITS:
            write_manifest(compress(spool, (one == split for one in chosen)), work, split)
        shutil.rmtree(work / "spool")
        shutil.rmtree(work / "unpacked", ignore_errors=True)
        report.seconds = time.perf_counter() - started
        report.save(work / "report.json")
        _move_into_place(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def check_target(out: Path, overwrite: bool) -> None:
    """DataError unless a manifest may be put at OUT: nothing is there, or a manifest that may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "report.json").is_file() or not splits_in(out):
        raise DataError(f"{out}: exists and is not a manifest folder; choose another OUT")
    if not overwrite:
        raise DataError(f"{out}: exists; choose another OUT, or overwrite it (--overwrite)")


def _move_into_place(work: Path, out: Path) -> None:
    replaced = work.with_name(f"{work.name}.old")
    if out.exists():
        out.replace(replaced)
    work.replace(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _kept(
    rows: Iterable[Row],
    source: Path,
    work: Path,
    link: bool,
    report: Report,
    origins: list[tuple[str, str]],
) -> Iterator[Row]:
    """Rows whose media are usable, not seen before and now below `work`.

    Each adds (its source, what its first medium holds) to `origins`.
    """
    seen: set[bytes] = set()
    ids: set[str] = set()
    examined = in_order(lambda row: (row, _examine(row, source)), rows)
    for row, found in tqdm(examined, desc="rows", unit="row"):
        names = [name for _, name in media_in(row.messages)]
        shown = str(names[0]) if names else row.id
        if isinstance(found, MediaError):
            report.drop(found.reason, shown)
            continue
        same = map_media(row.messages, lambda _, name, found=found: found[name])
        content = hashlib.blake2b(json.dumps(same).encode(), digest_size=16).digest()
        if content in seen:
            report.drop("duplicate", shown)
            continue
        seen.add(content)
        size = sum(_place(source / name, work / MEDIA_FOLDER / name, link) for name in found)
        report.kept(size)
        origins.append((row.source, found[names[0]] if names else row.id))
        yield _moved(row, _unused(row.id, ids), found)


def _examine(row: Row, source: Path) -> dict[str, str] | MediaError:
    """What each medium of the row holds (path -> content key), or why one cannot be used."""
    found = {}
    try:
        for kind, name in media_in(row.messages):
            path = media_path(source, name)
            # Three frames show that a clip opens and reaches its end, at a fraction of the cost.
            options = {"num_frames": 3, "short_side": 64} if kind == "video" else {}
            media.load(kind, path, **options)
            found[name] = media.content_key(kind, path)
    except MediaError as error:
        return error
    return found


def _place(path: Path, target: Path, link: bool) -> int:
    """Copy or hard-link one medium, unless another row did; the bytes that this added."""
    if target.exists():
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (link and _linked(path, target)):
        shutil.copyfile(path, target)
    return target.stat().st_size


def _linked(path: Path, target: Path) -> bool:
    """Whether a hard link could be made: disks differ, and some have none."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        return False
    return True


def _unused(name: str, used: set[str]) -> str:
    """`name`, numbered if it is among the used ones; it is used from now on."""
    number, unused = 1, name
    while unused in used:
        number += 1
        unused = f"{name}#{number}"
    used.add(unused)
    return unused


def _moved(row: Row, name: str, found: dict[str, str]) -> Row:
    """The row as the manifest has it: media below MEDIA_FOLDER, their content keys in its meta."""
    messages = map_media(row.messages, lambda _, path: f"{MEDIA_FOLDER}/{path}")
    content = {f"{MEDIA_FOLDER}/{path}": key for path, key in found.items()}
    return Row(name, row.source, messages, {**row.meta, "content": content})


def _choose_splits(
    origins: list[tuple[str, str]], seed: int, fractions: tuple[float, float]
) -> list[str]:
    """The split of each (source, content): drawn within every source, the same for equal content."""
    first: dict[str, str] = {}
    for source, content in origins:
        first.setdefault(content, source)
    groups: dict[str, list[str]] = {}
    for content, source in first.items():
        groups.setdefault(source, []).append(content)
    placed = dict.fromkeys(first, "train")
    for group in groups.values():
        drawn = sorted(group, key=lambda one: hashlib.blake2b(f"{seed} {one}".encode()).digest())
        wanted = [max(1, round(part * len(drawn))) if part else 0 for part in fractions]
        validation = min(wanted[0], len(drawn) - 1)
        test = min(wanted[1], len(drawn) - 1 - validation)
        placed.update(dict.fromkeys(drawn[:validation], "validation"))
        placed.update(dict.fromkeys(drawn[validation : validation + test], "test"))
    return [placed[content] for _, content in origins]


def as_comprehension(row: Row, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Stage 1: the medium and a short instruction, answered by the caption."""
    kind, name = media_in(row.messages)[0]
    instruction = {"type": "text", "text": str(rng.choice(DESCRIBE[kind]))}
    return [
        {"role": "user", "content": [{"type": kind, kind: name}, instruction]},
        {"role": "assistant", "content": [{"type": "text", "text": row.meta["caption"]}]},
    ]


def as_generation(row: Row, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Stage 2: an instruction with the caption, answered by the medium, told by that caption."""
    kind, name = media_in(row.messages)[0]
    caption = row.meta["caption"]
    text = str(rng.choice(PRODUCE[kind])).format(caption)
    return [
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": [{"type": kind, kind: name, "caption": caption}]},
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m anytoany_lib.data",
        description="Turn a dataset's own files into a manifest.",
    )
    parser.add_argument(
        "reader", metavar="READER", choices=ALL_READERS, help=", ".join(ALL_READERS)
    )
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, help="folder with the dataset's files"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="draws the splits (default: 0)")
    parser.add_argument("--validation", type=float, default=0.05, help="its part (default: 0.05)")
    parser.add_argument("--test", type=float, default=0.05, help="its part (default: 0.05)")
    parser.add_argument("--link", action="store_true", help="hard-link media instead of copying")
    parser.add_argument("--overwrite", action="store_true", help="replace the manifest in OUT")
    given = parser.parse_args(arguments)
    # Ends through `build`'s own clearing up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report = build(
            given.reader,
            given.source,
            given.out,
            seed=given.seed,
            validation_fraction=given.validation,
            test_fraction=given.test,
            link=given.link,
            overwrite=given.overwrite,
        )
    except (DataError, MediaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report)
    sizes = (f"{split} {len(read_manifest(given.out, split))}" for split in splits_in(given.out))
    print(f"{given.out}: {', '.join(sizes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
