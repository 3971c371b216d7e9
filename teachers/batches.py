"""Batches of texts that a model answers for: how many at a time, of like length, and what is said without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from kdtoolkit.errors import WorkError
from kdtoolkit.memory import is_out_of_memory, most_that_fits

CALL_TOKENS = {"cpu": 32, "cuda": 8192}
"""Tokens that cost as much as the call of a model does beside them; measured on a CPU, a guess for a GPU."""
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a batch: on a CPU more are no faster, and take memory; a guess for a GPU."""
CALL_WEIGHT = 2**35
"""Parameters times texts of a call."""


def call_rows(parameters: int) -> int:
    """Texts to be asked about at a time: so many that batches of one length are worth it, and that a call of a large
    model does not take minutes; a multiple of 128.
    """
    return min(1024, max(128, CALL_WEIGHT // (parameters * 128) * 128))


def by_length(lengths: np.ndarray, batch_tokens: int | None, device: torch.device) -> Iterator[np.ndarray]:
    """Row numbers in batches of like length, longest first, none above `batch_tokens` with its padding.

    batch_tokens: None: `BATCH_TOKENS` of the device.
    A length begins a batch of its own where it would otherwise add more padding to the last than a call costs.
    lengths: (rows,) int64, tokens.
    """
    kind = "cpu" if device.type == "cpu" else "cuda"
    padding = CALL_TOKENS[kind]
    batch_tokens = BATCH_TOKENS[kind] if batch_tokens is None else batch_tokens
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        stop = min(start + max(1, batch_tokens // longest), len(order))
        below = np.flatnonzero(np.diff(lengths[order[start:stop]])) + 1  # where a length begins that is shorter
        ends = np.append(below[1:], stop - start)
        wasted = (longest - lengths[order[start + below]]) * (ends - below)
        too_much = np.flatnonzero(wasted > padding)
        if len(too_much):
            stop = start + int(below[too_much[0]])
        yield order[start:stop]
        start = stop


def within_memory(answer: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, longest: int, place: str) -> np.ndarray:
    """`answer(rows)`. Raises WorkError where there is no memory for it, with the `batch_tokens` that fit.

    longest: tokens of the longest of the rows.
    """
    try:
        return answer(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Here the error is gone, and with it what it kept in memory.
    fits = most_that_fits(len(rows) // 2, lambda count: answer(rows[:count]))
    cause = f"{place}: out of memory with {len(rows)} texts of {longest} tokens"
    if fits is None:
        raise WorkError(f"{cause}; one does not fit either; lower max_tokens, or take a smaller teacher")
    raise WorkError(f"{cause}; {fits} fit: set batch_tokens: {fits * longest} for this teacher")
