"""Cutting the rows of a batch into shares that take as long as each other."""

from __future__ import annotations

import numpy as np


def even_cuts(lengths: np.ndarray, shares: int) -> np.ndarray:
    """Bounds of `shares` ranges of one row at least, of which the largest is as small as can be: (shares + 1,) int64.

    A range takes as much as its rows padded to the longest of them. lengths: (rows,) tokens of each row; there are
    `shares` rows or more.
    """
    longest, rows = int(lengths.max()), len(lengths)
    most = -(-rows // shares)  # rows of a range, where all are of one length
    if longest == int(lengths.min()):
        return np.array([0, *(min(number * most, rows - shares + number) for number in range(1, shares + 1))])
    lengths = lengths.astype(np.int64) + 1  # so that no row takes nothing
    low, high = -(-int(lengths.sum()) // shares) - 1, most * (longest + 1)  # too little, and enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _filled(lengths, shares, middle)[-1] == len(lengths) else (middle, high)
    return _filled(lengths, shares, high)


def _filled(lengths: np.ndarray, shares: int, most: int) -> np.ndarray:
    """The bounds where each range in turn takes all it may, and leaves a row for each that follows."""
    bounds = [0]
    for following in reversed(range(shares)):
        rest = lengths[bounds[-1] : len(lengths) - following]
        size = np.arange(1, len(rest) + 1) * np.maximum.accumulate(rest)
        bounds.append(bounds[-1] + max(int(np.searchsorted(size, most, side="right")), 1))
    return np.array(bounds)
