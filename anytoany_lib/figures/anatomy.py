"""A live model taken apart: what stands at each place of its input, what its projections say, how sure it is.

In come a model and what it reads, out come numbers, which `diagrams` draws. Nothing is trained or changed.
Axes: B conversations, T tokens, H hidden size, V words of the LLM's vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from anytoany_lib.batches import Batch, collate
from anytoany_lib.messages import IGNORED, Message, MessageEncoder
from anytoany_lib.model import AnyToAny

# What a place of the input can be; `roles` gives the numbers.
ROLES = ("padding", "text", "wrapper", "medium", "signal")
_PADDING, _TEXT, _WRAPPER, _MEDIUM, _SIGNAL = range(len(ROLES))


def roles(encoder: MessageEncoder, batch: Batch) -> np.ndarray:
    """What stands at each place of a batch: (B, T) numbers of `ROLES`. A medium's places are its soft tokens."""
    vocabulary = encoder.vocabulary
    found = torch.where(batch.mask.bool(), _TEXT, _PADDING)
    found[torch.isin(batch.ids, torch.tensor(vocabulary.wrappers))] = _WRAPPER
    for block in vocabulary.signals.values():
        found[torch.isin(batch.ids, torch.tensor(block))] = _SIGNAL
    for row, first in batch.media_at.tolist():
        found[row, first : first + encoder.soft_tokens] = _MEDIUM
    return found.numpy()


def names_of(encoder: MessageEncoder, ids: Iterable[int]) -> list[str]:
    """Tokens as people read them: text, or a new token's name; line breaks as an arrow."""
    vocabulary, tokenizer = encoder.vocabulary, encoder.tokenizer
    new = {vocabulary.base_size + n: name for n, name in enumerate(vocabulary.names)}
    return [(new.get(i) or tokenizer.decode([i])).replace("\n", "\u21b5") for i in map(int, ids)]


def cosines(one: Tensor, other: Tensor) -> np.ndarray:
    """Cosine similarity of every row of (N, ...) with every row of (M, ...): (N, M)."""
    first, second = (F.normalize(rows.detach().float().flatten(1), dim=1) for rows in (one, other))
    return (first @ second.T).cpu().numpy()


@torch.no_grad()
def word_vectors(model: AnyToAny, text: str) -> tuple[list[str], Tensor]:
    """The words (tokens) of a text and their embeddings in the LLM, (N, H)."""
    ids = model.messages.text_ids(text)
    vectors = model.causal_lm.get_input_embeddings().weight[ids].float()
    return names_of(model.messages, ids), vectors


@torch.no_grad()
def nearest_words(model: AnyToAny, soft: Tensor, count: int = 3) -> list[str]:
    """For each soft token (K, H) the words of the LLM that it lies closest to: " bell 0.62, ..."."""
    words = model.causal_lm.get_input_embeddings().weight  # (V, H)
    alike = torch.from_numpy(cosines(soft, words)).topk(count)
    told = []
    for ids, values in zip(alike.indices.tolist(), alike.values.tolist(), strict=True):
        nearest = zip(names_of(model.messages, ids), values, strict=True)
        told.append(", ".join(f"{name.strip()} {value:.2f}" for name, value in nearest))
    return told


def principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) of rows (N, ...) and the directions (D, 2) in which they differ most, zeros where N is too small."""
    flat = rows.detach().float().cpu().flatten(1)
    mean = flat.mean(0)
    _, _, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    return mean, F.pad(directions[:2], (0, 0, 0, 2 - len(directions[:2]))).T


def parameter_counts(model: AnyToAny) -> dict[str, int]:
    """How many numbers each part of a model holds: the frozen LLM first, then what the stages train."""
    adapter = model.llm.named_parameters() if model.adapter is not None else ()
    lora = sum(p.numel() for name, p in adapter if "lora_" in name)
    counts = {"language model": model.causal_lm.num_parameters() - lora}
    for name, part in model.bridges().items():
        counts[name.replace("_", " ")] = sum(p.numel() for p in part.parameters())
    return counts | ({"LoRA": lora} if lora else {})


def _weight(layer: nn.Linear) -> Tensor:
    """The weights of a linear layer, unpacked if they are in 4 bits."""
    state = getattr(layer.weight, "quant_state", None)
    return layer.weight if state is None else dequantize_4bit(layer.weight.data, state)


@torch.no_grad()
def lora_changes(model: AnyToAny) -> tuple[list[str], np.ndarray]:
    """By how much LoRA changes each matrix: the targets' names, and |BA| / |W| as (targets, layers). ValueError without LoRA."""
    found: dict[str, list[float]] = {}
    for name, layer in model.llm.named_modules():
        if isinstance(layer, LoraLayer):
            whole = _weight(layer.get_base_layer()).norm()
            change = layer.get_delta_weight("default").norm() / whole
            found.setdefault(name.rpartition(".")[2], []).append(change.item())
    if not found:
        raise ValueError("this model has no LoRA: open a run of stage 3 (notebook 06)")
    return list(found), np.array(list(found.values()))


class Decisions(NamedTuple):
    """How likely, at each token of a reply, was what: `tokens` names the N tokens that came, `likely` is (N, choices)."""

    tokens: list[str]
    choices: list[str]
    likely: np.ndarray


@torch.no_grad()
def decisions(model: AnyToAny, messages: Sequence[Message]) -> Decisions:
    """How likely a model found, before each token of the last reply that it decided on, to go on in words, stop, or begin a medium."""
    *before, reply = messages
    encoded = model.messages.encode([*before, reply])
    start = len(model.messages.encode(before, prompt=True).ids)
    shown = iter(model.embed_media([(kind, medium) for kind, medium, _ in encoded.media]))
    width = model.profile.encoder.embedding
    batch = collate([encoded], lambda *_: next(shown), None, width).to(model.device)
    inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
    hidden = model.hidden_states(inputs, batch.mask, use_cache=False)[0]  # (T, H)
    chosen = [at for at in range(start, len(encoded.ids)) if encoded.labels[at] != IGNORED]
    last = [encoded.ids[at] for at in chosen]
    mark = max((len(s) for s in model.messages.stops if last[-len(s) :] == s), default=1)
    chosen = chosen[: len(chosen) - mark + 1]  # of an end mark its first token
    likely = model.logits(hidden[[at - 1 for at in chosen]]).softmax(-1)  # (N, V + new tokens)
    kinds = list(model.vocabulary.signals)
    begun = likely[:, [model.vocabulary.signals[kind][0] for kind in kinds]]
    ends = sorted({mark[0] for mark in model.messages.stops})
    stop = likely[:, ends].sum(1, keepdim=True)
    words = 1 - begun.sum(1, keepdim=True) - stop
    table = torch.cat([words, begun, stop], 1).clamp(min=0).cpu().numpy()
    names = names_of(model.messages, [encoded.ids[at] for at in chosen])
    return Decisions(names, ["words", *kinds, "stop"], table)
