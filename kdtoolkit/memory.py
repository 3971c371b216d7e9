"""When memory runs out: how to tell, and how much would have fitted. torch is imported only then."""

from __future__ import annotations

import gc
from collections.abc import Callable

CPU_ALLOCATOR = ("can't allocate memory", "DefaultCPUAllocator", "bad allocation", "bad_alloc")
"""What torch's errors say that have no class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that there was no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_ALLOCATOR)


def most_that_fits(first: int, attempt: Callable[[int], object]) -> int | None:
    """The largest of `first`, half of it, and so on, for which `attempt` finds the memory; None: not even for 1.

    Call it outside of the `except` that caught the error, for an error keeps alive what there was no room for.
    """
    import torch

    count = first
    while count >= 1:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(count)
            return count
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        count //= 2
    return None
