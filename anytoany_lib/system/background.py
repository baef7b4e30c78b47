"""Slow work on a thread of its own, while the caller reads its reports and may leave before it ends."""

import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

POLL_SECONDS = 0.05
EXIT_SECONDS = 2.0
Report = TypeVar("Report")
Result = TypeVar("Result")


class Stopped(Exception):
    """Nobody waits for this any more."""


class Worker:
    """One thread that does what it is given, in order. It begins with the first work and ends with its owner.

    Unlike an executor's, it keeps an interpreter that exits for EXIT_SECONDS only: a kernel restarts in the middle of a
    picture.
    """

    def __init__(self):
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Has `work(*arguments)` done after all that was submitted before."""
        if self._thread is None:
            self._thread = threading.Thread(target=_do, args=(self._jobs,), daemon=True)
            self._thread.start()
            weakref.finalize(self, _end, self._jobs, self._thread)
        future: Future[Result] = Future()
        self._jobs.put((future, work, arguments))
        return future


def _do(jobs: queue.SimpleQueue) -> None:
    """Does one job after the other until None comes."""
    while (job := jobs.get()) is not None:
        future, work, arguments = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work(*arguments))
            except BaseException as error:  # handed over to whoever waits for the result
                future.set_exception(error)
        del job, future, work, arguments  # what they hold is not to live until the next job


def _end(jobs: queue.SimpleQueue, thread: threading.Thread) -> None:
    """Ends the thread after its work; torch aborts the process if it exits in the middle of a diffusion step."""
    jobs.put(None)
    if thread is not threading.current_thread():  # where the last work held the owner
        thread.join(EXIT_SECONDS)


def drawn_in_background(worker: Worker, items: Generator[Report, None, None]) -> Iterator[Report]:
    """The items of a generator, each drawn on the worker when it is asked for; closed there when this one is.

    Torch keeps a pool of threads for every thread that computes, and the pools of two of them slow each other down: what one
    process computes for a reply is therefore computed by one worker.
    """
    end: Any = object()
    try:
        while (item := worker.submit(next, items, end).result()) is not end:
            yield item
    finally:
        worker.submit(items.close)


def run_in_background(
    worker: Worker,
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
