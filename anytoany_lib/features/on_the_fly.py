"""Features computed while training goes, for those who would rather compute than store.

What the caches have is read from them; the rest is computed batch by batch and forgotten. The frozen models are in
memory beside the language model then, and each epoch computes the same rows anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anytoany_lib.config import Profile
from anytoany_lib.decoders.denoising import LATENT_BATCH
from anytoany_lib.features.cache import BATCH
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.frozen_models import FrozenModels
from anytoany_lib.llm import pick_device
from anytoany_lib.modalities import MEDIA_KINDS


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
        self._media_now, self._captions_now, self._latents_now = {}, {}, {}
        for kind in MEDIA_KINDS:
            for batch in _batches(self.lacking_media(_distinct(kind, media))):
                rows = self._models.media_files(kind, [self.data / path for path in batch])
                self._media_now |= zip(batch, rows, strict=True)
            for batch in _batches(self.lacking_captions(kind, _distinct(kind, captions))):
                rows = self._models.captions(kind, batch)
                names = [(kind, text) for text in batch]
                self._captions_now |= zip(names, rows, strict=True)
            for batch in _batches(
                self.lacking_latents(kind, _distinct(kind, targets)), LATENT_BATCH
            ):
                rows = self._models.latents_of_files(kind, [self.data / path for path in batch])
                names = [(kind, path) for path in batch]
                self._latents_now |= zip(names, rows, strict=True)

    def media(self, path: str) -> np.ndarray:
        """The encoder's embedding (D,) of a medium that `ready` was told of."""
        return self._media_now[path] if path in self._media_now else super().media(path)

    def caption(self, kind: str, caption: str) -> np.ndarray:
        """The decoder's condition for a caption that `ready` was told of, (*condition)."""
        now = self._captions_now.get((kind, caption))
        return super().caption(kind, caption) if now is None else now

    def latent(self, kind: str, path: str) -> np.ndarray:
        """The decoder's latents of a medium that `ready` was told of, (*latent shape)."""
        now = self._latents_now.get((kind, path))
        return super().latent(kind, path) if now is None else now


def _distinct(kind: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(what for of_kind, what in pairs if of_kind == kind))


def _batches(items: list[str], size: int = BATCH) -> list[list[str]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
