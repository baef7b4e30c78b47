"""Replicas put together: settings, tokenizers and weights files, each file by a process of its own if so wished."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from anytoany_lib.checkpoints.fetching import missing_models
from anytoany_lib.config import Profile

from . import tables, words
from .facts import REPOSITORIES
from .layout import Config, Part, Repository, narrowed
from .numbers import Numbers, write


@dataclass(frozen=True)
class File:
    """A weights file that is to be written: where, and the tensors in it. Can be sent to another process."""

    path: Path
    table: tables.Table
    seed: int
    difference: bool

    def write(self) -> Path:
        """Writes it; returns where."""
        write(self.path, self.table, Numbers(self.seed, self.difference))
        return self.path


def _folder(root: Path, folder: str) -> Path:
    return root / folder if folder else root


def files_of(
    repo: str, dest: Path, narrow: int = 1, everything: bool = False
) -> tuple[list[File], dict[str, Any]]:
    """The weights files of a repository below `dest`, and {name: content} of the indexes of their shards.

    `everything` has also the forms of the weights that the kit does not read.
    """
    files, indexes = [], {}
    for part in REPOSITORIES[repo].parts:
        config = narrowed(part.config, narrow)
        limit = part.shard_bytes and _limit(part, config)
        # Two repositories of one model are not the same numbers, nor is a difference to one.
        seed = sum(repo.encode())
        for name in part.files if everything else part.files[:1]:
            shards = tables.shards(tables.table(part, config, name), limit)
            names = [
                tables.shard_name(name, number, len(shards)) for number in range(1, len(shards) + 1)
            ]
            where = _folder(dest, part.folder)
            files += [
                File(where / own, table, seed, "delta" in part.kind)
                for own, table in zip(names, shards, strict=True)
            ]
            if len(shards) > 1:
                index = f"{part.folder}/{name}.index.json".removeprefix("/")
                indexes[index] = _index(names, shards)
    return files, indexes


def _limit(part: Part, config: Config) -> int:
    """Bytes of a shard: as published, or as much less as the narrowed model has fewer, so that there are as many."""
    if config == part.config:
        return part.shard_bytes or 0
    whole, small = (
        sum(tables.bytes_of(*t) for t in tables.table(part, one, part.files[0]).values())
        for one in (part.config, config)
    )
    return math.ceil((part.shard_bytes or 0) * small / whole)


def _index(names: Sequence[str], shards: Sequence[tables.Table]) -> Config:
    total = sum(tables.bytes_of(*tensor) for shard in shards for tensor in shard.values())
    placed = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}


def _settings(repository: Repository, narrow: int) -> dict[str, Config]:
    """{name: content} of every .json that is no tokenizer's and no index."""
    configs = {
        f"{part.folder}/config.json".removeprefix("/"): narrowed(part.config, narrow)
        for part in repository.parts
        if part.kind not in ("imagebind", "nextgpt")
    }
    others = {name: narrowed(config, narrow) for name, config in repository.settings.items()}
    return configs | others


def _overlay(published: Path, dest: Path, narrow: int) -> None:
    """The real small files over ours; configurations of narrowed models with the same factor."""
    for file in published.rglob("*"):
        name = file.relative_to(published)
        if not file.is_file() or (name.name.endswith(".index.json") and narrow > 1):
            continue
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        if name.name == "config.json" and narrow > 1:
            config = json.loads(file.read_text(encoding="utf-8"))
            _write_json(dest / name, narrowed(config, narrow))
        else:
            shutil.copyfile(file, dest / name)


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def settings_of(repo: str, dest: Path, narrow: int = 1, published: Path | None = None) -> None:
    """Everything of a replica but weights: configurations, schedulers, tokenizers, indexes."""
    repository = REPOSITORIES[repo]
    dest.mkdir(parents=True, exist_ok=True)
    for name, content in (_settings(repository, narrow) | files_of(repo, dest, narrow)[1]).items():
        _write_json(dest / name, content)
    for folder, kind in repository.words.items():
        where = _folder(dest, folder)
        if (
            published is None
            or not (_folder(published, folder) / "tokenizer_config.json").is_file()
        ):
            words.tokenizer(kind, where)
    if published is not None:
        _overlay(published, dest, narrow)


def replica(
    repo: str,
    dest: Path,
    narrow: int = 1,
    published: Path | None = None,
    everything: bool = False,
    processes: int = 1,
) -> Path:
    """Writes a repository into the folder `dest`, or the single file that it is; returns where.

    `narrow` divides the widths (1, 2, 4, ... 32). `published` is a folder with real small files, which go before ours.
    `everything` also writes what is published and not read: other forms of the weights, other programs' files (these
    with fewer bytes). KeyError names what there is.
    """
    if repo not in REPOSITORIES:
        raise KeyError(f"no facts of {repo}; there are {', '.join(REPOSITORIES)}")
    single = repo.endswith(".pth")
    files, indexes = files_of(repo, dest.parent if single else dest, narrow, everything)
    if single:
        files = [File(dest, files[0].table, files[0].seed, files[0].difference)]
    else:
        settings_of(repo, dest, narrow, published)
        for name, content in indexes.items():
            if not (dest / name).is_file():
                _write_json(dest / name, content)
        if everything:
            _foreign(REPOSITORIES[repo], dest, narrow)
    _written(files, processes)
    return dest


def _foreign(repository: Repository, dest: Path, narrow: int) -> None:
    for name, size in repository.foreign.items():
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).write_bytes(b"of another program\n" * (max(400, size // narrow**4) // 19))


def _written(files: Sequence[File], processes: int) -> None:
    if processes == 1:
        for file in files:
            file.write()
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(File.write, files))


def repository_of(what: str, profile: Profile) -> str:
    """Which replica stands for the profile's language model, encoder or decoder."""
    if what == "llm":
        source = profile.llm.source
        if source and source.difference_to:
            return "vicuna-7b-v0"
        named = source and source.hub
    elif what == "encoder":
        named = "imagebind_huge.pth"
    else:
        source = profile.decoders[what].source
        named = source and source.hub
    if named not in REPOSITORIES:
        raise KeyError(f"no facts of {named}, the {what} of {profile.name}")
    return named


def fill(
    profile: Profile, scratch: Path, narrow: int = 1, processes: int | None = None
) -> tuple[Profile, list[str]]:
    """The profile with replicas below `scratch` in the place of absent models, and the names of those.

    What lies there already is taken as it is. `processes` write at once, as many as there are cores unless said.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    absent, changes = list(missing_models(profile)), {"decoders": dict(profile.decoders)}
    files: list[File] = []
    for what in absent:
        repo = repository_of(what, profile)
        folder = scratch / repo.rpartition("/")[2]
        if not folder.exists():
            files += _begun(repo, folder, narrow)
        if what in profile.decoders:
            changed = profile.decoders[what].model_copy(update={"folder": str(folder)})
            changes["decoders"][what] = changed
        else:
            section = getattr(profile, what).model_copy(update={"folder": str(folder)})
            changes[what] = section
    largest_first = sorted(files, key=lambda file: -_size(file))
    _written(largest_first, processes or os.cpu_count() or 1)
    return profile.model_copy(update=changes), absent


def _begun(repo: str, folder: Path, narrow: int) -> list[File]:
    """Everything but the weights; these are returned."""
    if not repo.endswith(".pth"):
        settings_of(repo, folder, narrow)
        return files_of(repo, folder, narrow)[0]
    made = files_of(repo, folder.parent, narrow)[0][0]
    if (
        narrow > 1
    ):  # the kit takes sizes of a .pth out of the file beside it, else the published ones
        sizes = narrowed(REPOSITORIES[repo].parts[0].config, narrow)
        _write_json(folder.with_suffix(".json"), sizes)
    return [File(folder, made.table, made.seed, made.difference)]


def _size(file: File) -> int:
    return sum(tables.bytes_of(*tensor) for tensor in file.table.values())
