"""How fast a model answers: one thread of the CPU, as a small service would run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np


def measure(
    predict: Callable[[list[Any]], object],
    texts: Sequence[Any],
    *,
    seconds: float = 5.0,
    calls: int = 100,
    batch_rows: int = 32,
) -> dict[str, Any]:
    """{"latency_ms": {"p50", "p95"}, "rows_per_s"}: milliseconds a call with one text, rows a second with `batch_rows`.

    predict: takes a list of items of `texts` (strings or pairs); its result is ignored.
    seconds: about how long all of it may take, warm-up included; every part makes at least one call.
    calls: at most so many calls with one text, and an eighth of that with `batch_rows`, whose median settles sooner;
    the texts are taken in turn.
    Raises ValueError if there is no text.
    """
    if not texts:
        raise ValueError("texts: expected at least one text to time")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        supply: Iterator[Any] = cycle(texts)
        _times(predict, ([text] for text in islice(supply, 10)), seconds * 0.1)
        single = _times(predict, ([text] for text in islice(supply, calls)), seconds * 0.5)
        batches = (list(islice(supply, batch_rows)) for _ in range(max(calls // 8, 1)))
        predict(list(islice(supply, batch_rows)))  # buffers of the larger batch are allocated here
        batched = _times(predict, batches, seconds * 0.4)
    finally:
        torch.set_num_threads(threads)
    p50, p95 = np.percentile(single, (50, 95)) * 1000
    return {"latency_ms": {"p50": float(p50), "p95": float(p95)}, "rows_per_s": batch_rows / float(np.median(batched))}


def _times(predict: Callable[[list[Any]], object], batches: Iterable[list[Any]], seconds: float) -> list[float]:
    """Seconds of each call, until the batches or the time are used up."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    for batch in batches:
        start = time.perf_counter()
        predict(batch)
        stop = time.perf_counter()
        times.append(stop - start)
        if stop >= end:
            break
    return times
