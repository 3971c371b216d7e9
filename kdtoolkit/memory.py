"""Memory: what is kept for nothing, how to tell that it ran out, and how much would have fitted.

torch is imported only where it ran out.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from collections.abc import Callable

CPU_ALLOCATOR = ("can't allocate memory", "DefaultCPUAllocator", "bad allocation", "bad_alloc")
"""What torch's errors say that have no class of their own."""


KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""How many compiled kernels oneDNN and torch's layer over it keep, 1,024 each if the environment does not say."""
KERNELS = 32
"""Enough for a model: it has few sizes of matrices, and batches of one length follow one another."""


def keep_few_kernels() -> None:
    """Before oneDNN's first product on a CPU: its kernels, one for each shape of a batch, are not all kept.

    Texts come in so many lengths that those of all shapes take hundreds of megabytes (BENCHMARKS.md), and save nothing.
    What the environment says already is left as it is.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(KERNELS))


def give_back() -> None:
    """Returns to the system what was freed, where the C library keeps it (glibc); takes milliseconds."""
    if (trim := _trim()) is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except OSError:
        return None
    return found


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
