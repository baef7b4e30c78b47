"""Work done ahead of its turn: threads decode what comes next while the caller works on what came before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

WORKERS = min(8, os.cpu_count() or 1)


def in_order(
    function: Callable[[Any], Any], items: Iterable[Any], ahead: int = 4 * WORKERS
) -> Iterator[Any]:
    """`function` of each item, in order, `ahead` items early on WORKERS threads (decoders release Python's lock).

    What `function` raises is raised here, at that item's turn; what waits behind it is not begun.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(WORKERS)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
