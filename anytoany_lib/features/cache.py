"""A folder of fp16 rows of one shape, each found by the key of its content: what frozen models gave, memory-mapped.

00000.npy   rows (n, *shape), up to 2 GiB of them
00000.keys  their keys, one a line; written last, so that a shard without keys does not exist
parts/      the same in small, named by the first key: what a fill has done since it began, so that a kill loses little
cache.json  the fingerprint of the model that made the rows

A fill that ends moves its parts into shards, in the order of what it was given. So whatever was killed in between, and
however many processes shared the work, the shards come out the same to the byte.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from anytoany_lib.system.files import appearing_file, write_file
from anytoany_lib.system.prefetch import WORKERS, in_order

BATCH = 32
CAPTION_BATCH = 128  # short texts: in small batches a fifth of the time is Python's
SAVE_EVERY = 60.0  # seconds of work that a kill may lose
PARTS = "parts"
REBUILD = "anytoany features (or notebooks/03_embeddings.ipynb)"
KEY = np.dtype("S32")
_SHARD_BYTES = 2**31  # few enough files at millions of rows
_PART_BYTES = 2**28  # what a process holds in memory
_COPIED_ROWS = 256
_MAPPED_SHARDS = 192  # each takes a file handle, of which a process usually has 1,024


def processes() -> PartialState:
    """This process among those that `accelerate launch --multi_gpu` or torchrun started; alone without them."""
    # The others wait while the first moves what may be hundreds of gigabytes.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def places(sorted_keys: np.ndarray, keys: Sequence[str]) -> np.ndarray:
    """Where each key stands among the sorted ones (dtype KEY), -1 where it does not."""
    sought = np.array(keys, dtype=KEY)
    if not len(sorted_keys):
        return np.full(len(sought), -1)
    at = np.minimum(np.searchsorted(sorted_keys, sought), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == sought, at, -1)


def folder_of(where: Path, name: str, fingerprint: str, shape: tuple[int, ...]) -> Path:
    """The folder below `where` for the rows that a model gives, by its fingerprint and their shape: several models' lie side by side.

    It is the one that has such rows, be it of another kind of media; else NAME, or NAME-FINGERPRINT where that is taken.
    """
    made_by = {"fingerprint": fingerprint, "shape": list(shape)}
    sort = name.partition("-")[0]
    for note in sorted(where.glob(f"{sort}-*/cache.json")):
        if json.loads(note.read_text()) == made_by:
            return note.parent
    taken = (where / name / "cache.json").is_file()
    return where / (f"{name}-{fingerprint.replace(' ', '-')}" if taken else name)


class FeatureCache:
    """Rows of one shape in a folder, looked up by key (up to 32 ASCII characters).

    Raises ValueError if the folder was filled by another model (fingerprint), holds another shape, or a shard of it is
    damaged; the message ends with the command `rebuild`. With `repair` a damaged shard is deleted instead.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        shape: tuple[int, ...],
        rebuild: str = REBUILD,
        repair: bool = False,
    ):
        self.folder, self.shape, self._rebuild = folder, tuple(shape), rebuild
        self._made_by = {"fingerprint": fingerprint, "shape": list(shape)}
        self._note = folder / "cache.json"
        if self._note.is_file() and (found := json.loads(self._note.read_text())) != self._made_by:
            raise ValueError(
                f"{folder} was made by another model: expected {self._made_by}, found {found}. "
                f"Delete that folder and rebuild it with {rebuild}"
            )
        self._mapped = lru_cache(_MAPPED_SHARDS)(self._map)
        self._look(repair)

    def _look(self, repair: bool = False) -> None:
        """Reads which rows the folder has by now; of a row that is there twice, the one in a shard counts."""
        self._mapped.cache_clear()
        self._files: list[Path] = []
        names: list[np.ndarray] = []
        for keys in sorted(self.folder.glob("*.keys")) + sorted(
            (self.folder / PARTS).glob("*.keys")
        ):
            of_file = np.array(keys.read_text().split(), dtype=KEY)
            if damage := self._damage(keys.with_suffix(".npy"), len(of_file)):
                if not repair:
                    raise ValueError(f"{damage}; {self._rebuild} rebuilds it")
                tqdm.write(f"{damage}; it is made anew")
                keys.unlink()
                continue
            self._files.append(keys.with_suffix(".npy"))
            names.append(of_file)
        # Row numbers count through all files; file n has those from _starts[n] on.
        self._starts = np.cumsum([0, *map(len, names)])
        self._keys, self._rows = np.unique(
            np.concatenate([np.empty(0, KEY), *names]), return_index=True
        )

    def _damage(self, file: Path, rows: int) -> str:
        """What is wrong with a file that should have so many rows; "" if nothing is."""
        expected: Any = ("float16", (rows, *self.shape))
        try:
            there = np.load(file, mmap_mode="r")
            found: Any = (str(there.dtype), there.shape)
        except (OSError, ValueError, EOFError) as error:
            found = error
        return "" if found == expected else f"{file}: expected {expected}, found {found}"

    def _map(self, number: int) -> np.ndarray:
        # As a plain array: a memmap costs ten times as much to index.
        return np.asarray(np.load(self._files[number], mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return bool(self._find([key])[0] >= 0)

    def _find(self, keys: Sequence[str]) -> np.ndarray:
        """The row number of each key, -1 where there is none."""
        at = places(self._keys, keys)
        return np.where(at < 0, -1, self._rows[at]) if len(self) else at

    def lacking(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that have no row, in order."""
        return list(compress(keys, self._find(keys) < 0))

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """float32 (n, *shape). KeyError with the command that fills the cache if a row is absent."""
        rows = self._find(keys)
        if (rows < 0).any():
            absent = keys[int(np.argmin(rows))]
            raise KeyError(
                f"{self.folder} has no row {absent}: the data changed since the embeddings were computed, or a shard "
                f"was deleted; run {self._rebuild} again"
            )
        return self._gather(rows, np.float32)

    def _gather(self, rows: np.ndarray, dtype: type) -> np.ndarray:
        """Rows by their numbers, file by file."""
        gathered: np.ndarray = np.empty((len(rows), *self.shape), dtype)
        files = np.searchsorted(self._starts, rows, side="right") - 1
        for file in set(files.tolist()):  # for a single row, half the time of np.unique
            of_it = files == file
            gathered[of_it] = self._mapped(file)[rows[of_it] - self._starts[file]]
        return gathered

    def fill(
        self,
        items: Iterable[tuple[str, Any]],
        embed: Callable[[list], np.ndarray],
        label: str,
        prepare: Callable[[Any], Any] | None = None,
        save_every: float = SAVE_EVERY,
        batch_size: int = BATCH,
    ) -> int:
        """Embeds the items (key, content) that are not there yet; returns how many those were.

        `embed` gives the rows (n, *shape) of a batch; `prepare` is applied to each item before, on threads that work
        ahead. Called by every process with the same items: the batches, which depend on the items alone, are dealt out.
        A kill loses what was computed in the last `save_every` seconds; OSError (no space) and any other end as much.
        """
        content = dict(items)
        todo = self.lacking(list(content))
        state = processes()
        batches = [todo[at : at + batch_size] for at in range(0, len(todo), batch_size)]
        own = batches[state.process_index :: state.num_processes]
        if todo and state.is_main_process:
            self._claim()
        state.wait_for_everyone()  # all have seen the same folder before one of them changes it
        chosen = (content[key] for batch in own for key in batch)
        ready = in_order(prepare, chosen, batch_size + WORKERS) if prepare else chosen
        rows = (embed(list(islice(ready, len(batch)))) for batch in own)
        self._write_parts(own, rows, label, save_every)
        state.wait_for_everyone()
        if state.is_main_process:
            self._merge(list(content))
        state.wait_for_everyone()
        self._look()
        return len(todo)

    def _claim(self) -> None:
        """Notes which model's rows this folder has, before the first are written."""
        if not self._note.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self._note, json.dumps(self._made_by))

    def _write_parts(
        self, batches: list[list[str]], rows: Iterable[np.ndarray], label: str, save_every: float
    ) -> None:
        """Writes the rows of each batch, in parts of whole batches: what is killed and begun anew has the same ones.

        Whatever ends the work early, a medium that cannot be read or an interrupt, what was computed before is kept.
        """
        done: list[tuple[list[str], np.ndarray]] = []
        size, since = 0, time.monotonic()
        total = sum(map(len, batches))
        hidden = not batches or not processes().is_local_main_process
        try:
            with tqdm(total=total, desc=label, disable=hidden) as bar:
                for batch, block in zip(batches, rows, strict=True):
                    done.append((batch, _stored(block)))
                    size += done[-1][1].nbytes
                    bar.update(len(batch))
                    if size >= _PART_BYTES or time.monotonic() - since >= save_every:
                        part, done, size, since = done, [], 0, time.monotonic()
                        self._write_part(part)
        finally:
            if done:
                self._write_part(done)

    def _write_part(self, part: list[tuple[list[str], np.ndarray]]) -> None:
        (self.folder / PARTS).mkdir(exist_ok=True)
        keys, blocks = [key for batch, _ in part for key in batch], [block for _, block in part]
        self._write(self.folder / PARTS / keys[0], keys, blocks)

    def _write(self, path: Path, keys: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
        """Writes PATH.npy and PATH.keys, both or neither."""
        if max(map(len, keys)) > KEY.itemsize:
            raise ValueError(f"a key has at most {KEY.itemsize} characters: {max(keys, key=len)}")
        file = path.with_suffix(".npy")
        shape = (len(keys), *self.shape)
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        try:
            with appearing_file(file) as beside, beside.open("wb") as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for block in blocks:
                    stream.write(block.data)
            write_file(path.with_suffix(".keys"), "\n".join(keys))
        except OSError as error:
            file.unlink(missing_ok=True)
            size, why = math.prod(shape) * 2, os.strerror(error.errno) if error.errno else error
            raise OSError(
                error.errno,
                f"{why}: {file} takes {size / 2**20:.1f} MiB; nothing that was there is lost. "
                f"Make room and run {self._rebuild} again",
            ) from error

    def _merge(self, order: Sequence[str]) -> None:
        """Moves what the parts hold of these keys into shards, in this order.

        Parts of other keys are of a fill that was killed, and stay for it.
        """
        if not (self.folder / PARTS).is_dir():
            return
        self._look()
        shards = sum(file.parent == self.folder for file in self._files)
        first = self._starts[shards]
        ordered = self._find(order)
        others = np.setdiff1d(self._rows[self._rows >= first], ordered)
        rows = ordered[ordered >= first]
        names = np.empty(self._starts[-1], KEY)
        names[self._rows] = self._keys
        step = max(1, _SHARD_BYTES // (math.prod(self.shape) * 2))
        number = 1 + max((int(keys.stem) for keys in self.folder.glob("*.keys")), default=-1)
        starts = range(0, len(rows), step)
        for at in tqdm(starts, desc=f"{self.folder.name}: shards", disable=len(starts) < 2):
            shard = rows[at : at + step]
            keys = [name.decode() for name in names[shard]]
            self._write(self.folder / f"{number:05d}", keys, self._copied(shard))
            needed = np.concatenate([rows[at + step :], others])
            self._drop_parts(range(shards, len(self._files)), needed)
            number += 1
        if not len(others):
            shutil.rmtree(self.folder / PARTS)

    def _copied(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for at in range(0, len(rows), _COPIED_ROWS):
            yield self._gather(rows[at : at + _COPIED_ROWS], np.float16)

    def _drop_parts(self, parts: range, needed: np.ndarray) -> None:
        """Deletes the parts, given as numbers of files, that hold none of the rows still needed."""
        self._mapped.cache_clear()  # a file that is mapped keeps its room on the disk
        for number in set(parts) - set(np.searchsorted(self._starts, needed, side="right") - 1):
            self._files[number].with_suffix(".keys").unlink(missing_ok=True)
            self._files[number].unlink(missing_ok=True)


def _stored(rows: np.ndarray) -> np.ndarray:
    """Rows as the files have them. ValueError if fp16 cannot hold them."""
    # By torch, which does not warn of an overflow: it is refused here.
    stored = torch.from_numpy(np.ascontiguousarray(rows)).half()
    if not stored.isfinite().all():
        raise ValueError(
            "a model gave values that are not finite in fp16: its weights are damaged, or it is none for this kit"
        )
    return stored.numpy()
