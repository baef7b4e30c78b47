"""Work done ahead of its turn: threads decode what comes next while the caller works on what came before."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

WORKERS = min(8, os.cpu_count() or 1)


def in_order(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    ahead: int = 4 * WORKERS,
    worth: Callable[[Any], bool] | None = None,
) -> Generator[Any, None, None]:
    """`function` of each item, in order, `ahead` items early on WORKERS threads (decoders release Python's lock).

    An item that is not `worth` what a thread costs waits for its turn. What `function` raises is raised here, at that
    item's turn; what waits behind it is not begun. No thread works any longer when this has ended or is closed.
    """
    waiting: deque[Callable[[], Any]] = deque()
    pool = ThreadPoolExecutor(WORKERS)
    try:
        for item in items:
            early = worth is None or worth(item)
            waiting.append(pool.submit(function, item).result if early else partial(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)
