"""Work that is done ahead by a thread, while what it is for still computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], *, by: int) -> Generator[Result, None, None]:
    """`function` of each item, in order, up to `by` of them before they are asked for; 0: no thread, none ahead.

    One thread calls it, one item after the other. What it raises comes where its result would.
    """
    if not by:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, "kdtoolkit-ahead") as thread:
        try:
            for item in items:
                waiting.append(thread.submit(function, item))
                if len(waiting) > by:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for result in waiting:
                result.cancel()
