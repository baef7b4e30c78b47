"""Datasets and runs at URLs: s3://, gs://, and whatever else fsspec has a driver for.

    anytoany copy FROM TO     copies a folder; one of the two is a URL

A URL is worked on in its mirror, a folder of this machine: `local` brings it up to date, `publish` uploads what changed in
it, and only differences travel. What is to be read in parts may be left at the URL. What the kit uploads is never seen half-written:

URL/objects/DIGEST/NAME   contents; new contents lie elsewhere than the old ones, which stay until the index is replaced
URL/anytoany.json         which of them are valid: name -> object, bytes, digest; written last

Files that other tools copied to a URL are read as they lie; one that the kit replaced is deleted. One writer at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from tqdm.auto import tqdm

from anytoany_lib.config import home, portable, resolve
from anytoany_lib.system import terminal
from anytoany_lib.system.digests import read_digest
from anytoany_lib.system.files import alone, appearing_file, read_json, write_file
from anytoany_lib.system.prefetch import in_order
from anytoany_lib.system.urls import check_url, opened_by, remembered, without_secrets

INDEX, OBJECTS, MIRRORS = "anytoany.json", "objects", "data/.remote"
# What drivers call the mark that tells the contents of an object from those it had before.
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")


@dataclass(frozen=True)
class Stored:
    """A file at a URL: the object below the URL that holds it, its bytes, and what names its contents."""

    object: str
    size: int
    version: str

    @property
    def by_digest(self) -> bool:
        """Whether the kit uploaded it, so that `version` is the digest of its contents."""
        return self.object.startswith(f"{OBJECTS}/")


@dataclass(frozen=True)
class Seen:
    """A file of a mirror when it was last the same as at the URL: `written` is its time in nanoseconds."""

    version: str
    size: int
    written: int

    @classmethod
    def now(cls, path: Path, version: str) -> Seen:
        """The file as it is."""
        found = path.stat()
        return cls(version, found.st_size, found.st_mtime_ns)

    def fits(self, path: Path) -> bool:
        """Whether the file is there and was not written to since."""
        return path.is_file() and self == Seen.now(path, self.version)


class Left(NamedTuple):
    """A file that was left at its URL: the driver, the file's name there, and its bytes."""

    files: AbstractFileSystem
    place: str
    size: int


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL, which `local` can read if it is one of a store (see `urls`)."""
    return "://" in str(path) or "::" in str(path)


def mirror_of(url: str) -> Path:
    """The folder of this machine in which a URL is read and written."""
    return home() / MIRRORS / _named(without_secrets(url))


def local(
    path: str | Path,
    skip: Sequence[str] = (),
    new: bool = False,
    leave: Callable[[str], bool] | None = None,
) -> Path:
    """The folder at a path or URL, as a folder of this machine that is up to date.

    `skip` names subfolders that are not needed (a dataset's "media" in training). Files that `leave` is true of, by their names, are
    not copied unless they are here already; `left` has where they are. FileNotFoundError if nothing is at the
    URL, unless it may be `new`. ImportError says which driver to install. OSError if a file changed while it was copied:
    whatever ends a copy, what is missing comes with the next call, and no file is there in part.
    """
    if not is_url(path):
        return resolve(path)
    mirror = mirror_of(_trimmed(path))
    download(str(path), mirror, skip, new, leave)
    return mirror


def left(folder: Path) -> dict[str, Left]:
    """The files of a folder in a mirror, by their names, that were left at the URL."""
    mirrors = home() / MIRRORS
    if not folder.is_relative_to(mirrors) or folder == mirrors:
        return {}
    mirror = mirrors / folder.relative_to(mirrors).parts[0]
    file, below = _note_of(mirror), f"{folder.relative_to(mirror).as_posix()}/"
    note: dict[str, Any] = read_json(file) if file.is_file() else {}
    own = {
        name.removeprefix(below): stored
        for name, stored in note.get("left", {}).items()
        if name.startswith(below)
    }
    if not own:
        return {}
    files, root = _opened(note["url"])
    return {n: Left(files, f"{root}/{where}", size) for n, (where, size) in own.items()}


@contextmanager
def published(path: str | Path, skip: Sequence[str] = ()) -> Iterator[Path]:
    """The folder at a path or URL to write into; what changed in it is uploaded at the end, whatever ended the work."""
    folder = local(path, skip, new=True)
    try:
        yield folder
    finally:
        publish(folder)


def download(
    url: str,
    folder: Path,
    skip: Sequence[str] = (),
    new: bool = False,
    leave: Callable[[str], bool] | None = None,
) -> int:
    """Brings a folder up to date with a URL; returns how many files were copied. Raises as `local` does."""
    url = _trimmed(url)
    files, root = _opened(url)
    skipped = tuple(f"{top}/" for top in skip)
    with _alone(folder):
        there, seen = _listing(files, root, lambda top: top not in skip), _seen(folder, url)
        if not there and not new:
            raise FileNotFoundError(f"{url}: nothing is there, or its first upload did not end")
        for name in [name for name in seen if name not in there and not name.startswith(skipped)]:
            (folder / name).unlink(missing_ok=True)
            del seen[name]
        lacking = [
            name
            for name, stored in there.items()
            if not name.startswith(skipped)
            and not (
                name in seen and seen[name].version == stored.version and (folder / name).is_file()
            )
        ]
        away = {name: there[name] for name in lacking if leave is not None and leave(name)}
        wanted = [name for name in lacking if name not in away]
        for name in away:  # an older one
            (folder / name).unlink(missing_ok=True)
            seen.pop(name, None)
        copies = in_order(lambda name: _fetched(files, root, there[name], folder / name), wanted)
        try:
            for name, file in zip(wanted, tqdm(copies, url, len(wanted), delay=2), strict=True):
                seen[name] = file
        finally:
            _note(folder, url, seen, away)
    return len(wanted)


def publish(folder: Path) -> int:
    """Uploads what changed in a mirror; returns how many files. Of any other folder there are none."""
    url = _url_of(folder)
    return upload(folder, url) if url else 0


def known_as(folder: Path) -> str:
    """How a record that may be read elsewhere names a folder: by the URL that it mirrors, else as `portable`."""
    return _url_of(folder) or portable(folder)


def upload(folder: Path, url: str) -> int:
    """Makes a URL hold the files of a folder (hidden ones and locks aside); returns how many were uploaded.

    Files at the URL that the folder never had stay; those that it had and has no more go. Whatever ends an upload, readers
    find what was there before, or all of this.
    """
    url = _trimmed(url)
    files, root = _opened(url)
    with _alone(folder):
        seen, own = _seen(folder, url), _names(folder)
        tops = {name.split("/")[0] for name in (*seen, *own)}
        there = _listing(files, root, tops.__contains__)
        same = {n for n in own if n in there and n in seen and seen[n].fits(folder / n)}
        changed = [name for name in own if name not in same]
        send = partial(_sent, files, root, folder, there)
        sending = tqdm(in_order(send, changed), url, len(changed), delay=2)
        sent = dict(zip(changed, sending, strict=True))
        kept = {n: one for n, one in there.items() if n in same or (n not in own and n not in seen)}
        _replace(files, root, there, kept | {name: one for name, (one, _) in sent.items()})
        seen = {name: seen[name] for name in same} | {name: now for name, (_, now) in sent.items()}
        _note(folder, url, seen)
    return sum(one != there.get(name) for name, (one, _) in sent.items())


def _trimmed(url: str | Path) -> str:
    """A URL by the name that may be written down: records, notes and messages have it, passwords they have not."""
    return remembered(check_url(str(url).rstrip("/")))


def _opened(url: str) -> tuple[AbstractFileSystem, str]:
    """The driver of a URL, and the URL as the driver has it."""
    # Where there are folders, they are to be made; stores of objects have none.
    options = {"auto_mkdir": True} if url.startswith("file://") else {}
    try:
        return url_to_fs(check_url(opened_by(url)), **options)
    except ImportError as error:
        raise ImportError(
            f'{url}: {error}. pip install "anytoany[remote]" (in a checkout: pip install -e ".[remote]") has the drivers '
            "of s3:// and gs://"
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine away from a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with alone(_note_of(folder).with_suffix(".lock"), f"copies from or to {folder}"):
        yield


def _listing(
    files: AbstractFileSystem, root: str, wanted: Callable[[str], bool]
) -> dict[str, Stored]:
    """The files at a URL by their names; of other tools' those below the folders (or called so) that are wanted.

    ValueError if a name leads out of the folder.
    """
    files.invalidate_cache()
    found = {}
    for top in files.ls(root, detail=True) if files.exists(root) else ():
        name = PurePosixPath(top["name"]).name
        if name in (OBJECTS, INDEX) or not wanted(name):
            continue
        below = files.find(top["name"], detail=True) if top["type"] == "directory" else {"": top}
        for about in below.values():
            path = about["name"].removeprefix(root).lstrip("/")
            if about["type"] == "file" and _travels(path):
                found[path] = Stored(path, about["size"], _mark(about))
    if files.exists(f"{root}/{INDEX}"):
        index = json.loads(files.cat_file(f"{root}/{INDEX}"))
        found |= {name: Stored(**stored) for name, stored in index["files"].items()}
    for name in found:
        if {"..", ""} & set(re.split(r"[/\\]", name)):
            raise ValueError(f"{root}: the name {name!r} leads out of the folder")
    return found


def _mark(about: dict) -> str:
    return next((f"{key} {about[key]}" for key in _MARKS if about.get(key)), f"{about['size']}")


def _travels(name: str) -> bool:
    """Whether a file is for others too: not a lock, and not hidden or half-written."""
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return not hidden and not name.endswith((".lock", ".part"))


def _names(folder: Path) -> list[str]:
    """The files below a folder that are for others too, as POSIX paths, sorted."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(filter(_travels, found))


def _fetched(files: AbstractFileSystem, root: str, stored: Stored, path: Path) -> Seen:
    """Copies one file to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing_file(path) as beside:
        files.get_file(f"{root}/{stored.object}", str(beside))
        size = beside.stat().st_size
        whole = size == stored.size and (
            not stored.by_digest or read_digest(beside) == stored.version
        )
        if not whole:
            raise OSError(
                f"{root}/{stored.object}: expected {stored.size} bytes, version {stored.version}, found {size} bytes or other "
                "contents: it changed while it was copied, or is damaged. Run again; if that does not help, upload it again"
            )
    return Seen.now(path, stored.version)


def _sent(
    files: AbstractFileSystem, root: str, folder: Path, there: dict[str, Stored], name: str
) -> tuple[Stored, Seen]:
    """Uploads one file unless its contents are there; again if it was written to meanwhile."""
    path = folder / name
    while True:
        version = read_digest(path)
        seen = Seen.now(path, version)
        stored = Stored(f"{OBJECTS}/{version}/{name}", seen.size, version)
        if there.get(name) != stored:
            files.put_file(str(path), f"{root}/{stored.object}")
        if seen.fits(path):
            return stored, seen


def _replace(
    files: AbstractFileSystem, root: str, old: dict[str, Stored], new: dict[str, Stored]
) -> None:
    """Replaces the index at a URL, then deletes what only the old one named."""
    before, after = ({n: s for n, s in some.items() if s.by_digest} for some in (old, new))
    if after != before:
        text = json.dumps(
            {"files": {name: asdict(after[name]) for name in sorted(after)}}, indent=1
        )
        files.pipe_file(f"{root}/{INDEX}.part", text.encode())
        files.mv(f"{root}/{INDEX}.part", f"{root}/{INDEX}")
    surplus = {f"{root}/{one.object}" for n, one in old.items() if new.get(n) != one}
    if after != before:
        files.invalidate_cache()
        # Those of an upload that was cut off among them.
        surplus |= set(files.find(f"{root}/{OBJECTS}"))
    if gone := sorted(surplus - {f"{root}/{one.object}" for one in new.values()}):
        files.rm(gone)


def _named(place: str) -> str:
    """A name for a place among others."""
    digest = hashlib.blake2b(place.encode(), digest_size=4).hexdigest()
    return f"{re.sub(r'[^a-zA-Z0-9]+', '-', place).strip('-')[-80:]}-{digest}"


def _note_of(folder: Path) -> Path:
    """The file that says which URL a folder mirrors, and what was the same when. It lies among the mirrors."""
    return home() / MIRRORS / f".{_named(portable(folder))}.json"


def _url_of(folder: Path) -> str | None:
    """The URL that a folder mirrors; None of one that was only copied to or from a URL."""
    note = _note_of(folder)
    url = read_json(note)["url"] if note.is_file() else None
    return url if url and mirror_of(url) == folder else None


def _note(
    folder: Path, url: str, seen: dict[str, Seen], away: Mapping[str, Stored] | None = None
) -> None:
    files = {name: astuple(file) for name, file in seen.items()}
    places = {name: (stored.object, stored.size) for name, stored in (away or {}).items()}
    write_file(_note_of(folder), json.dumps({"url": url, "files": files, "left": places}))


def _seen(folder: Path, url: str) -> dict[str, Seen]:
    """The files that were the same here and at the URL, as they were then; none of those of another URL."""
    file = _note_of(folder)
    note: dict[str, Any] = read_json(file) if file.is_file() else {"url": url, "files": {}}
    return {n: Seen(*file) for n, file in note["files"].items()} if note["url"] == url else {}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: copy a folder to a URL, or from one."""
    parser = terminal.parser(
        "copy", "Copy a folder to a URL, or from one.", "data/pairs s3://bucket/pairs"
    )
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("target", metavar="TO")
    given = parser.parse_args(arguments)
    if is_url(given.source) == is_url(given.target):
        parser.error("one of FROM and TO is a URL (s3://..., gs://...), the other a folder")
    if is_url(given.source):
        print(f"{given.target}: {download(given.source, resolve(given.target))} files copied")
    else:
        folder = resolve(given.source)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"expected a folder to copy, found none at {folder}; check the path"
            )
        sent = upload(folder, given.target)
        print(f"{without_secrets(given.target)}: {sent} files uploaded")
