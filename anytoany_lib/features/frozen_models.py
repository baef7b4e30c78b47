"""The frozen models whose outputs training reads: the encoder, and the decoders' text encoders and autoencoders.

Filling the caches, computing on the fly and measuring what either costs all go through here. On a card the encoder and the text
encoders compute in half precision, as a reply does; autoencoders do not, of which some published ones overflow in it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anytoany_lib.config import Profile
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.decoders.denoising import LatentEncoder
from anytoany_lib.encoders.frozen import Encoder
from anytoany_lib.encoders.table import load_encoder
from anytoany_lib.media import media_files as media
from anytoany_lib.system.offloading import frozen_dtype
from anytoany_lib.system.prefetch import in_order


class FrozenModels:
    """The encoder, text encoders and autoencoders of a profile, each loaded when it is first asked for."""

    def __init__(self, profile: Profile, device: torch.device):
        self.profile, self.device = profile, device
        self._lock = threading.Lock()  # threads that prepare media ask all at once
        self._encoder: Encoder | None = None
        self._text_encoders: dict[str, CaptionEncoder] = {}
        self._autoencoders: dict[str, LatentEncoder] = {}

    @property
    def encoder(self) -> Encoder:
        """The profile's encoder."""
        with self._lock:
            if self._encoder is None:
                loaded = load_encoder(self.profile.encoder, frozen_dtype(self.device))
                self._encoder = loaded.to(self.device)
            return self._encoder

    def text_encoder(self, kind: str) -> CaptionEncoder:
        """The text encoders of a kind's decoder."""
        if kind not in self._text_encoders:
            with torch.random.fork_rng():
                dtype = frozen_dtype(self.device)
                loaded = CaptionEncoder(self.profile.decoders[kind], self.device, dtype)
            self._text_encoders[kind] = loaded
        return self._text_encoders[kind]

    def autoencoder(self, kind: str) -> LatentEncoder:
        """The autoencoder of a kind's decoder."""
        with self._lock:
            if kind not in self._autoencoders:
                with torch.random.fork_rng():
                    loaded = LatentEncoder(kind, self.profile.decoders[kind], self.device)
                self._autoencoders[kind] = loaded
            return self._autoencoders[kind]

    def release(self) -> None:
        """Lets go of what is loaded."""
        self._encoder = None
        self._text_encoders, self._autoencoders = {}, {}

    def prepared(self, kind: str, path: Path) -> torch.Tensor:
        """A media file decoded and made into the encoder's input; may run on any thread."""
        return self.encoder.prepare(kind, media.as_media(kind, path))

    def media(self, kind: str, prepared: Sequence[torch.Tensor]) -> np.ndarray:
        """What `prepared` gave of media of one kind -> float32 (n, *EncoderConfig.shape)."""
        return self.encoder.embed_prepared(kind, torch.stack(list(prepared))).numpy()

    def media_files(self, kind: str, files: Sequence[Path]) -> np.ndarray:
        """Media files of one kind as one batch, decoded on threads -> float32 (n, *EncoderConfig.shape)."""
        return self.media(kind, list(in_order(lambda file: self.prepared(kind, file), files)))

    def captions(self, kind: str, captions: Sequence[str]) -> np.ndarray:
        """Captions -> the conditions of a kind's decoder, float32 (n, *condition)."""
        return self.text_encoder(kind)(captions).cpu().numpy()

    def latents(self, kind: str, prepared: Sequence[torch.Tensor]) -> np.ndarray:
        """What a kind's autoencoder prepared of some media -> their latents, float32 (n, *latent shape)."""
        return self.autoencoder(kind)(prepared).cpu().numpy()

    def latents_of_files(self, kind: str, files: Sequence[Path]) -> np.ndarray:
        """Media files of one kind as one batch, decoded on threads -> float32 (n, *latent shape)."""
        return self.latents(kind, list(in_order(self.autoencoder(kind).prepared, files)))
