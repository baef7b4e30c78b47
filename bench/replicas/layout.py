"""What a repository is made of, and how its models are narrowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import Any

Config = dict[str, Any]
# Keys of configurations that a narrowed replica divides: widths, numbers of layers (two are left) and of heads (one is).
_WIDTHS = {
    "hidden_size",
    "intermediate_size",
    "block_out_channels",
    "cross_attention_dim",
    "projection_dim",
    "projection_hidden_size",
    "projection_class_embeddings_input_dim",
    "upsample_initial_channel",
    "embed_dim",
    "width",
    "feed_forward",
}
_LAYERS = {"num_hidden_layers", "blocks", "max_window_layers"}
_HEADS = {"num_attention_heads", "num_key_value_heads", "attention_head_dim", "heads"}
NARROWINGS = (1, 2, 4, 8, 16, 32)


def narrowed(config: Config, narrow: int) -> Config:
    """A configuration with its widths divided by `narrow`, two layers at least and one head.

    ValueError for a factor that not all widths can be divided by.
    """
    if narrow not in NARROWINGS:
        raise ValueError(f"expected to narrow by one of {NARROWINGS}, found {narrow}")
    found = {key: _narrowed(key, value, narrow) for key, value in config.items()}
    if narrow > 1 and "norm_num_groups" in found:
        channels = found["block_out_channels"]
        found["norm_num_groups"] = min(32, gcd(*channels, 32))
    return found


def _narrowed(key: str, value: Any, narrow: int) -> Any:
    if isinstance(value, dict):
        return narrowed(value, narrow)
    if isinstance(value, list):
        return [_narrowed(key, one, narrow) for one in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if key in _WIDTHS:
        return value // narrow
    if key in _LAYERS:
        return max(2, value // narrow)
    return max(1, value // narrow) if key in _HEADS else value


@dataclass(frozen=True)
class Part:
    """One model: `folder` in the repository ("" is its root), configuration, and the weights files that are published.

    `kind` says how its tensors are found (see `tables`). `files` are whole or, with `shard_bytes`, one name for shards.
    What the kit loads is `files[0]`; others are the same numbers in other forms.
    """

    folder: str
    kind: str
    config: Config
    dtype: str
    files: tuple[str, ...]
    shard_bytes: int | None = None


@dataclass(frozen=True)
class Repository:
    """`name` on the hub (or of a single file), its models, other settings files, tokenizers, and files that nobody here reads.

    `words` is {folder: kind of tokenizer} (see `words`), `foreign` {file: bytes at full size}.
    """

    name: str
    parts: tuple[Part, ...]
    settings: Mapping[str, Config] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, int] = field(default_factory=dict)
