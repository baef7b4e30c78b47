"""What every encoder does for the rest of the kit, and how those made of transformers' models are loaded.

`Encoder` is what is asked for; of it `InBatches` has what all share. A `FrozenEncoder` adds two things to a model: how a medium
becomes its input, and what it makes of a batch. Axes: B media, L states, D the encoder's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm.auto import tqdm

from anytoany_lib.config import EncoderConfig
from anytoany_lib.encoders.sequences import of_length
from anytoany_lib.gates.foreign_code import without_code
from anytoany_lib.system.files import read_json
from anytoany_lib.system.offloading import bytes_of
from anytoany_lib.system.out_of_memory import Portions

AT_ONCE_BYTES = 2**30  # of activations: ViT-H keeps a card busy with that, a CPU has it to spare
LIVE_WIDTHS = 13  # of a token: what a transformer's block holds at once, counted layer by layer
NAMED = 5  # weights in a message


class Encoder(Protocol):
    """A frozen encoder, as features, replies and memory use it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""

    def to(self, device: torch.device) -> Any:
        """Moves it there."""

    def prepare(self, kind: str, medium: Any) -> Tensor:
        """A medium in the form of `media_files.as_media` as the model's input, without the batch axis; on any thread."""

    def embed_prepared(self, kind: str, x: Tensor) -> Tensor:
        """What `prepare` gave of media of one kind, stacked -> (B, *EncoderConfig.shape) float32 on the CPU."""

    def embed(
        self, kind: str, media: Sequence[Any], batch_size: int = 16, progress: bool = False
    ) -> Tensor:
        """Media of one kind -> (B, *EncoderConfig.shape) float32 on the CPU."""

    def working_bytes(self, kind: str, count: int) -> int:
        """Bytes that `embed` takes beside the weights for so many media of a kind."""


class Seen(NamedTuple):
    """What a model makes of a batch: vectors (B, D) and states (B, L, D), of which the first `counts` of each row count."""

    pooled: Tensor
    states: Tensor
    counts: Sequence[int] | None = None


class InBatches(nn.Module):
    """An encoder of media one batch after the other; a subclass says `shape`, `prepare`, `embed_prepared` and `row_bytes`."""

    def __init__(self) -> None:
        super().__init__()
        self._portions = Portions(AT_ONCE_BYTES)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what `embed` gives of a medium."""
        raise NotImplementedError

    def prepare(self, kind: str, medium: Any) -> Tensor:
        """See `Encoder`."""
        raise NotImplementedError

    def embed_prepared(self, kind: str, x: Tensor) -> Tensor:
        """See `Encoder`."""
        raise NotImplementedError

    def row_bytes(self, kind: str) -> int:
        """Bytes that the activations of one medium of a kind take, in the type of the weights."""
        raise NotImplementedError

    @property
    def itemsize(self) -> int:
        """Bytes of a weight."""
        return next(self.parameters()).dtype.itemsize

    def prepared(self, kind: str, media: Sequence[Any]) -> Tensor:
        """Media of one kind as a batch for `embed_prepared`."""
        return torch.stack([self.prepare(kind, medium) for medium in media])

    def embed(
        self, kind: str, media: Sequence[Any], batch_size: int = 16, progress: bool = False
    ) -> Tensor:
        """Media of one kind -> (B, *shape) float32 on the CPU. Runs where the weights are.

        `batch_size` is how many are prepared at once, of which those go together that memory has room for.
        """
        rows = []
        starts = range(0, len(media), batch_size)
        for start in tqdm(starts, desc=f"embed {kind}", disable=not progress):
            batch = self.prepared(kind, media[start : start + batch_size])
            rows.append(self.embed_prepared(kind, batch))
        return torch.cat(rows) if rows else torch.empty(0, *self.shape)

    def working_bytes(self, kind: str, count: int) -> int:
        """Bytes that `embed` takes beside the weights for so many media of a kind."""
        each = self.row_bytes(kind)
        return max(each, min(count * each, AT_ONCE_BYTES))

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return bytes_of(self)


class FrozenEncoder(InBatches):
    """An encoder of transformers' models; a subclass says `width`, `prepare`, `look` and `row_bytes`."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config

    @property
    def shape(self) -> tuple[int, ...]:
        """As the profile says."""
        return self.config.shape

    @property
    def width(self) -> int:
        """Of its vectors and of its states."""
        raise NotImplementedError

    def look(self, kind: str, x: Tensor) -> Seen:
        """A batch of prepared media through the model."""
        raise NotImplementedError

    @torch.inference_mode()
    def embed_prepared(self, kind: str, x: Tensor) -> Tensor:
        """See `Encoder`; as many at once as `AT_ONCE_BYTES` allow, fewer where the device has no room."""
        like = next(self.parameters())

        def embedded(rows: Tensor) -> Tensor:
            seen = self.look(kind, rows.to(like.device, like.dtype))
            if self.config.states == "pooled":
                return seen.pooled.float()
            return of_length(seen.states.float(), self.config.length, seen.counts)

        return self._portions(kind, x, self.row_bytes(kind), embedded)


def check_folder(folder: Path, model_type: str) -> None:
    """FileNotFoundError if a file is missing, ValueError if the folder is another model's or names code."""
    for needed in (folder / "config.json", folder / "preprocessor_config.json"):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{needed} is missing: anytoany fetch gets the models of a profile"
            )
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} has no weights: expected model.safetensors")
    found = read_json(without_code(folder) / "config.json").get("model_type")
    if found != model_type:
        raise ValueError(f"{folder} is a {found!r} by its config.json, expected {model_type!r}")


def load_frozen(cls: Any, folder: Path, model_type: str, dtype: torch.dtype) -> Any:
    """A transformers model from the safetensors in a local folder, in evaluation mode, without gradients.

    Raises what `check_folder` does, and ValueError if the weights cannot be read or lack some, which are named. Nothing is
    downloaded, and no code of the folder's runs.
    """
    check_folder(folder, model_type)
    try:
        model, report = cls.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
        )
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: its weights cannot be loaded: {error}") from error
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(
            f"{folder} lacks {len(lacking)} weights of its model: {', '.join(lacking[:NAMED])}; get it again"
        )
    return model.requires_grad_(False).eval()
