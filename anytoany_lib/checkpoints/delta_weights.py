"""A language model that is published as the difference to another one, put together tensor by tensor.

Vicuna v0 is such a model: its weights minus LLaMA's. Both are read mapped from disk and the sum is written in shards, so
that memory holds one shard and never a whole model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer

from anytoany_lib.gates.foreign_code import LOCAL, without_code
from anytoany_lib.system.files import appearing_whole, read_json

Readers = dict[str, Callable[[], torch.Tensor]]
_COMPUTED = "rotary_emb.inv_freq"  # old checkpoints carry it; today's code computes it
_SIZES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "tie_word_embeddings",
)
_SHARD_BYTES = 2 * 2**30


def _readers(folder: Path) -> Readers:
    """For every tensor of a model folder, the function that reads it alone."""
    readers: Readers = {}
    for file in sorted(folder.glob("*.safetensors")):
        opened = safe_open(file, framework="pt")
        readers |= {name: lambda f=opened, n=name: f.get_tensor(n) for name in opened.keys()}  # noqa: SIM118
    if not readers:
        for file in sorted(folder.glob("pytorch_model*.bin")):
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            readers |= {name: lambda t=tensor: t for name, tensor in tensors.items()}
    if not readers:
        raise FileNotFoundError(
            f"no weights in {folder}: expected *.safetensors or pytorch_model*.bin"
        )
    return {name: read for name, read in readers.items() if not name.endswith(_COMPUTED)}


def check_alike(base: Path, difference: Path) -> None:
    """ValueError unless two configurations are of one size, but for words that the difference adds.

    Said before the weights of either are fetched or added.
    """
    ours, theirs = (read_json(folder / "config.json") for folder in (base, difference))
    odd = [key for key in _SIZES if ours.get(key) != theirs.get(key)]
    if not odd and ours.get("vocab_size", 0) <= theirs.get("vocab_size", 0):
        return
    key = odd[0] if odd else "vocab_size"
    raise ValueError(
        f"{base} and {difference} do not belong together (7B and 13B, or another version): {key} is {ours.get(key)} in the "
        f"base and {theirs.get(key)} in the difference"
    )


def _sum(name: str, base: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
    """base + difference; rows that only the difference has are as they stand there (tokens that it added)."""
    rows = len(base)
    if base.shape[1:] != difference.shape[1:] or rows > len(difference):
        raise ValueError(
            f"{name} is {tuple(base.shape)} in the base and {tuple(difference.shape)} in the difference: "
            "they do not belong together (7B and 13B, or another version)"
        )
    whole = difference.clone()
    whole[:rows] += base.to(difference.dtype)
    return whole


def merge_difference(
    base: Path, difference: Path, out: Path, shard_bytes: int = _SHARD_BYTES
) -> Path:
    """Writes base + difference as a transformers folder with the difference's tokenizer; returns it.

    Raises ValueError if the two have other tensors or shapes, or if tokenizer, configuration and embedding of the
    result do not agree. Nothing is left then.
    """
    ours, theirs = _readers(base), _readers(difference)
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"{base} and {difference} do not have the same tensors: {len(odd)} are in one alone, such as {odd[0]}"
        )
    with appearing_whole(out) as folder:
        weight_map, shard, size, number = {}, {}, 0, 0
        for name in tqdm(sorted(theirs), desc="adding the difference"):
            shard[name] = _sum(name, ours[name](), theirs[name]()).contiguous()
            size += shard[name].nbytes
            weight_map[name] = f"model-{number:05d}.safetensors"
            if size >= shard_bytes:
                save_file(shard, folder / weight_map[name], {"format": "pt"})
                shard, size, number = {}, 0, number + 1
        if shard:
            save_file(shard, folder / weight_map[name], {"format": "pt"})
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
        for file in difference.iterdir():
            if file.suffix in (".json", ".model", ".txt") and not file.name.endswith("index.json"):
                shutil.copy(file, folder)
        _check_words(folder, _rows(theirs))
    return out


def _rows(readers: Readers) -> int:
    embedding = next((name for name in readers if name.endswith("embed_tokens.weight")), None)
    if embedding is None:
        raise ValueError("the difference has no embed_tokens.weight: it is no language model")
    return len(readers[embedding]())


def _check_words(folder: Path, rows: int) -> None:
    """The tokenizer's and the configuration's number of words against the rows of the embedding."""
    words = len(AutoTokenizer.from_pretrained(without_code(folder), **LOCAL))
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    if words > rows or config.vocab_size != rows:
        raise ValueError(
            f"the merged embedding has {rows} rows, its configuration says {config.vocab_size} and its tokenizer knows "
            f"{words} words: the difference's files are of different versions"
        )
