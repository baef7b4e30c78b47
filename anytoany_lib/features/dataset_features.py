"""The caches of a dataset (see `cache`), by what its rows name: media by their paths, captions by their texts.

DATA/features/encoder           encoder embeddings, by the content of the medium (states: sequences of them)
DATA/features/captions-KIND     what a decoder's own text encoder gives, by the text
DATA/features/latents-KIND      what a decoder's autoencoder gives, if a stage of the profile has a denoising term
DATA/features/media.npy         which content each path has

Kinds whose decoders read captions alike, as pictures and clips may, have one cache between them; those of another decoder lie
beside it, with its fingerprint behind the name.

`LiveFeatures` is for those who would rather compute than store: what the caches have is read from them, the rest is computed
batch by batch and forgotten. The frozen models are in memory beside the language model then, and each epoch computes the same
rows anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from anytoany_lib.config import Profile, resolve
from anytoany_lib.decoders import adapters, denoising
from anytoany_lib.encoders.table import files_of
from anytoany_lib.features import npy_folder
from anytoany_lib.features.cache import (
    BATCH,
    CAPTION_BATCH,
    KEY,
    FeatureCache,
    folder_of,
    places,
    processes,
)
from anytoany_lib.features.frozen_models import FrozenModels
from anytoany_lib.llm import pick_device
from anytoany_lib.media import media_files as media
from anytoany_lib.modalities import SHOWN_KINDS
from anytoany_lib.system.digests import digest_of
from anytoany_lib.system.files import appearing_file
from anytoany_lib.system.prefetch import in_order


def caption_key(caption: str) -> str:
    """The cache key of a caption: 32 hex digits of its text."""
    return hashlib.blake2b(caption.encode("utf-8"), digest_size=16).hexdigest()


def fingerprint(files: Sequence[Path]) -> str:
    """A short hash of model files: their names, and every byte of them, which is read once (see `digests`)."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(f"{file.name} {digest_of(file)} ".encode())
    return digest.hexdigest()


def _encoder_cache(profile: Profile, folder: Path, rebuild: str, repair: bool) -> FeatureCache:
    """The cache of what the encoder gives: `encoder` holds pooled vectors, `states` sequences of states."""
    config = profile.encoder
    made_by = fingerprint(files_of(config))
    if config.states == "pooled":
        return FeatureCache(folder / "encoder", made_by, config.shape, rebuild, repair)
    return FeatureCache(folder / "states", f"{made_by} patches", config.shape, rebuild, repair)


class MediaKeys:
    """Which content each media path of a dataset has: two sorted columns in a file, memory-mapped."""

    def __init__(self, file: Path):
        self._file = file
        self.look()

    def look(self) -> None:
        """Reads what the file has by now."""
        there = self._file.is_file()
        # (2, paths): keys of the paths, sorted, above the keys of their contents.
        self._keys = np.load(self._file, mmap_mode="r") if there else np.empty((2, 0), KEY)

    def of(self, paths: Sequence[str]) -> list[str]:
        """The content key of each path, "" where it is not known."""
        if not self._keys.shape[1]:
            return [""] * len(paths)
        at = places(self._keys[0], [caption_key(path) for path in paths])
        contents = np.where(at < 0, b"", self._keys[1][at])
        return [key.decode() for key in contents]

    def add(self, keys: dict[str, str]) -> None:
        """Notes the content keys of paths, in place of what was known of them."""
        new = np.array([[caption_key(path) for path in keys], list(keys.values())], dtype=KEY)
        both = np.concatenate([new, self._keys], axis=1)
        _, first = np.unique(both[0], return_index=True)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with appearing_file(self._file) as beside, beside.open("wb") as stream:
            np.save(stream, both[:, first])
        self.look()


class DatasetFeatures:
    """The caches of one dataset folder, below its `features/`, and which row each media path has."""

    def __init__(self, profile: Profile, data: str | Path, repair: bool = False):
        self.profile, self.data = profile, resolve(data)
        folder = self.data / "features"
        self._rebuild = (
            f"anytoany features --profile {profile.name} --data {self.data} "
            "(or notebooks/03_embeddings.ipynb)"
        )
        self._media_keys = MediaKeys(folder / "media.npy")
        self.encoder = _encoder_cache(profile, folder, self._rebuild, repair)
        self.captions = self._side_by_side(
            "captions",
            {
                kind: (fingerprint(adapters.caption_model_files(config)), config.condition)
                for kind, config in profile.decoders.items()
            },
            repair,
        )
        self.latents = self._side_by_side(
            "latents",
            {
                # The rate says which frames of a clip are taken.
                kind: (
                    f"{fingerprint(denoising.latent_model_files(config))} {config.fps or ''}".strip(),
                    denoising.latent_shape(kind, config),
                )
                for kind, config in (profile.decoders.items() if profile.denoises else ())
            },
            repair,
        )

    def _side_by_side(
        self, sort: str, models: dict[str, tuple[str, tuple[int, ...]]], repair: bool
    ) -> dict[str, FeatureCache]:
        """A cache for each kind, by the fingerprint of what fills it and the shape of its rows; the same for the same."""
        where = self.data / "features"
        caches: dict[tuple[str, tuple[int, ...]], FeatureCache] = {}
        for kind, model in models.items():
            if model not in caches:
                folder = folder_of(where, f"{sort}-{kind}", *model)
                caches[model] = FeatureCache(folder, *model, self._rebuild, repair)
        return {kind: caches[model] for kind, model in models.items()}

    def check_captions(self) -> None:
        """ValueError if a decoder has no captions, but another one for its kind of media has: it was swapped."""
        for kind, cache in self.captions.items():
            notes = sorted(cache.folder.parent.glob(f"captions-{kind}*/cache.json"))
            others = [note for note in notes if note.parent != cache.folder]
            if not len(cache) and others:
                raise ValueError(
                    f"{cache.folder}: no captions as the {kind} decoder of profile {self.profile.name} reads them, "
                    f"{self.profile.decoders[kind].condition} each; {others[0].parent.name} is another decoder's. Run {self._rebuild}"
                )

    def ready(
        self,
        media: Sequence[tuple[str, str]],
        captions: Sequence[tuple[str, str]],
        targets: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Announces a batch's media (kind, path), captions (kind, caption) and media whose latents it needs, before they are
        asked for one by one.

        What lies at a URL comes with a round of requests for each cache; `LiveFeatures` computes what no cache has.
        """
        if self.encoder.away:
            self.encoder.read_ahead(self._media_keys.of([path for _, path in media]))
        for kind, cache in self.captions.items():
            if cache.away:
                cache.read_ahead([caption_key(text) for of, text in captions if of == kind])
        for kind, cache in self.latents.items():
            if cache.away:
                paths = [path for of, path in targets if of == kind]
                cache.read_ahead(self._media_keys.of(paths))

    def media(self, path: str) -> np.ndarray:
        """What the encoder gives of a medium, (*EncoderConfig.shape), by its path in the manifest."""
        return self.encoder.get([self._key(path)])[0]

    def _key(self, path: str) -> str:
        key = self._media_keys.of([path])[0]
        if not key:
            raise KeyError(f"{self.data}: no embedding of {path}; run {self._rebuild}")
        return key

    def latent(self, kind: str, path: str) -> np.ndarray:
        """The decoder's latents (*latent shape) of a medium that is to be generated, by its path in the manifest."""
        return self.latents[kind].get([self._key(path)])[0]

    def caption(self, kind: str, caption: str) -> np.ndarray:
        """The decoder's condition for a caption, (*condition)."""
        return self.captions[kind].get([caption_key(caption)])[0]

    def lacking_media(self, paths: Sequence[str]) -> list[str]:
        """Those of the media paths whose embedding is not cached."""
        return self._lacking(self.encoder, paths)

    def lacking_latents(self, kind: str, paths: Sequence[str]) -> list[str]:
        """Those of the media paths whose latents are not cached."""
        return self._lacking(self.latents[kind], paths) if paths else []

    def _lacking(self, cache: FeatureCache, paths: Sequence[str]) -> list[str]:
        keys = self._media_keys.of(paths)
        lacking = set(cache.lacking(keys))
        return [path for path, key in zip(paths, keys, strict=True) if key in lacking]

    def lacking_captions(self, kind: str, captions: Sequence[str]) -> list[str]:
        """Those of the captions whose condition is not cached."""
        by_key = {caption_key(caption): caption for caption in captions}
        if not by_key:
            return []  # of a kind, perhaps, that the profile has no decoder for
        return [by_key[key] for key in self.captions[kind].lacking(list(by_key))]

    def fill_media(
        self, kind: str, paths: dict[str, str | None], models: FrozenModels, save_every: float
    ) -> int:
        """Embeds media of a kind (path -> content key if known); returns how many were new."""
        return self.encoder.fill(
            self._keyed(kind, paths),
            lambda prepared: models.media(kind, prepared),
            f"{kind}s embedded",
            lambda path: models.prepared(kind, path),
            save_every,
        )

    def fill_latents(
        self, kind: str, paths: dict[str, str | None], models: FrozenModels, save_every: float
    ) -> int:
        """Encodes media of a kind (path -> content key if known) as its decoder's latents; returns how many were new."""
        return self.latents[kind].fill(
            self._keyed(kind, paths),
            lambda prepared: models.latents(kind, prepared),
            f"{kind}s as latents",
            lambda path: models.autoencoder(kind).prepared(path),
            save_every,
            denoising.LATENT_BATCH,
        )

    def _keyed(self, kind: str, paths: dict[str, str | None]) -> list[tuple[str, Path]]:
        """(content key, file) of every path. Keys are noted; files of which no one knows it are read."""
        state = processes()
        if state.is_main_process:
            noted = self._media_keys.of(list(paths))
            keys = {p: known or old for (p, known), old in zip(paths.items(), noted, strict=True)}
            unread = [path for path, key in keys.items() if not key]
            read = in_order(lambda path: media.content_key(kind, self.data / path), unread)
            bar = tqdm(read, desc=f"{kind}s read", total=len(unread), disable=not unread)
            keys |= dict(zip(unread, bar, strict=True))
            if list(keys.values()) != noted:
                self._media_keys.add(keys)
        state.wait_for_everyone()
        self._media_keys.look()
        contents = self._media_keys.of(list(paths))
        return [(key, self.data / path) for key, path in zip(contents, paths, strict=True)]

    def fill_captions(
        self, kind: str, captions: Iterable[str], models: FrozenModels, save_every: float
    ) -> int:
        """Embeds captions for the decoder of a kind; returns how many were new."""
        return self.captions[kind].fill(
            ((caption_key(text), text) for text in captions),
            lambda batch: models.captions(kind, batch),
            f"{kind} captions embedded",
            save_every=save_every,
            batch_size=CAPTION_BATCH,
        )

    def take_over(
        self, kind: str, files: dict[str, Path], models: FrozenModels, save_every: float
    ) -> int:
        """Takes caption embeddings of a kind (caption -> .npy file) from elsewhere; returns how many were new.

        ValueError if one has another shape than the decoder's, or if they are another model's.
        """
        shape = self.captions[kind].shape
        npy_folder.check_model(files, shape, lambda captions: models.captions(kind, captions))
        return self.captions[kind].fill(
            ((caption_key(text), file) for text, file in files.items()),
            np.stack,
            f"{kind} captions taken over",
            lambda file: npy_folder.read(file, shape),
            save_every,
        )


class LiveFeatures(DatasetFeatures):
    """A dataset's caches, and the models that compute what those lack."""

    def __init__(self, profile: Profile, data: str | Path):
        super().__init__(profile, data)
        self._models = FrozenModels(profile, pick_device())
        self._media_now: dict[str, np.ndarray] = {}
        self._captions_now: dict[tuple[str, str], np.ndarray] = {}
        self._latents_now: dict[tuple[str, str], np.ndarray] = {}

    def ready(
        self,
        media: Sequence[tuple[str, str]],
        captions: Sequence[tuple[str, str]],
        targets: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Computes what a batch needs and the caches lack; what was computed for the one before is forgotten."""
        super().ready(media, captions, targets)
        self._media_now, self._captions_now, self._latents_now = {}, {}, {}
        for kind in SHOWN_KINDS:
            for batch in _batches(self.lacking_media(_distinct(kind, media))):
                rows = self._models.media_files(kind, [self.data / path for path in batch])
                self._media_now |= zip(batch, rows, strict=True)
            for batch in _batches(self.lacking_captions(kind, _distinct(kind, captions))):
                rows = self._models.captions(kind, batch)
                names = [(kind, text) for text in batch]
                self._captions_now |= zip(names, rows, strict=True)
            for batch in _batches(
                self.lacking_latents(kind, _distinct(kind, targets)), denoising.LATENT_BATCH
            ):
                rows = self._models.latents_of_files(kind, [self.data / path for path in batch])
                names = [(kind, path) for path in batch]
                self._latents_now |= zip(names, rows, strict=True)

    def media(self, path: str) -> np.ndarray:
        """What the encoder gives of a medium that `ready` has seen."""
        return self._media_now[path] if path in self._media_now else super().media(path)

    def caption(self, kind: str, caption: str) -> np.ndarray:
        """The decoder's condition for a caption that `ready` has seen, (*condition)."""
        now = self._captions_now.get((kind, caption))
        return super().caption(kind, caption) if now is None else now

    def latent(self, kind: str, path: str) -> np.ndarray:
        """The decoder's latents of a medium that `ready` has seen, (*latent shape)."""
        now = self._latents_now.get((kind, path))
        return super().latent(kind, path) if now is None else now


def _distinct(kind: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The paths or captions of one kind, each once."""
    return list(dict.fromkeys(name for of_kind, name in pairs if of_kind == kind))


def _batches(items: list[str], size: int = BATCH) -> list[list[str]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
