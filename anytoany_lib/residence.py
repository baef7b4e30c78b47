"""Several frozen models on one card: whoever is at work is on it, and the rest make room when it is full.

They are loaded from disk once. On a CPU, or a card that holds them all, nothing is ever moved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

HOST = torch.device("cpu")
Result = TypeVar("Result")


class Movable(Protocol):
    """A model that can be sent to a device."""

    def to(self, device: torch.device) -> Any:
        """Moves it there."""


class Residence:
    """The models that take turns on a device, least recently used first."""

    def __init__(self, device: torch.device):
        self.device = device
        self._there: dict[str, Movable] = {}

    def _make_room(self, but: str) -> bool:
        """Sends the model that was idle longest to host memory; False if there is no other."""
        idle = next((name for name in self._there if name != but), None)
        if idle is None:
            return False
        self._there.pop(idle).to(HOST)
        self._empty_cache()
        return True

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def leave(self) -> None:
        """Sends all of them to host memory: somebody else needs the device, who is never moved."""
        for model in self._there.values():
            model.to(HOST)
        self._there.clear()
        self._empty_cache()

    def run(self, name: str, model: Movable, work: Callable[[], Result]) -> Result:
        """`work()` with the model on the device. Where memory does not suffice the others leave and it starts again.

        RuntimeError if it does not even suffice for the model alone beside the language model.
        """
        if self.device == HOST:
            return work()
        while True:
            try:
                if self._there.pop(name, None) is None:
                    model.to(self.device)
                self._there[name] = model
                return work()
            except torch.OutOfMemoryError as error:
                if not self._make_room(but=name):
                    raise RuntimeError(
                        f"the {name} model does not fit on {self.device} beside the language model: choose smaller "
                        "media in the profile's decoder options, or a smaller language model "
                        "(notebook 00 shows the memory plan)"
                    ) from error
