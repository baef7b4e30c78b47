"""Fetching one model from a repository of the Hugging Face hub: what of it is needed, in which order, and whether it came whole.

Small files come first and can be looked at before any weights are fetched. A repository is taken at the commit that its
list of files is of; sizes and checksums are compared with that list. What was fetched before it broke off lies beside the
folder under `.NAME.part` and is gone on from.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from anytoany_lib.system.digests import sha256_of
from anytoany_lib.system.files import NO_ROOM, read_json, write_json

MANIFEST = ".fetched.json"
INDEX = "model_index.json"
_SETTINGS = (".json", ".txt", ".model", ".jinja")
_CONFIGS = ("config.json", "_config.json")
# Weights in one file or in shards, without a variant such as fp16 or non_ema.
_STEM = r"(?:diffusion_pytorch_model|pytorch_model|model)"
_WEIGHTS = re.compile(_STEM + r"(?:-\d+(?:-of-\d+)?)?\.(safetensors|bin)")
_VARIANT = re.compile(_STEM + r"\.(\w+)(?:-\d+(?:-of-\d+)?)?\.(?:safetensors|bin)")
# OSError, and the error class of whichever HTTP library the hub client uses.
HUB_ERRORS: tuple[Any, ...] = HfHubHTTPError.__bases__


@dataclass(frozen=True)
class HubFile:
    """What the hub says of a file: bytes, and its sha256 (large files) or git id (small ones)."""

    size: int | None
    sha256: str | None
    git: str | None


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    repository: str
    commit: str
    files: dict[str, HubFile]


def wanted_files(names: Sequence[str], parts: Collection[str] | None = None) -> list[str]:
    """Of a repository's files, those that a model or pipeline is loaded from: settings, and weights in one form.

    Repositories often hold the same weights several times; safetensors go before pickled ones. Folders without a
    configuration are other people's formats. `parts` are the folders that a pipeline's model_index.json names: then no
    others are wanted, and no weights that lie beside them.
    """
    wanted = []
    for folder, files in _folders(names).items():
        if "/" in folder or (folder and not any(file.endswith(_CONFIGS) for file in files)):
            continue
        if folder and parts is not None and folder not in parts:
            continue
        forms = {
            form for file in files if (found := _WEIGHTS.fullmatch(file)) for form in found.groups()
        }
        form = "safetensors" if "safetensors" in forms else "bin"
        for file in files:
            # An index of shards belongs to their form.
            found = _WEIGHTS.fullmatch(file.removesuffix(".index.json"))
            if found or file.endswith(".index.json"):
                take = found and found[1] == form and (folder or parts is None)
            else:
                take = file.endswith(_SETTINGS)
            if take:
                wanted.append(f"{folder}/{file}" if folder else file)
    return wanted


def _folders(names: Sequence[str]) -> dict[str, list[str]]:
    folders = defaultdict(list)
    for name in names:
        folder, _, file = name.rpartition("/")
        folders[folder].append(file)
    return folders


def without_weights(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """A sentence for each wanted model that the repository has no plain weights of."""
    problems = []
    for folder, files in _folders(wanted).items():
        if "config.json" not in files or any(_WEIGHTS.fullmatch(file) for file in files):
            continue
        if folder == "" and INDEX in files:
            continue
        beside = _folders(names)[folder]
        variants = sorted({found[1] for file in beside if (found := _VARIANT.fullmatch(file))})
        there = f"only as variant {', '.join(variants)}" if variants else "not at all"
        problems.append(f"the weights of {folder or 'the model'} are there {there}")
    return problems


def listing(repository: str, revision: str | None, timeout: float | None = None) -> Listing:
    """The files of a repository at a branch, tag or commit. Errors as `from_hub` has them."""
    with explained(repository, revision):
        info = HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=timeout
        )
    files = {
        file.rfilename: HubFile(file.size, file.lfs.sha256 if file.lfs else None, file.blob_id)
        for file in info.siblings or []
    }
    return Listing(repository, str(info.sha), files)


def needed(
    found: Listing, work: Path, without: Collection[str] = (), file: str | None = None
) -> list[str]:
    """The files of a listing that are to be fetched: settings first, then weights. Reads a pipeline's index for it.

    `without` are parts of a pipeline that are not used; of a repository that is there for one `file` it is that alone.
    ValueError if there are no weights, no configuration, or no such file.
    """
    names, parts = list(found.files), None
    if file is not None:
        if file not in found.files:
            alike = [name for name in names if Path(name).suffix == Path(file).suffix]
            raise ValueError(
                f"{found.repository} has no {file} (there is {', '.join(alike[:5]) or 'none of its kind'}): correct `file` in the "
                "profile's source"
            )
        return [file]
    if INDEX in found.files:
        with explained(found.repository, found.commit):
            hf_hub_download(found.repository, INDEX, revision=found.commit, local_dir=work)
        index = read_json(work / INDEX)
        parts = [k for k, v in index.items() if isinstance(v, list) and v[0] and k not in without]
        if absent := [part for part in parts if part not in _folders(names)]:
            raise ValueError(f"{found.repository}: its {INDEX} names {absent}, which is not there")
    elif "config.json" not in found.files:
        raise ValueError(
            f"{found.repository} has neither {INDEX} nor config.json: expected a pipeline of diffusers or a model of "
            "transformers; name another repository in the profile's source"
        )
    wanted = wanted_files(names, parts)
    if problems := without_weights(names, wanted):
        raise ValueError(
            f"{found.repository}: {'; '.join(problems)}. Nothing was fetched. Expected files such as model.safetensors; "
            "name another repository (or revision) in the profile's source, or put the model into its folder yourself"
        )
    return sorted(wanted, key=is_weights)


def is_weights(name: str) -> bool:
    """Whether a file of that name holds weights."""
    return _WEIGHTS.fullmatch(name.rpartition("/")[2]) is not None


def total_bytes(found: Listing, names: Sequence[str]) -> int:
    """Bytes of files together, as the hub says."""
    return sum(found.files[name].size or 0 for name in names)


class Arrival:
    """One repository on its way into a folder: its settings first, its weights when they have been looked at.

    Raises ConnectionError if the hub cannot be reached, PermissionError if it wants a login or a consent,
    FileNotFoundError if it has no such repository or revision, OSError without room, and ValueError if what came, or is
    there to be fetched, is not right. The folder appears whole or not at all.
    """

    def __init__(
        self, repository: str, revision: str | None, folder: Path, without: Collection[str] = ()
    ):
        self.folder = folder
        self.work = folder.with_name(f".{folder.name}.part")
        self.work.mkdir(parents=True, exist_ok=True)
        try:
            self._found = listing(repository, revision)
            self._names = needed(self._found, self.work, without)
            get_files(self._found, [n for n in self._names if not is_weights(n)], self.work)
        finally:
            drop_empty(self.work)

    @property
    def lacking(self) -> int:
        """Bytes that are still to come."""
        there = sum(file.stat().st_size for file in self.work.rglob("*") if file.is_file())
        return max(0, total_bytes(self._found, self._names) - there)

    def finish(self) -> None:
        """Fetches the weights, compares them and gives the folder its name."""
        check_room(self.folder, self.lacking)
        get_files(self._found, [name for name in self._names if is_weights(name)], self.work)
        shutil.rmtree(self.work / ".cache", ignore_errors=True)
        files = {name: vars(self._found.files[name]) for name in self._names}
        manifest = {
            "repository": self._found.repository,
            "commit": self._found.commit,
            "files": files,
        }
        write_json(self.work / MANIFEST, manifest)
        self.work.replace(self.folder)


def from_hub(
    repository: str,
    revision: str | None,
    folder: Path,
    without: Collection[str] = (),
    look: Callable[[Path], object] | None = None,
) -> None:
    """A repository's model as a folder; sizes and checksums are compared with what the hub says.

    `without` are parts of a pipeline that are not used. `look` is called with a folder of the settings and tokenizers
    before weights are fetched; what it raises ends the fetching. Errors as `Arrival` has them.
    """
    arrival = Arrival(repository, revision, folder, without)
    if look is not None:
        look(arrival.work)
    arrival.finish()


def drop_empty(work: Path) -> None:
    """Takes a folder away in which nothing but the client's notes lies."""
    notes = work / ".cache"
    if not any(
        file.is_file()
        and (notes not in file.parents or (file.suffix == ".incomplete" and file.stat().st_size))
        for file in work.rglob("*")
    ):
        shutil.rmtree(work, ignore_errors=True)


def get_files(found: Listing, names: Sequence[str], work: Path) -> None:
    """Fetches files into a folder and compares them with the list. Errors as `Arrival` has them."""
    with explained(found.repository, found.commit):
        snapshot_download(
            found.repository, revision=found.commit, local_dir=work, allow_patterns=list(names)
        )
    check_arrived(found, names, work)


def check_arrived(found: Listing, names: Sequence[str], folder: Path) -> None:
    """ValueError unless files came into a folder, or the client's cache, as the hub's list has them; what differs is deleted."""
    for name in names:
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{found.repository}: {name} is in its list and did not come")
        if problem := _difference(file, found.files[name]):
            file.resolve().unlink()  # in the cache it is a link
            file.unlink(missing_ok=True)
            raise ValueError(
                f"{name} of {found.repository}: {problem}; it was thrown away, the others are kept. Fetch again; if it "
                "stays so, the repository changed in between or something between you and the hub changes files"
            )


def _difference(file: Path, expected: HubFile) -> str | None:
    """How a file differs from what the hub says of it."""
    size = file.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"expected {expected.size:,} bytes, found {size:,}"
    if expected.sha256 is not None and (found := sha256_of(file)) != expected.sha256:
        return f"expected sha256 {expected.sha256}, found {found}"
    if (
        expected.sha256 is None
        and expected.git is not None
        and (found := _git_id(file)) != expected.git
    ):
        return f"expected git id {expected.git}, found {found}"
    return None


def _git_id(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def check_room(folder: Path, size: int) -> None:
    """OSError (ENOSPC) if the disk that a folder is to be on has not that many bytes left."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise OSError(
            errno.ENOSPC,
            f"{folder} needs {size / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are free: free some, or set "
            "ANYTOANY_HOME to a folder on a larger disk. Nothing was fetched of what does not fit",
        )


@contextmanager
def explained(repository: str, revision: str | None) -> Iterator[None]:
    """The hub client's errors as the ones that `from_hub` promises, each with what to do."""
    at = f"{repository} at {revision}" if revision else repository
    try:
        yield
    except GatedRepoError as error:
        raise PermissionError(
            f"{repository} is gated: its licence is to be accepted on https://huggingface.co/{repository} by the account "
            f"that is logged in here (`hf auth login`). The hub says: {first_line(error)}"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repository} has no revision {revision}: correct its name (a profile's: its source), or, if it was fetched from just now, "
            "it changed in between: fetch again"
        ) from error
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise ConnectionError(_unreachable(at, error)) from error
        raise FileNotFoundError(
            f"{at} has lost a file that was in its list a moment ago: fetch again ({first_line(error)})"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no repository {repository} on the hub, or it is private: correct its name (a profile's: its source), or log in "
            "with an account that may read it (`hf auth login`)"
        ) from error
    except HUB_ERRORS as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise OSError(
                error.errno,
                f"the disk is full while {at} is fetched: free some, and fetch again: it goes on where it stopped",
            ) from error
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise PermissionError(
                f"{at} may not be read from here: log in with an account that may (`hf auth login`). The hub says: "
                f"{first_line(error)}"
            ) from error
        raise ConnectionError(_unreachable(at, error)) from error


def _unreachable(at: str, error: Exception) -> str:
    return (
        f"{at} could not be fetched ({first_line(error)}); connect to the hub (a gated model needs `hf auth login`) "
        "and go on where it stopped, or put the model into its folder yourself"
    )


def first_line(error: Exception) -> str:
    """What an error says, without the pages that follow; its class if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def absent_of(folder: Path) -> list[str]:
    """Files that were fetched into a folder and are no longer there."""
    return [name for name in _fetched_files(folder) if not (folder / name).is_file()]


def _fetched_files(folder: Path) -> dict[str, dict[str, Any]]:
    """What the hub said of each file that was fetched into a folder; nothing of one that was put there by hand."""
    file = folder / MANIFEST
    return read_json(file)["files"] if file.is_file() else {}


def changed_of(folder: Path) -> list[str]:
    """A sentence for each fetched weights or vocabulary file whose size is another today."""
    problems = []
    for name, facts in _fetched_files(folder).items():
        here, plain = folder / name, name.endswith("config.json") or name.endswith(".jinja")
        if plain or not here.is_file() or facts["size"] in (None, here.stat().st_size):
            continue  # settings may be changed by hand
        problems.append(f"{here}: expected {facts['size']:,} bytes, found {here.stat().st_size:,}")
    return problems


def mend(folder: Path) -> None:
    """Puts a folder of which files are missing back to where `from_hub` goes on."""
    if not any(folder.iterdir()):
        folder.rmdir()
        return
    work = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    folder.replace(work)
