"""WebDataset shards, as img2dataset and video2dataset write them: tar files whose members share a key.

`000000017.jpg`, `000000017.txt` and `000000017.json` are one sample: its medium, its caption, and what is known about it.
Shards are unpacked into a folder that `folders.read_shards` reads.
"""

import errno
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm.auto import tqdm

from anytoany_lib.data.formats.folders import files_below
from anytoany_lib.data.ledger import DROPPED, NOT_LOOKED_AT, is_hidden
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError
from anytoany_lib.media.file_types import MIME_OF

SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_TEXTS = (".txt", ".json", ".caption", ".text")
_KEPT = (*MIME_OF, *_TEXTS)
_LARGEST = 2 * 2**30
_BLOCK = 2**20
# What a name does that no disk can hold, or that another member's name is a folder of.
_UNNAMEABLE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL)


class _Damaged(Exception):
    """The shard ends too early, or is none."""


def unpacked(source: Path, target: Path, report: Report) -> Path:
    """Writes the members of every shard below a folder to `target`/SHARD; returns `target`.

    Names that lead elsewhere, links, sparse members and those over 2 GiB are dropped and reported; so is what is left of a
    shard that ends too early. DataError if the folder has no shard; OSError if they cannot be written.
    """
    shards = [path for path in files_below(source) if path.name.lower().endswith(SHARDS)]
    if not shards:
        raise DataError(f"{source}: expected .tar shards in it")
    for shard in tqdm(shards, desc="shards"):
        name = shard.relative_to(source)
        ending = next(one for one in SHARDS if name.name.lower().endswith(one))
        folder = target / name.with_name(name.name[: -len(ending)] or "shard")
        folder.mkdir(parents=True, exist_ok=True)
        report.read_file(shard)
        try:
            for archive, member in _members(shard):
                _unpack(archive, member, folder, name.as_posix(), report)
        except _Damaged as error:
            report.drop("shard cut or damaged", f"{name}: {error}", [shard])
    return target


def _members(shard: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a shard, each to be read before the next."""
    try:
        with tarfile.open(shard, "r|*") as archive:
            while (member := archive.next()) is not None:
                yield archive, member
            ends = archive.offset
        if shard.suffix == ".tar":
            _check_end(shard, ends)
    # Numbers in headers that are none, and what the decompressors raise.
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        raise _Damaged(str(error)) from error


def _check_end(shard: Path, ends: int) -> None:
    """tarfile takes a header that is cut or damaged for the end of the archive, which is a block of zeros."""
    with shard.open("rb") as file:
        file.seek(ends)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        raise tarfile.ReadError(f"no member's header at byte {ends:,}")


def _unpack(
    archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, shard: str, report: Report
) -> None:
    """One member as a file of its own name in the folder, if it is one that a sample consists of."""
    path = PurePosixPath(member.name)
    if member.isdir():
        return
    hidden = any(is_hidden(part) for part in path.parts if part != "..")
    if hidden or not member.name.lower().endswith(_KEPT):
        report.count_file(NOT_LOOKED_AT, member.name)
        return
    reason = ""
    if not member.isfile() or path.is_absolute() or ".." in path.parts:
        reason = "outside the folder"
    elif member.issparse():
        # A few bytes of it may stand for gigabytes.
        reason = "sparse member"
    elif member.size > _LARGEST:
        reason = "too large"
    elif packed := archive.extractfile(member):
        reason = _write(packed, folder / path)
    if reason:
        report.drop(reason, f"{shard}/{member.name}")
        report.count_file(DROPPED)


def _write(packed: IO[bytes], path: Path) -> str:
    """Writes a member, a block at a time; returns the reason if no file can have its name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except FileExistsError:
        return "name there twice"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, OSError) and error.errno not in _UNNAMEABLE:
            raise
        too_long = getattr(error, "errno", 0) == errno.ENAMETOOLONG
        return "name too long" if too_long else "no file's name"
    try:
        with file:
            while block := _block(packed):
                file.write(block)
    except _Damaged:
        path.unlink()
        raise
    return ""


def _block(packed: IO[bytes]) -> bytes:
    try:
        return packed.read(_BLOCK)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _Damaged(str(error)) from error
