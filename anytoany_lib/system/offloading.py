"""Offloading: several frozen models take turns on one card, and idle ones move to host memory when it is full.

They are loaded from disk once. On a CPU, or a card that holds them all, nothing is ever moved. Room is made before a work
begins, by what it is known to take: a picture that fails in its autoencoder has cost all of its diffusion steps.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from anytoany_lib.system import peak_memory
from anytoany_lib.system.out_of_memory import is_out_of_memory

HOST = torch.device("cpu")
_SLACK = 1.1  # of what was counted: memory is handed out in blocks, with gaps between them
Result = TypeVar("Result")


def frozen_dtype(device: torch.device) -> torch.dtype:
    """What frozen models compute in on a device: half precision on a card."""
    return torch.float16 if device.type == "cuda" else torch.float32


def bytes_of(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(t.nbytes for tensors in (module.parameters(), module.buffers()) for t in tensors)


class Movable(Protocol):
    """A model that can be sent to a device."""

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""

    def to(self, device: torch.device) -> Any:
        """Moves it there."""


class CardGauge:
    """What `Residence` asks of a CUDA card's memory, in bytes, as its driver and torch's allocator count it."""

    def __init__(self, device: torch.device):
        self._device, self._before = device, 0

    def free(self) -> int:
        """What can still be had: the driver's free memory, and what torch holds without need."""
        held = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return torch.cuda.mem_get_info(self._device)[0] + held

    def begin(self) -> None:
        """Begins to watch how much more is taken than now."""
        peak_memory.begin_device_peak(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def taken(self) -> int:
        """The most that was taken at once since `begin`, beside what was there."""
        return torch.cuda.max_memory_allocated(self._device) - self._before


class Residence:
    """The models that take turns on a device, least recently used first."""

    def __init__(self, device: torch.device, gauge: CardGauge | None = None):
        self.device = device
        self._gauge = gauge or (CardGauge(device) if device.type == "cuda" else None)
        self._there: dict[str, Movable] = {}
        # Of each model, how much its last work took for each byte that was counted for it.
        self._factors: dict[str, float] = {}

    def _make_room(self, but: str) -> bool:
        """Sends the model that was idle longest to host memory; False if there is no other."""
        idle = next((name for name in self._there if name != but), None)
        if idle is None:
            return False
        self._send_home(idle)
        return True

    def _send_home(self, name: str) -> None:
        """Moves a model to host memory. Where that fails, it is whole on the device again."""
        model = self._there[name]
        try:
            model.to(HOST)
        except BaseException:
            model.to(self.device)
            raise
        del self._there[name]
        torch.cuda.empty_cache()  # of no effect where there is no card

    def leave(self) -> None:
        """Sends all of them to host memory, for work that needs the device and is never moved itself."""
        for name in list(self._there):
            self._send_home(name)

    def _bring(self, name: str, model: Movable) -> None:
        """Takes a model to the device, as the one used last. Where that fails, it is whole in host memory again."""
        if self._there.pop(name, None) is None:
            try:
                model.to(self.device)
            except BaseException:
                model.to(HOST)
                torch.cuda.empty_cache()
                raise
        self._there[name] = model

    def _expected(self, name: str, model: Movable, working: int) -> int:
        """Bytes that a model's next work takes of what is free now."""
        weights = 0 if name in self._there else model.nbytes
        return round(_SLACK * (weights + working * self._factors.get(name, 1.0)))

    def _measured(self, name: str, work: Callable[[], Result], working: int) -> Result:
        """`work()`, and what it took is noted for the next time."""
        if self._gauge is None or not working:
            return work()
        self._gauge.begin()
        result = work()
        self._factors[name] = self._gauge.taken() / working
        return result

    def run(
        self, name: str, model: Movable, work: Callable[[], Result], working: int = 0
    ) -> Result:
        """`work()` with the model on the device. Others leave before it begins, if there is no room for all of it.

        `working` is what it may take beside the weights, in bytes; what it did take corrects that from the second time on.
        Where memory does not suffice all the same, more leave and it starts again. RuntimeError if it does not even suffice
        for the model alone beside the language model.
        """
        if self.device == HOST:
            return work()
        expected = self._expected(name, model, working)
        while self._gauge is not None and self._gauge.free() < expected:
            if not self._make_room(but=name):
                break  # perhaps less is enough
        while True:
            try:
                self._bring(name, model)
                return self._measured(name, work, working)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not self._there.keys() - {name}:
                    raise RuntimeError(
                        f"the {name} model does not fit on {self.device} beside the language model: choose smaller "
                        "media in the profile's decoder options, or a smaller language model "
                        "(notebook 00 shows the memory plan)"
                    ) from error
            # Outside the handler, where nothing refers any more to the tensors of the work that failed.
            self._make_room(but=name)
