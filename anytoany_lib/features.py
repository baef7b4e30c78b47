"""Caches of what frozen models give: encoder embeddings of media and caption embeddings for the decoders.

A cache is a folder of a few shards: `00000.npy` (fp16, one row per distinct content) and `00000.keys` (one key a
line, written last, so a shard without keys does not exist). `cache.json` holds the fingerprint of the model that made
the rows. `python -m anytoany_lib.features --profile P --data OUT` fills all caches of a dataset below OUT/features.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from anytoany_lib import decoders, media
from anytoany_lib.config import Profile, resolve
from anytoany_lib.data import Row, read_manifest, splits_in
from anytoany_lib.imagebind import ImageBind
from anytoany_lib.llm import pick_device
from anytoany_lib.messages import parts_of
from anytoany_lib.modalities import MEDIA_KINDS
from anytoany_lib.runs import write_file

_SHARD_ROWS = 8192
_BATCH = 32
_FINGERPRINT_BYTES = 2**20


def caption_key(caption: str) -> str:
    """The cache key of a caption: 32 hex digits of its text."""
    return hashlib.blake2b(caption.encode("utf-8"), digest_size=16).hexdigest()


class FeatureCache:
    """Rows of one shape in a folder, looked up by content key, memory-mapped.

    Raises ValueError if the folder was filled by another model (fingerprint) or holds another shape.
    """

    def __init__(self, folder: Path, fingerprint: str, shape: tuple[int, ...]):
        self.folder, self.shape = folder, tuple(shape)
        made_by = {"fingerprint": fingerprint, "shape": list(shape)}
        note = folder / "cache.json"
        if note.is_file():
            found = json.loads(note.read_text())
            if found != made_by:
                raise ValueError(
                    f"{folder} was made by another model: expected {made_by}, found {found}. Delete that folder "
                    "and rebuild it with python -m anytoany_lib.features (or notebooks/03_embeddings.ipynb)"
                )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(note, json.dumps(made_by))
        self._shards: list[np.ndarray] = []
        self._places: dict[str, tuple[int, int]] = {}
        for keys in sorted(folder.glob("*.keys")):
            self._open(keys)

    def _open(self, keys: Path) -> None:
        rows = np.load(keys.with_suffix(".npy"), mmap_mode="r")
        names = keys.read_text().split()
        if rows.shape != (len(names), *self.shape):
            raise ValueError(
                f"{keys.with_suffix('.npy')}: expected {(len(names), *self.shape)}, found {rows.shape}; delete "
                "both files of this shard and run python -m anytoany_lib.features again"
            )
        self._places.update({name: (len(self._shards), row) for row, name in enumerate(names)})
        self._shards.append(rows)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def append(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Writes a new shard: rows (n, *shape), stored as fp16."""
        number = len(self._shards)
        path = self.folder / f"{number:05d}.npy"
        beside = path.with_suffix(".part.npy")
        np.save(beside, np.ascontiguousarray(rows, dtype=np.float16))
        beside.replace(path)
        write_file(path.with_suffix(".keys"), "\n".join(keys))
        self._open(path.with_suffix(".keys"))

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """float32 (n, *shape). KeyError with the command that fills the cache if a row is absent."""
        rows = np.empty((len(keys), *self.shape), dtype=np.float32)
        for at, key in enumerate(keys):
            if key not in self._places:
                raise KeyError(
                    f"{self.folder} has no row {key}: the data changed since the embeddings were computed; "
                    "run python -m anytoany_lib.features (or notebooks/03_embeddings.ipynb) again"
                )
            shard, row = self._places[key]
            rows[at] = self._shards[shard][row]
        return rows

    def fill(
        self, items: Iterable[tuple[str, Any]], embed: Callable[[list], np.ndarray], label: str
    ) -> int:
        """Embeds the items (key, content) that are not there yet, shard by shard; returns how many were added."""
        todo = [(key, item) for key, item in dict(items).items() if key not in self]
        with tqdm(total=len(todo), desc=label, disable=not todo) as bar:
            for start in range(0, len(todo), _SHARD_ROWS):
                shard = todo[start : start + _SHARD_ROWS]
                rows = []
                for first in range(0, len(shard), _BATCH):
                    batch = [item for _, item in shard[first : first + _BATCH]]
                    rows.append(embed(batch))
                    bar.update(len(batch))
                self.append([key for key, _ in shard], np.concatenate(rows))
        return len(todo)


def fingerprint(files: Sequence[Path]) -> str:
    """A short hash of model files: names, sizes, and a MiB from either end of each.

    Reading the ends alone takes milliseconds where the weights are gigabytes, and tells two trainings apart.
    """
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_FINGERPRINT_BYTES))
            stream.seek(max(0, size - _FINGERPRINT_BYTES))
            digest.update(stream.read())
    return digest.hexdigest()


def _encoder_files(profile: Profile) -> list[Path]:
    path = resolve(profile.encoder.folder)
    files = (
        sorted(path.glob("*.safetensors")) + sorted(path.glob("config.json"))
        if path.is_dir()
        else [path]
    )
    if not files or not files[0].is_file():
        raise FileNotFoundError(
            f"no ImageBind in {path}: run notebooks/01_checkpoints.ipynb, or set encoder.folder in the profile"
        )
    return files


class DatasetFeatures:
    """The caches of one dataset folder, below its `features/`, and which row each media path has."""

    def __init__(self, profile: Profile, data: str | Path):
        self.profile, self.data = profile, resolve(data)
        self._folder = self.data / "features"
        self._names = self._folder / "media.json"
        self._keys: dict[str, str] = (
            json.loads(self._names.read_text()) if self._names.is_file() else {}
        )
        self.encoder = FeatureCache(
            self._folder / "encoder",
            fingerprint(_encoder_files(profile)),
            (profile.encoder.embedding,),
        )
        self.captions = {
            kind: FeatureCache(
                self._folder / f"captions-{kind}",
                fingerprint(decoders.caption_model_files(config)),
                config.condition,
            )
            for kind, config in profile.decoders.items()
        }

    def media(self, path: str) -> np.ndarray:
        """The encoder's embedding (D,) of a medium, by its path in the manifest."""
        if path not in self._keys:
            raise KeyError(
                f"{self.data}: no embedding of {path}; run python -m anytoany_lib.features "
                f"--profile {self.profile.name} --data {self.data} (or notebooks/03_embeddings.ipynb)"
            )
        return self.encoder.get([self._keys[path]])[0]

    def caption(self, kind: str, caption: str) -> np.ndarray:
        """The decoder's condition for a caption, (*condition)."""
        return self.captions[kind].get([caption_key(caption)])[0]

    def fill_media(self, paths: dict[str, list[str]], device: torch.device) -> int:
        """Embeds the media (kind -> paths below the dataset); returns how many were new."""
        encoder = ImageBind.from_checkpoint(
            resolve(self.profile.encoder.folder), senses=("vision", "audio")
        )
        encoder.to(device)
        added = 0
        for kind, names in paths.items():
            for name in names:
                self._keys.setdefault(name, media.content_key(kind, self.data / name))
            write_file(self._names, json.dumps(self._keys))

            def embed(batch: list[Path], kind: str = kind) -> np.ndarray:
                loaded = [media.as_media(kind, path) for path in batch]
                return encoder.embed(kind, loaded, batch_size=_BATCH).numpy()

            items = ((self._keys[name], self.data / name) for name in names)
            added += self.encoder.fill(items, embed, f"{kind}s embedded")
        return added

    def fill_captions(self, captions: dict[str, Sequence[str]], device: torch.device) -> int:
        """Embeds the captions (kind of decoder -> captions); returns how many were new."""
        added = 0
        for kind, texts in captions.items():
            encode = decoders.CaptionEncoder(self.profile.decoders[kind], device)
            items = ((caption_key(text), text) for text in texts)
            added += self.captions[kind].fill(
                items,
                lambda batch, encode=encode: encode(batch).cpu().numpy(),
                f"{kind} captions embedded",
            )
        return added


def contents(rows: Iterable[Row]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What the rows of a manifest need embedded: ({kind: media paths}, {kind: captions to generate from})."""
    paths: dict[str, dict[str, None]] = {kind: {} for kind in MEDIA_KINDS}
    captions: dict[str, dict[str, None]] = {kind: {} for kind in MEDIA_KINDS}
    for row in rows:
        if "caption" in row.meta:
            captions[row.meta["kind"]][row.meta["caption"]] = None
        for message in row.messages:
            for part in parts_of(message):
                kind = part["type"]
                if kind in MEDIA_KINDS and message["role"] == "assistant":
                    captions[kind][part["caption"]] = None
                elif kind in MEDIA_KINDS:
                    paths[kind][part[kind]] = None
    return {k: list(v) for k, v in paths.items()}, {k: list(v) for k, v in captions.items()}


def precompute(profile: Profile, data: str | Path) -> dict[str, int]:
    """Fills the caches of a dataset for its training and validation rows; returns the number of new rows of each sort.

    Interrupted work goes on where it was: what is cached is not computed again.
    """
    store = DatasetFeatures(profile, data)
    rows = [
        row
        for split in splits_in(store.data)
        if split != "test"
        for row in read_manifest(store.data, split)
    ]
    paths, captions = contents(rows)
    unknown = {kind for kind, texts in captions.items() if texts} - set(profile.decoders)
    if unknown:
        raise ValueError(
            f"the data generates {', '.join(unknown)}, profile {profile.name} has no decoder for it"
        )
    device = pick_device()
    return {
        "media": store.fill_media(paths, device),
        "captions": store.fill_captions({k: v for k, v in captions.items() if v}, device),
    }


def main() -> None:
    """Command line: fill the caches of a dataset."""
    parser = argparse.ArgumentParser(description=precompute.__doc__.splitlines()[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--data", required=True, help="folder with the manifests")
    arguments = parser.parse_args()
    print(json.dumps(precompute(Profile.load(arguments.profile), arguments.data)))


if __name__ == "__main__":
    main()
