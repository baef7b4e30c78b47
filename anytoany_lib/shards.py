"""WebDataset shards, as img2dataset and video2dataset write them: tar files whose members share a key.

`000000017.jpg`, `000000017.txt` and `000000017.json` are one sample: its medium, its caption, and what is known about it.
Shards are unpacked into a folder that `readers.read_folder` reads.
"""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from anytoany_lib.readers import SUFFIXES
from anytoany_lib.reports import Report
from anytoany_lib.rows import DataError

_KEPT = (*(suffix for suffixes in SUFFIXES.values() for suffix in suffixes), ".txt", ".json")
_LARGEST = 2 * 2**30


def unpacked(source: Path, target: Path, report: Report) -> Path:
    """Writes the members of every shard of a folder below `target`/SHARD; returns `target`.

    Names that lead elsewhere, links and members over 2 GiB are dropped and reported; so is what is left of a shard that
    ends too early. DataError if the folder has no shard.
    """
    shards = sorted(source.glob("*.tar"))
    if not shards:
        raise DataError(f"{source}: expected .tar shards in it")
    for shard in tqdm(shards, desc="shards"):
        folder = target / shard.stem
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(shard, "r|") as archive:
                for member in archive:
                    _unpack(archive, member, folder, shard.name, report)
        except (tarfile.TarError, EOFError, OSError) as error:
            report.drop("shard cut or damaged", f"{shard.name}: {error}")
    return target


def _unpack(
    archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, shard: str, report: Report
) -> None:
    """One member as a file of its own name in the folder, if it is one that a sample consists of."""
    path = PurePosixPath(member.name)
    if member.isdir() or not member.name.lower().endswith(_KEPT):
        return
    if not member.isfile() or path.is_absolute() or ".." in path.parts:
        report.drop("outside the folder", f"{shard}/{member.name}")
    elif member.size > _LARGEST:
        report.drop("too large", f"{shard}/{member.name}")
    elif packed := archive.extractfile(member):
        (folder / "-".join(path.parts)).write_bytes(packed.read())
