"""The frozen models beside the language model: the encoder that sees and hears, and the decoders that make media.

Media go in, embeddings come out; conditions go in, media come out. Every model loads on first use and stays, on the device or, where
that is full, in host memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

from anytoany_lib.config import Profile
from anytoany_lib.decoders.pipelines import Decoder, DiffusionSettings
from anytoany_lib.encoders.frozen import Encoder
from anytoany_lib.encoders.table import load_encoder
from anytoany_lib.media import media_files
from anytoany_lib.system.background import Worker
from anytoany_lib.system.offloading import HOST, Residence, frozen_dtype

_EMBEDDINGS_KEPT = 512


class MediaModels:
    """Encoder and decoders of a profile, which take turns on the device of its language model.

    They serve one caller at a time. What replies need of them is done by `worker`, one thread, in order: a reply that was
    stopped leaves its work there, and the next one's comes after it.
    """

    def __init__(self, profile: Profile, device: torch.device):
        self._profile, self._dtype = profile, frozen_dtype(device)
        self._encoder: Encoder | None = None
        self._decoders: dict[str, Decoder] = {}
        self._embeddings: dict[str, torch.Tensor] = {}  # by content key, the last used at the end
        self._residence = Residence(device)
        self._lock = threading.RLock()
        self.worker = Worker()

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder, loaded on first use."""
        if self._encoder is None:
            self._encoder = load_encoder(self._profile.encoder, self._dtype)
        return self._encoder

    def decoder(self, kind: str) -> Decoder:
        """The frozen decoder of a kind, loaded into host memory on first use; `render` takes it to the device."""
        if kind not in self._decoders:
            self._decoders[kind] = Decoder(self._profile.decoders[kind], HOST, self._dtype)
        return self._decoders[kind]

    def loaded(self, what: str) -> bool:
        """Whether the "encoder", or the decoder of a kind of medium, has been loaded."""
        return self._encoder is not None if what == "encoder" else what in self._decoders

    def knows(self, key: str | None) -> bool:
        """Whether the embedding of the medium with this content key is at hand."""
        return key in self._embeddings

    def embed(
        self, items: Sequence[tuple[str, Any]], keys: Sequence[str] | None = None
    ) -> torch.Tensor:
        """(kind, medium) pairs -> what the encoder gives (M, *EncoderConfig.shape); media seen before are not encoded again.

        `keys` are the media's content keys, where the caller has them. MediaError if a medium cannot be read.
        """
        if not items:
            return torch.empty(0, *self._profile.encoder.shape)
        if keys is None:
            keys = [media_files.content_key(kind, item) for kind, item in items]
        known = {key: self._embeddings[key] for key in keys if key in self._embeddings}
        for kind in dict.fromkeys(kind for kind, _ in items):
            new = {
                key: item
                for key, (k, item) in zip(keys, items, strict=True)
                if k == kind and key not in known
            }
            if new:
                known.update(zip(new, self._encode(kind, new.values()), strict=True))
        self._embeddings.update((key, known[key]) for key in keys)
        for key in list(self._embeddings)[:-_EMBEDDINGS_KEPT]:
            self._embeddings.pop(key, None)
        return torch.stack([known[key] for key in keys])

    def _encode(self, kind: str, items: Iterable[Any]) -> torch.Tensor:
        """Media of one kind through the encoder."""
        media = [media_files.as_media(kind, item) for item in items]
        with self._lock:
            encoder = self.encoder
            working = encoder.working_bytes(kind, len(media))
            work = partial(encoder.embed, kind, media)
            return self._residence.run("encoder", encoder, work, working)

    def render(
        self,
        kind: str,
        conditions: torch.Tensor,
        seeds: Sequence[int],
        *settings: Any,
        **named: Any,
    ) -> list[dict[str, Any]]:
        """Conditions (B, *condition) and a seed each -> B media. Settings and media are those of `Decoder.generate`."""
        chosen = DiffusionSettings(*settings, **named)
        with self._lock:
            decoder = self.decoder(kind)
            work = partial(decoder.generate, conditions, seeds, **vars(chosen))
            working = decoder.working_bytes(len(seeds), chosen.frames, chosen.seconds)
            return self._residence.run(kind, decoder, work, working)

    def make_room(self) -> None:
        """Leaves the device to the language model alone: encoder and decoders come back when they are needed."""
        with self._lock:
            self._residence.leave()
