"""Peak memory, of a process as a whole and of each phase of its work.

The operating system keeps one peak a process, which only rises. A phase that stays below an earlier one's peak is therefore
looked at every so often, and a peak between two looks is missed. Linux counts pages per CPU and adds them up now and then, so
that a look can find more than the peak that Linux keeps.
"""

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

_LOOK_EVERY = 0.2  # seconds
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
Peak = dict[str, int]


def peak_memory_bytes() -> Peak:
    """Peak memory of this process on the host, and on the card if there is one."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES}
    if torch.cuda.is_available():
        peak["device"] = max(Phases.device_before, torch.cuda.max_memory_allocated())
    return peak


class Phases:
    """The peak memory of each phase, by its name: {"host": bytes, "device": bytes with a card}."""

    device_before = 0
    """The card's peak before the counter was last set back, which is the whole process's affair."""
    device_in_phase = 0
    """The same, since the phase began that is being measured."""

    def __init__(self) -> None:
        self.peaks: dict[str, Peak] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures what is done within; a phase that comes twice has the higher of its peaks."""
        before = peak_memory_bytes()
        if "device" in before:
            Phases.device_before = before["device"]
            Phases.device_in_phase = 0
            torch.cuda.reset_peak_memory_stats()
        done, looked = threading.Event(), [0]
        looking = threading.Thread(target=_look, args=(done, looked), daemon=True)
        looking.start()
        try:
            yield
        finally:
            done.set()
            looking.join()
            host = peak_memory_bytes()["host"]
            peak = {"host": host if host > before["host"] else looked[0]}
            if "device" in before:
                peak["device"] = max(Phases.device_in_phase, torch.cuda.max_memory_allocated())
            self.peaks[name] = _highest(peak, self.peaks.get(name, {}))

    def highest(self) -> Peak:
        """The highest over all phases, those before a resume too, and all that this process has done besides."""
        return _highest(peak_memory_bytes(), *self.peaks.values())


def begin_device_peak(device: torch.device) -> None:
    """Sets a card's counter of the peak back before a part of a phase is measured; what it stood at still counts for the phase."""
    peak = torch.cuda.max_memory_allocated(device)
    Phases.device_before = max(Phases.device_before, peak)
    Phases.device_in_phase = max(Phases.device_in_phase, peak)
    torch.cuda.reset_peak_memory_stats(device)


def _highest(peak: Peak, *others: Peak) -> Peak:
    """The highest of several peaks, host and card each, of what the first one has."""
    return {at: max(known.get(at, 0) for known in (peak, *others)) for at in peak}


def _look(done: threading.Event, looked: list[int]) -> None:
    """Keeps the largest resident size seen in `looked`, until `done`."""
    process = psutil.Process()
    while True:
        looked[0] = max(looked[0], process.memory_info().rss)
        if done.wait(_LOOK_EVERY):
            return
