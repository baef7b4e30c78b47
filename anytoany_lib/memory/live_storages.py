"""The peak of live storages: what PyTorch code would hold of a card's memory, found out on shapes alone.

    with torch.device("meta"):
        model = ...
    with LiveStorages() as live, as_on_a_card():
        live.add(model)
        model(torch.empty(4, 128, device="meta"))
    print(live.peak)

Tensors on the meta device have shapes and no numbers, and so have their storages sizes and no memory. A 7B model's training step
takes a second or two. What libraries take beside PyTorch's tensors (workspaces of cuDNN, the CUDA context) is not seen.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ROUNDED_TO = 512  # bytes: CUDA's caching allocator gives no less
_NUMBERS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.is_nonzero.default,
)
_FUSED_ROWS = 16  # bitsandbytes multiplies fewer without unpacking the matrix


class LiveStorages(TorchDispatchMode):
    """Adds up the storages that are alive, in bytes: `live` now, `peak` at most.

    What code sends to the host, and what it makes there of that alone, is on no card and not counted. Where code asks for a
    number of a tensor that has none it is told 1 (true): masks are whole, flags are set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}
        self._on_host: set[int] = set()

    def add(self, *held: nn.Module | torch.Tensor | None) -> None:
        """Counts tensors, and modules with their buffers and 4-bit constants, as long as they are alive."""
        for one in held:
            if isinstance(one, nn.Module):
                for tensor in _tensors_of(one):
                    self._count(tensor)
            elif one is not None:
                self._count(one)

    def _count(self, tensor: torch.Tensor, on_host: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = 0 if on_host else -(-storage.nbytes() // _ROUNDED_TO) * _ROUNDED_TO
        self._known[key] = size
        if on_host:
            self._on_host.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)
        self._on_host.discard(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _NUMBERS:
            return args[0].dtype == torch.bool or 1
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [one for index in args[1] for one in _without_bools(index)])
        read = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        away = [tensor.untyped_storage()._cdata in self._on_host for tensor in read]
        on_host = bool(away) and all(away)
        if str(kwargs.get("device")) == "cpu" and read and read[0].device.type == "meta":
            kwargs, on_host = kwargs | {"device": torch.device("meta")}, True
        self.peak = max(self.peak, self.live + _scratch(func, args))
        results = func(*args, **kwargs)
        for leaf in tree_leaves(results):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                self._count(leaf, on_host)
        return results


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    for tensor in (*module.parameters(), *module.buffers()):
        yield tensor
        state = getattr(tensor, "quant_state", None)
        for one in (state, getattr(state, "state2", None)):
            if one is not None:
                yield one.absmax


def _without_bools(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    """A mask as the places of all that it could let through: how many it does is not known."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device="meta")] * index.dim()


def _scratch(func: Any, args: Any) -> int:
    """Bytes that an operation takes for itself while it runs: bitsandbytes unpacks a matrix to multiply many rows with it."""
    if func is not torch.ops.bitsandbytes.gemm_4bit.default:
        return 0
    rows = args[0].numel() // args[0].shape[-1]
    size = math.prod(args[2])
    constants = 4 * size // 64
    return constants + (size * args[0].element_size() if rows > _FUSED_ROWS else 0)


class _Attention(torch.autograd.Function):
    """Attention as a card's fused kernels compute it: nothing of the size of all pairs; kept are its inputs, its output and a
    float a row.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Any:
        # In the memory order (batch, length, heads, width), as the kernels give it.
        shape = (*query.shape[:-1], value.shape[-1])
        if query.dim() == 4:
            output = query.new_empty((shape[0], shape[2], shape[1], shape[3])).transpose(1, 2)
        else:
            output = query.new_empty(shape)
        row = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, row)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, _, row = ctx.saved_tensors
        torch.empty_like(row)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention(*arguments: Any, **named: Any) -> torch.Tensor:
    """In the place of PyTorch's function; which pairs are left out makes no difference to what is held."""
    query, key, value = (
        named.get(name, arguments[n] if n < len(arguments) else None)
        for n, name in enumerate(("query", "key", "value"))
    )
    return _Attention.apply(query, key, value)


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Lets attention take what a card's fused kernels take; on the meta device it would take all pairs."""
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own
