"""An interrupt (Ctrl-C, a notebook's stop button) that waits for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted(alone: bool = True) -> Iterator[Callable[[], bool]]:
    """While it lasts an interrupt only makes what is yielded true; `alone`, a second one is raised as ever.

    Not `alone`: launchers pass on to their processes what the terminal has already told these.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python raises interrupts in the main thread only
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        """Notes an interrupt."""
        if came and alone:
            raise KeyboardInterrupt
        came.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
