"""Work beside a reader: run_in_background, left, waited for in its turn, and gone with its owner."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from anytoany_lib.system.background import (
    Stopped,
    Worker,
    drawn_in_background,
    run_in_background,
)


def never() -> bool:
    return False


def result_of(steps) -> tuple[list, object]:
    """What was reported, and what was returned."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def test_reports_come_in_order_and_the_result_after_them():
    def work(report):
        for n in range(5):
            report(n)
        return "done"

    assert result_of(run_in_background(Worker(), work, never)) == ([0, 1, 2, 3, 4], "done")


def test_what_the_work_raises_is_raised_to_its_reader():
    def work(report):
        report(1)
        raise OSError("no paint")

    steps = run_in_background(Worker(), work, never)
    assert next(steps) == 1
    with pytest.raises(OSError, match="no paint"):
        next(steps)


def test_items_are_drawn_and_their_iterator_closed_on_the_worker():
    worker, threads = Worker(), []

    def items():
        try:
            for n in range(3):
                threads.append(threading.get_ident())
                yield n
        finally:
            threads.append(threading.get_ident())

    assert list(drawn_in_background(worker, items())) == [0, 1, 2]
    some = drawn_in_background(worker, items())
    assert next(some) == 0
    some.close()
    (only,) = {worker.submit(threading.get_ident).result(), *threads}
    assert only != threading.get_ident() and len(threads) == 6


def test_what_drawing_an_item_raises_is_raised_to_its_reader():
    def items():
        yield 1
        raise OSError("no ink")

    drawn = drawn_in_background(Worker(), items())
    assert next(drawn) == 1
    with pytest.raises(OSError, match="no ink"):
        next(drawn)


@pytest.mark.parametrize("leave", ["stop", "close"])
def test_a_reader_who_leaves_does_not_wait_and_what_comes_next_does(leave: str):
    worker, allowed, told, ends = Worker(), threading.Event(), threading.Event(), []

    def slow(report):
        report("begun")
        allowed.wait(20)
        try:
            report("more")
        except Stopped:
            ends.append("slow")
            raise

    steps = run_in_background(worker, slow, told.is_set)
    assert next(steps) == "begun"
    began = time.monotonic()
    if leave == "stop":
        told.set()
        with pytest.raises(Stopped):
            next(steps)
    steps.close()
    assert time.monotonic() - began < 0.5 and ends == []
    queued = run_in_background(worker, lambda report: ends.append("queued"), lambda: True)
    with pytest.raises(Stopped):
        next(queued)
    after = run_in_background(worker, lambda report: ends.append("next"), never)
    threading.Timer(0.1, allowed.set).start()
    result_of(after)
    assert ends == ["slow", "next"]  # what was left before it began is never done


def test_the_thread_ends_with_its_owner_and_holds_nothing():
    class Big:
        pass

    worker, big = Worker(), Big()
    assert worker.submit(lambda kept: 7, big).result() == 7
    thread = worker._thread
    found = weakref.ref(big)
    del big
    deadline = time.monotonic() + 5
    while found() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found() is None
    del worker
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_an_interpreter_exits_in_the_middle_of_work():
    program = (
        "import time; from anytoany_lib.system.background import Worker; "
        "Worker().submit(time.sleep, 60); time.sleep(0.2)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
