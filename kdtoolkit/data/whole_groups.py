"""Cutting a sequence of rows between groups that must stay whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def split_large(groups: np.ndarray, largest: int) -> tuple[np.ndarray, int]:
    """Groups (rows,) as numbers 0, 1, 2, ..., int32, those of more than `largest` rows cut into nearly equal parts.

    Returns the numbers and how many groups were cut. Which rows are in which part follows their order.
    """
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    too_large = sizes > largest
    if not too_large.any():
        return numbers.astype(np.int32), 0
    parts = -(-sizes // largest)
    order = np.argsort(numbers, kind="stable")
    place = np.empty(len(numbers), np.int64)  # of each row in its group
    place[order] = np.arange(len(numbers)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first = np.cumsum(parts) - parts
    return (first[numbers] + place * parts[numbers] // sizes[numbers]).astype(np.int32), int(too_large.sum())


def whole_order(keys: np.ndarray, units: np.ndarray, sort: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The order of visits in which units stay together and come as `sort` orders the largest key of each.

    keys, units: (visits,).
    """
    if not len(keys):
        return np.empty(0, np.int64)
    _, numbers = np.unique(units, return_inverse=True)
    largest = np.zeros(int(numbers.max()) + 1, np.int64)
    np.maximum.at(largest, numbers, keys)
    place = np.empty(len(largest), np.int64)
    place[sort(largest)] = np.arange(len(largest))
    return np.argsort(place[numbers], kind="stable")


def starts_of(units: np.ndarray) -> np.ndarray:
    """Where runs of equal units begin, and the end: (runs + 1,) int64, ascending from 0 to len(units)."""
    return np.concatenate([[0], np.flatnonzero(units[1:] != units[:-1]) + 1, [len(units)]]).astype(np.int64)


def whole_cuts(starts: np.ndarray, pieces: int) -> np.ndarray:
    """Bounds of `pieces` ranges, each of one unit at least, as near to equal lengths as units allow: (pieces + 1,).

    starts: of the units, and the end; there are `pieces` units or more.
    """
    units, rows = len(starts) - 1, int(starts[-1])
    number = np.arange(pieces + 1)
    chosen = nearest(starts, number * rows // pieces)
    chosen = np.maximum.accumulate(chosen - number) + number  # a unit in every range ...
    return starts[np.minimum(chosen, units - pieces + number)]  # ... and one left for each that follows


def whole_micros(starts: np.ndarray, largest: int, rank: int, world_size: int) -> list[tuple[int, int]]:
    """The ranges that a rank has of the micro-batches, each of whole units, `largest` rows at most.

    starts: of the units of a window, and its end; no unit has more than `largest` rows. Micro-batches are filled one
    after the other; a rank's share of each is as near to equal as units allow, and may be empty.
    """
    ranges, begin = [], 0
    while begin < len(starts) - 1:
        end = int(np.searchsorted(starts, starts[begin] + largest, side="right")) - 1
        of_batch = starts[begin : end + 1] - starts[begin]
        targets = int(of_batch[-1]) * np.arange(rank, rank + 2) // world_size
        a, b = starts[begin] + of_batch[nearest(of_batch, targets)]
        ranges.append((int(a), int(b)))
        begin = end
    return ranges


def nearest(starts: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Positions of the ascending `starts` that lie nearest to each target; of two equally near ones, the first."""
    after = np.clip(np.searchsorted(starts, targets), 1, len(starts) - 1)
    before = after - 1
    return np.where(targets - starts[before] <= starts[after] - targets, before, after)
