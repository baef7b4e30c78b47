"""Interrupts (Ctrl-C, a notebook's stop button), deferred to a good moment or forwarded to what other threads do."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_LOOK_SECONDS = 0.25


@contextmanager
def deferred(alone: bool = True) -> Iterator[Callable[[], bool]]:
    """While it lasts an interrupt only makes the yielded function return True; `alone`, a second one is raised as ever.

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


def kernel_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of a notebook's kernel; None in a script, whose main thread can be interrupted as it is."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def forward(
    loop: asyncio.AbstractEventLoop, stop: Callable[[], None], busy: Callable[[], bool]
) -> None:
    """Forwards interrupts to `stop` as long as other threads are `busy`; an idle kernel ignores them.

    The kernel sets a handler of its own while it handles a message and then restores the older one, so this looks again
    and again. `loop` is that of the main thread, which alone may set handlers.
    """

    def interrupted(*_: Any) -> None:
        stop()

    def look() -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupted)
        if busy():
            loop.call_later(_LOOK_SECONDS, look)

    loop.call_soon_threadsafe(loop.call_later, _LOOK_SECONDS, look)
