"""Slow work on a thread of its own, followed by a reader who may leave before it ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from typing import TypeVar

POLL_SECONDS = 0.05
Report, Result = TypeVar("Report"), TypeVar("Result")


class Stopped(Exception):
    """Nobody waits for this any more."""


def followed(
    worker: Executor,
    work: Callable[[Callable[[Report], None]], Result],
    stopping: Callable[[], bool],
) -> Generator[Report, None, Result]:
    """Runs `work(report)` on the worker; yields what it reports, returns what it returns and raises what it raises.

    Raises `Stopped` within POLL_SECONDS of `stopping()`. Neither then nor when the iterator is closed is the work waited
    for: if it has begun, its next report ends it by raising `Stopped` there; what the worker does next waits for that.
    """
    news: queue.SimpleQueue = queue.SimpleQueue()
    left, end = threading.Event(), object()

    def report(item: Report) -> None:
        if left.is_set():
            raise Stopped
        news.put(item)

    future = worker.submit(work, report)
    future.add_done_callback(lambda _: news.put(end))
    try:
        while not stopping():
            try:
                item = news.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if item is end:
                return future.result()
            yield item
        raise Stopped
    finally:
        left.set()
        future.cancel()
