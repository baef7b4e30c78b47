"""Runs on the Hugging Face hub: pushed there with a card, and fetched from there into the client's cache.

Only the files of a run travel (FILES), in one commit. What comes is compared with the hub's list and looked at before it is
loaded; then it is a run folder like any other, and passes the same gates.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from anytoany_lib.checkpoints import hub
from anytoany_lib.checkpoints.integrity import head_of
from anytoany_lib.checkpoints.model_card import CARD, model_card
from anytoany_lib.config import home, resolve
from anytoany_lib.gates.sources import HUB_NAME
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_whole
from anytoany_lib.system.remote import is_url, local

_ADAPTER = (f"{runs.ADAPTER}/adapter_config.json", f"{runs.ADAPTER}/{runs.ADAPTER_TENSORS}")
# The record comes last: a folder that has it has everything.
FILES = (runs.TENSORS, *_ADAPTER, runs.VOCABULARY, runs.CURVES, runs.METRICS, runs.RECORD)


def check_name(name: str) -> None:
    """ValueError unless a name is OWNER/NAME, as the hub calls a repository."""
    try:
        validate_repo_id(name)
        known = HUB_NAME.fullmatch(name) is not None
    except HFValidationError:
        known = False
    if not known:
        raise ValueError(
            f"expected the name of a repository on the hub as OWNER/NAME (letters, digits, - _ .), found {name!r}: correct it"
        )


def run_folder(run: str | Path, revision: str | None = None) -> Path:
    """The folder of a run: a path, a URL, or OWNER/NAME of a repository on the hub, which is fetched into the client's cache.

    A folder goes before a repository: so does every name whose OWNER is a folder here, and every Path. `revision` is a branch,
    tag or commit of a repository, and says that it is one. Errors as `fetch_run` has them.
    """
    here = isinstance(run, Path) or is_url(run) or resolve(run).exists()
    if revision is None:
        if here or not HUB_NAME.fullmatch(str(run)) or resolve(str(run).split("/")[0]).is_dir():
            return local(run)
    elif here:
        raise ValueError(
            f"{run} is a folder or a URL, which has no revision {revision!r}: leave it out, or name a repository of the hub"
        )
    return fetch_run(str(run), revision)


def run_to_measure(run: str | Path) -> Path:
    """The folder of a run to write results into: `run_folder`, of a run on the hub as a copy in ckpt/runs/hub/OWNER/NAME.

    The client's cache is shared by all that use it, and a file of it stands for what the hub has. A copy of another revision gives way.
    """
    folder = run_folder(run)
    if isinstance(run, Path) or not HUB_NAME.fullmatch(run) or folder == resolve(run):
        return folder
    copy = home() / "ckpt/runs/hub" / run
    same = (folder / runs.RECORD).read_bytes()
    if not (copy / runs.RECORD).is_file() or (copy / runs.RECORD).read_bytes() != same:
        with appearing_whole(copy) as work:
            for name in (one for one in FILES if (folder / one).is_file()):
                (work / name).parent.mkdir(exist_ok=True)
                shutil.copy(folder / name, work / name)
    return copy


def fetch_run(name: str, revision: str | None = None) -> Path:
    """A run on the hub as a folder in the hub client's cache; without a network the one that the cache has.

    FileNotFoundError if there is no such repository or revision, or no run in it; ValueError if a file is not as the hub
    lists it, or is no weights file; PermissionError if it is not for this account; ConnectionError if the hub cannot be
    reached and the cache does not have it.
    """
    check_name(name)
    try:
        found = hub.listing(name, revision)
    except ConnectionError as error:
        return _checked(_cached(name, revision, error), name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no folder {name} here, and {error}") from error
    if lacking := sorted({runs.RECORD, runs.TENSORS} - found.files.keys()):
        raise FileNotFoundError(
            f"{name} on the hub holds no run of this kit: expected {' and '.join(lacking)}, found "
            f"{', '.join(sorted(found.files)[:5]) or 'no file'}: name a repository that push_to_hub made"
        )
    names = [one for one in FILES if one in found.files]
    for some in (names[:-1], names[-1:]):
        with hub.explained(name, revision):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=some))
        hub.check_arrived(found, some, folder)
    return _checked(folder, name)


def _cached(name: str, revision: str | None, error: ConnectionError) -> Path:
    """The run as the client's cache has it, or a ConnectionError that says why the hub was not asked."""
    known = list(FILES)
    try:
        folder: Path | None = Path(
            snapshot_download(name, revision=revision, allow_patterns=known, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        folder = None
    if folder is None or not (folder / runs.RECORD).is_file():
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ConnectionError(
            f"{name} is no folder here, the hub cannot be reached, and the cache does not have it whole: connect, or name the "
            f"folder of a run. {hub.first_line(cause)}"
        ) from error
    return folder


def _checked(folder: Path, name: str) -> Path:
    """A run's folder whose weights are whole safetensors. ValueError says which file is not, and what to do."""
    for file in sorted(folder.rglob("*.safetensors")):
        if problem := head_of(file)[0]:
            raise ValueError(f"{name}: {problem}. Take another revision, or ask who published it")
    return folder


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What goes wrong while files are sent, as PermissionError or ConnectionError with what to do."""
    try:
        yield
    except (*hub.HUB_ERRORS, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = hub.first_line(error)
        if status in (401, 403):
            raise PermissionError(
                f"{name} on the hub may not be written with the token that is used here: log in with one that may write there "
                f"(`hf auth login`, or HF_TOKEN). The hub says: {said}"
            ) from error
        raise ConnectionError(
            f"{name} could not be published ({said}): connect to the hub and push again. It is as it was before"
        ) from error


def push(run: str | Path | None, name: str, private: bool | None = None) -> str:
    """Publishes a run folder as a repository of the hub, in one commit with a model card; returns its address.

    `private` counts when the repository is made; None is the account's own setting. Files of an earlier run that this one does
    not have are deleted there, others stay. FileNotFoundError or ValueError if there is no whole run, ValueError if the name
    is none, PermissionError if the token may not write, ConnectionError if the hub cannot be reached.
    """
    check_name(name)
    if run is None:
        raise ValueError("this model was not loaded from a run: train one, load it, push that")
    run = resolve(run)
    card = model_card(run, name)
    own = [file for file in FILES if (run / file).is_file()]
    if runs.TENSORS not in own:
        raise FileNotFoundError(f"{run} has no {runs.TENSORS}: it is no whole run; train it again")
    _checked(run, str(run))
    api = HfApi(library_name="anytoany")
    with _explained(name):
        address = str(api.create_repo(name, private=private, exist_ok=True))
        there = api.list_repo_files(name)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(file) for file in FILES if file in there and file not in own
        ]
        operations += [CommitOperationAdd(file, run / file) for file in own]
        operations.append(CommitOperationAdd(CARD, card.encode()))
        api.create_commit(name, operations, commit_message="A run of anytoany")
    return address
