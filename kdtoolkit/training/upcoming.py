"""The batches of the steps to come, made some in a row, and where a process would wait for the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Meanwhile = Callable[[], bool]
"""Does a piece of what is to be done anyway, without meeting another process; False: there is none."""
LOT, BYTES = 16, 1 << 20
"""Batches that are made in a row, and what they may take together."""


def idle() -> bool:
    """There is nothing to be done."""
    return False


class Upcoming(Generic[Item]):
    """The items of a generator, of which some are made before they are asked for.

    A step leaves nothing of the code that makes a small batch in the processor's caches, and to fetch it again takes
    several times as long as to run it: batches that are made one after the other cost a fraction of that.
    size: bytes of an item. lot: how many items may wait; 1: an item is made when it is asked for.
    """

    def __init__(self, items: Generator[Item, None, None], size: Callable[[Item], int], *, lot: int = LOT) -> None:
        self._items, self._size, self._lot = items, size, lot
        self._made: deque[Item] = deque()
        self._bytes = 0
        self._end: Exception | None = None

    def make(self) -> bool:
        """Makes one more item if there is room and one to be made. What fails does so where its item would come."""
        if self._end is not None or (self._made and (len(self._made) >= self._lot or self._bytes >= BYTES)):
            return False
        try:
            self._made.append(next(self._items))
        except Exception as error:  # of the generator's end, too
            self._end = error
            return False
        self._bytes += self._size(self._made[-1])
        return True

    def ahead(self) -> bool:
        """`make`, unless items are made when they are asked for."""
        return self._lot > 1 and self.make()

    def __next__(self) -> Item:
        if not self._made:
            while self.make():
                pass
        if not self._made:
            assert self._end is not None
            end, self._end = self._end, StopIteration()
            try:
                raise end
            finally:
                del end  # or it would hold itself, and the memory of what has failed
        item = self._made.popleft()
        self._bytes -= self._size(item)
        return item

    def close(self) -> None:
        """No item is asked for any more."""
        self._items.close()
