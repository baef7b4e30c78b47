"""ImageBind, written anew: six senses in one embedding space, frozen ears and eyes of the kit.

`ImageBind.huge()` has the published model's parameters under their published names, so
`imagebind_huge.pth` loads as it is; `from_checkpoint` reads that file or a folder (config.json,
model.safetensors, for text CLIP's words, see `clip_vocabulary`). `forward` maps prepared tensors to embeddings,
`embed` maps media to embeddings. Numbers follow the reference implementation (CC-BY-NC-SA 4.0,
facebookresearch/ImageBind), no line of which is used here. Only inference is meant: the
reference's stochastic depth, which has no parameters, is left out.
Legend: B batch, S clips, L tokens, W width, D embedding.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from anytoany_lib.encoders import clip_vocabulary
from anytoany_lib.encoders.frozen import LIVE_WIDTHS, InBatches
from anytoany_lib.encoders.imagebind_inputs import (
    HUGE,
    SENSE_OF_KIND,
    ImageBindConfig,
    prepare,
    tokens_of,
)
from anytoany_lib.encoders.imagebind_layers import Trunk, head, postprocessor, preprocessor
from anytoany_lib.system.files import appearing_whole
from anytoany_lib.system.runs import compare

PARTS = ("modality_preprocessors", "modality_trunks", "modality_heads", "modality_postprocessors")
GET_IT = "run notebooks/01_checkpoints.ipynb, which gets the models a profile needs"


class ImageBind(InBatches):
    """See the module's docstring. `tokenizer` is None unless the checkpoint's folder has one."""

    def __init__(self, config: ImageBindConfig):
        super().__init__()
        self.config = config
        self.tokenizer: CLIPTokenizer | None = None
        self._file: Path | None = None
        senses = config.senses()
        self.modality_preprocessors = nn.ModuleDict(
            {name: preprocessor(name, sense, config) for name, sense in senses.items()}
        )
        self.modality_trunks = nn.ModuleDict(
            {name: Trunk(name, sense) for name, sense in senses.items()}
        )
        self.modality_heads = nn.ModuleDict(
            {name: head(name, sense, config.embed_dim) for name, sense in senses.items()}
        )
        self.modality_postprocessors = nn.ModuleDict(
            {name: postprocessor(name, sense) for name, sense in senses.items()}
        )

    @classmethod
    def huge(cls) -> ImageBind:
        """The published architecture with random weights: 1,200.78 M parameters, six senses."""
        return cls(HUGE)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike,
        senses: Iterable[str] | None = None,
        dtype: torch.dtype = torch.float32,
        words: Sequence[Path] = (),
    ) -> ImageBind:
        """Weights from a folder written by `save`, or from the published `imagebind_huge.pth`.

        `senses` keeps only these (all keys are checked all the same; what is left out is not read
        into memory). CLIP's words are taken from beside the weights, else from the first of the
        folders `words` that has them. Evaluation mode, CPU. Raises FileNotFoundError if nothing is there,
        ValueError for a damaged file and for missing, surplus or misshapen tensors, naming them.
        """
        config, weights, file = _read(Path(path))
        with torch.device("meta"):
            model = cls(config)
        compare(model.state_dict(), weights, f"{file} does not fit this ImageBind")
        model.keep_senses(set(config.senses() if senses is None else senses))
        kept = {name: weights[name].to(dtype) for name in model.state_dict()}
        model.load_state_dict(kept, assign=True)
        there = clip_vocabulary.find(file.parent, words, config.vocab_size)
        model.tokenizer = there and CLIPTokenizer.from_pretrained(there)
        model._file = file
        return model.requires_grad_(False).eval()

    def keep_senses(self, senses: set[str]) -> None:
        """Drops the parts of all other senses. ValueError if one is not there."""
        if unknown := senses - self.config.senses().keys():
            raise ValueError(
                f"no such sense: {sorted(unknown)}; there are {list(self.modality_trunks)}"
            )
        for name in self.config.senses().keys() - senses:
            for part in PARTS:
                del getattr(self, part)[name]

    def save(self, folder: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
        """Write config.json, model.safetensors and the tokenizer; the folder appears whole."""
        with appearing_whole(Path(folder)) as new:
            weights = {name: t.detach().to(dtype).clone() for name, t in self.state_dict().items()}
            safetensors.torch.save_file(weights, new / "model.safetensors")
            text = self.config.model_dump_json(indent=2)
            (new / "config.json").write_text(text + "\n", encoding="utf-8")
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(new)
                self.tokenizer.backend_tokenizer.model.save(str(new))  # vocab.json, merges.txt

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with the weights or the configuration: a key for caches.

        Of the file a checkpoint came from (read once, on first use), else of the tensors.
        """
        digest = hashlib.blake2b(self.config.model_dump_json().encode(), digest_size=16)
        if self._file is not None:
            with self._file.open("rb") as stream:
                while block := stream.read(1 << 24):
                    digest.update(block)
        else:
            for name, tensor in self.state_dict().items():
                digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings (B, D) of each sense given, in the published scale.

        vision (B, 3, H, W) or (B, S, 3, T, H, W); audio (B, S, 1, mel, F) or (B, 1, mel, F);
        text (B, L) ids; depth, thermal (B, 1, H, W); imu (B, 6, 2000). Five axes or more mean
        clips, whose embeddings are averaged. Vision has length 1; other senses are scaled.
        """
        return {name: self._encode(name, value) for name, value in inputs.items()}

    def _encode(self, name: str, x: Tensor) -> Tensor:
        if name not in self.modality_trunks:
            raise KeyError(f"this ImageBind has {list(self.modality_trunks)}, not {name!r}")
        clips = x.shape[:2] if x.ndim >= 5 else None
        if clips is not None:
            x = x.flatten(0, 1)
        tokens = self.modality_trunks[name](self.modality_preprocessors[name](x))
        ends = (x.argmax(dim=-1),) if name == "text" else ()  # the end token has the highest id
        embedding = self.modality_heads[name](tokens, *ends)
        embedding = self.modality_postprocessors[name](embedding)
        return embedding if clips is None else embedding.unflatten(0, clips).mean(dim=1)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> ids (B, context length), cut if longer, zeros after the end token."""
        if self.tokenizer is None:
            raise ValueError(clip_vocabulary.lacking("this ImageBind", self.config.vocab_size))
        length = self.config.context_length
        rows = self.tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what `embed` gives of a medium: (D,)."""
        return (self.config.embed_dim,)

    def prepared(self, kind: str, media: Sequence[Any]) -> Tensor:
        """Media of one of the kinds in SENSE_OF_KIND, texts as strings, as a batch. ValueError if there is no such kind."""
        if kind not in SENSE_OF_KIND:
            raise ValueError(f"kind must be one of {list(SENSE_OF_KIND)}, not {kind!r}")
        return self.tokenize(media) if kind == "text" else super().prepared(kind, media)

    def prepare(self, kind: str, medium: Any) -> Tensor:
        """One medium as `embed_prepared` takes it, but for the batch axis."""
        return prepare(self.config, kind, medium)

    @torch.inference_mode()
    def embed_prepared(self, kind: str, x: Tensor) -> Tensor:
        """What `prepare` gave of media of one kind, stacked (or token ids) -> (B, D) float32 on the CPU.

        As many at once as `AT_ONCE_BYTES` of activations allow, fewer where the device has no room.
        """
        sense, like = SENSE_OF_KIND[kind], next(self.parameters())

        def embedded(rows: Tensor) -> Tensor:
            rows = rows.to(like.device, like.dtype if rows.is_floating_point() else None)
            return self({sense: rows})[sense].float()

        return self._portions(kind, x, self.row_bytes(kind), embedded)

    def row_bytes(self, kind: str) -> int:
        """Bytes that the activations of one medium of a kind take, in the type of the weights."""
        config = self.config
        sense, tokens = config.senses()[SENSE_OF_KIND[kind]], tokens_of(config, kind)
        return tokens * sense.width * LIVE_WIDTHS * self.itemsize


def _read(path: Path) -> tuple[ImageBindConfig, dict[str, Tensor], Path]:
    """Configuration, state dict and weights file of a folder or of the published .pth."""
    if path.is_dir():
        config_file, file = path / "config.json", path / "model.safetensors"
        for needed in (config_file, file):
            if not needed.is_file():
                raise FileNotFoundError(f"{needed} is missing: {GET_IT}")
    elif path.is_file():
        file = path
    else:
        raise FileNotFoundError(f"ImageBind weights not found at {path}: {GET_IT}")
    config = config_of(path)
    try:
        if file.suffix == ".safetensors":
            weights = safetensors.torch.load_file(file)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise ValueError(f"{file} is cut off or not a weights file ({error}): {GET_IT}") from error
    return config, weights, file


def check_words(path: str | os.PathLike, words: Sequence[Path]) -> None:
    """ValueError, which says what to do, if texts could not be read by the weights in `path` and the words in `words`.

    FileNotFoundError or ValueError if the weights are not there or damaged. None of them is read.
    """
    config, _, file = _read(Path(path))
    if clip_vocabulary.find(file.parent, words, config.vocab_size) is None:
        raise ValueError(clip_vocabulary.lacking(f"{path}: this ImageBind", config.vocab_size))


def config_of(path: Path) -> ImageBindConfig:
    """Of a folder, by its config.json; of a .pth, by the .json of its name beside it, else the published sizes."""
    file = path / "config.json" if path.is_dir() else path.with_suffix(".json")
    if path.is_file() and not file.is_file():
        return HUGE
    return ImageBindConfig.model_validate_json(file.read_text(encoding="utf-8"))


def expected_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Every tensor that a folder or a .pth must have, by its configuration."""
    with torch.device("meta"):
        state = ImageBind(config_of(path)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
