"""Which rows are in which batch: a pure function of seed, sizes and lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ..schedule import Value, value_at
from .even_shares import even_cuts
from .whole_groups import split_large, starts_of, whole_cuts, whole_micros, whole_order

MARGIN = 16
"""A micro-batch may hold one row in so many more than it was asked for, in place of another pass for a few rows."""
# What a random stream is for; with seed and number it keys the stream.
_ORDER, _EXTRA = 0, 1


@dataclass(frozen=True)
class Window:
    """The rows of one optimizer step that one rank works on.

    batches: micro-batches of global row numbers, int32; those of a small window may be empty on some ranks, and every
    rank has equally many. planned_rows: rows of the global window, all ranks together. first_rows: the first row of
    each global micro-batch, for a rank that has none of its rows and must take part all the same.
    """

    batches: list[np.ndarray]
    planned_rows: int
    first_rows: list[int]

    @property
    def read(self) -> list[np.ndarray]:
        """The rows of each micro-batch that the rank reads: its own, or that first one."""
        alone = (np.array([row], np.int32) for row in self.first_rows)
        return [rows if len(rows) else first for rows, first in zip(self.batches, alone)]


@dataclass(frozen=True)
class _Epoch:
    """order: (visits,) int32 global rows. A window is the segments first[w] .. first[w + 1] - 1, each a range of order
    that holds rows of one task (or, with batch="mixed", of all). units: (visits,) int32, equal on neighbours that are
    not to be parted; None: any may be."""

    number: int
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    first: np.ndarray
    shuffled: np.ndarray
    units: np.ndarray | None = None


class BatchPlan:
    """The batches of a whole training run. Its only state is the step number, so any step can be asked for at any time,
    and a resumed run, or a rank of a distributed one, sees the batches that an unstopped single process sees.

    Rows are numbered globally: the rows of the tasks one after the other, in order.

    Length of an epoch. ceil(rows / (batch_rows * accumulate)) steps and `rows` visits, whatever the sampling.

    Sampling. The visits of a task are in proportion to size^exponent, rounded by largest remainder: 1 shows every row
    once an epoch (MT-DNN, MKD), 0.75 is BAM's, 0 gives all tasks the same share. With a cap, a size counts no further
    than that (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2). A row is visited floor or ceil of its
    task's share of visits per row; which rows get the extra visit rotates through a seeded permutation, so over any
    number of epochs the rows of a task differ by one visit at most. A scheduled exponent is evaluated at the beginning
    of each epoch.

    Batches. "one_task": the window of a step (micro-batches included) holds one task. Steps are given to tasks in
    proportion to their visits, one at least, and the visits of a task are divided evenly over its windows. Windows may
    so hold more rows than batch_rows * accumulate, mostly by a row or two, for the steps of a task are a whole number.
    A micro-batch then holds up to a sixteenth more than batch_rows where that saves one, and never more. If an epoch
    has fewer steps than tasks, windows hold several tasks, and still each micro-batch one. "mixed": rows of all tasks
    together.

    Lengths. The visits of an epoch are sorted by length, at random among equals, and cut, so that the rows of a batch
    are nearly equally long; then the windows are shuffled. A task that is visited several times an epoch is sorted
    pass by pass, up and down in turn, so that a row does not meet its own copy.

    Groups. Rows of one group (the candidates of a query) are never parted: not over windows, micro-batches or ranks.
    Windows are cut between groups, as evenly as these allow, so one may hold more rows than batch_rows * accumulate, in
    more micro-batches. A group of more than batch_rows rows is cut into parts that are nearly equal, which are groups
    from then on; `cut_groups` counts those. Where an epoch visits a task's rows a fraction of a time, it takes whole
    groups, and parts of two at most: of the one where the last epoch stopped and of the one where it stops itself.

    Memory: a few int32 arrays of `rows` entries; one epoch is kept at a time.
    """

    def __init__(
        self,
        task_rows: Sequence[int],
        lengths: Sequence[np.ndarray],
        *,
        batch_rows: int,
        accumulate: int = 1,
        epochs: float,
        seed: int,
        exponent: Value = 1.0,
        cap: int | None = None,
        batch: Literal["one_task", "mixed"] = "one_task",
        groups: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        """task_rows: rows of each task. lengths: per task (rows,) int32, tokens of each row. epochs may be a fraction.

        cap: rows of a task beyond so many do not enlarge its share. groups: per task (rows,) integer, equal for rows
        that belong together, or None.
        Raises ValueError if there is no row, or the arguments do not fit each other.
        """
        if [len(of_task) for of_task in lengths] != list(task_rows):
            raise ValueError(f"lengths: expected one per row of {list(task_rows)} rows")
        if batch_rows < 1 or accumulate < 1 or not epochs > 0:
            raise ValueError("batch_rows, accumulate and epochs must be positive")
        if batch not in ("one_task", "mixed"):
            raise ValueError(f"batch: expected one_task or mixed, received {batch!r}")
        if cap is not None and cap < 1:
            raise ValueError(f"cap: expected a positive number of rows, received {cap}")
        given = [None] * len(task_rows) if groups is None else list(groups)
        if len(given) != len(task_rows) or any(g is not None and len(g) != n for g, n in zip(given, task_rows)):
            raise ValueError(f"groups: expected one per row of {list(task_rows)} rows, or None for a task")
        self.rows = int(sum(task_rows))
        if not 0 < self.rows < 2**31:
            raise ValueError(f"expected 1 to 2^31 - 1 rows, received {self.rows}")
        self._task_rows = [int(rows) for rows in task_rows]
        self._offsets = [sum(self._task_rows[:task]) for task in range(len(task_rows))]
        self._lengths = [_small(np.asarray(of_task)) for of_task in lengths]
        self._batch_rows, self._accumulate, self._seed, self._mixed = batch_rows, accumulate, seed, batch == "mixed"
        self.steps_per_epoch = -(-self.rows // (batch_rows * accumulate))
        # Less a rounding error, so that 3 * 0.1 epochs of 10 steps are 3 steps and not 4.
        self.steps = max(math.ceil(epochs * self.steps_per_epoch - 1e-6), 1)
        self._visits = [
            _apportion(self.rows, [_weight(rows, power, cap) for rows in self._task_rows])
            for power in self._exponents(exponent)
        ]
        self._epoch: _Epoch | None = None
        parted = [None if of_task is None else split_large(np.asarray(of_task), batch_rows) for of_task in given]
        self._groups = [None if of_task is None else of_task[0] for of_task in parted]
        self._grouped = any(of_task is not None for of_task in parted)
        self.cut_groups = sum(of_task[1] for of_task in parted if of_task is not None)

    def _exponents(self, exponent: Value) -> list[float]:
        return [value_at(exponent, step, self.steps) for step in range(0, self.steps, self.steps_per_epoch)]

    def window(self, step: int, rank: int = 0, world_size: int = 1) -> Window:
        """The rows of optimizer step `step` (0-based) that `rank` works on.

        A rank takes its slice of every micro-batch, so the slices of all ranks, in order, are the global window. They
        are of as many tokens, padding included, as near as rows allow, for the ranks wait for each other; of groups, of
        as many rows.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        if not 0 <= rank < world_size:
            raise IndexError(f"rank {rank} of {world_size}")
        epoch = self._plan(step // self.steps_per_epoch)
        number = epoch.shuffled[step % self.steps_per_epoch]
        batches, first_rows, planned_rows = [], [], 0
        for segment in range(epoch.first[number], epoch.first[number + 1]):
            start, rows = int(epoch.start[segment]), int(epoch.stop[segment] - epoch.start[segment])
            planned_rows += rows
            if epoch.units is not None:
                ends = starts_of(epoch.units[start : start + rows])
                batches += [epoch.order[start + a : start + b]
                            for a, b in whole_micros(ends, self._batch_rows, rank, world_size)]  # fmt: skip
                first_rows += [int(epoch.order[start + a]) for a, _ in whole_micros(ends, self._batch_rows, 0, 1)]
                continue
            micros = self._micros(rows)
            for micro in range(micros):
                a, b = start + rows * micro // micros, start + rows * (micro + 1) // micros
                batches.append(self._share(epoch.order[a:b], rank, world_size))
                first_rows.append(int(epoch.order[a]))
        return Window(batches, planned_rows, first_rows)

    def _micros(self, rows: int) -> int:
        """How many micro-batches so many rows of a window are cut into."""
        spare = self._batch_rows // MARGIN
        # No fewer than the steps have anyway: the margin is for windows of some rows too many.
        return min(-(-rows // self._batch_rows), max(-(-rows // (self._batch_rows + spare)), self._accumulate))

    def _share(self, rows: np.ndarray, rank: int, world_size: int) -> np.ndarray:
        """The part of a micro-batch that a rank works on: one row at least, if there are as many as ranks."""
        if world_size == 1:
            return rows
        if len(rows) < world_size:
            return rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
        first, end = even_cuts(self._row_lengths[rows], world_size)[rank : rank + 2]
        return rows[first:end]

    @cached_property
    def _row_lengths(self) -> np.ndarray:
        """By global row number."""
        return np.concatenate(self._lengths)

    def visits(self, epoch: int) -> np.ndarray:
        """How often each row is visited in an epoch, (rows,) int32."""
        return np.bincount(self._plan(epoch).order, minlength=self.rows).astype(np.int32)

    def task_visits(self, epoch: int) -> list[int]:
        """How many visits each task gets in an epoch."""
        return list(self._visits[epoch])

    def _plan(self, number: int) -> _Epoch:
        if self._epoch is None or self._epoch.number != number:
            self._epoch = self._make(number)
        return self._epoch

    def _make(self, number: int) -> _Epoch:
        generator = _generator(self._seed, number, _ORDER)
        drawn = [self._draw(task, number) for task in range(len(self._task_rows))]
        units = None
        if self._grouped:
            order, start, stop, first, units = self._whole(drawn, generator)
        elif self._mixed:
            lengths = np.concatenate([of_task[rows] for of_task, rows in zip(self._lengths, drawn)])
            order = np.concatenate([_global(rows, offset) for rows, offset in zip(drawn, self._offsets)])
            order = order[_sorted(lengths, generator)]
            bounds = _cut(len(order), self.steps_per_epoch)
            start, stop, first = bounds[:-1], bounds[1:], np.arange(len(bounds))
        else:
            order, start, stop, first = self._by_task(drawn, generator)
        shuffled = generator.permutation(np.arange(self.steps_per_epoch, dtype=np.int32))
        return _Epoch(number, order, start, stop, first, shuffled, units)

    def _by_task(
        self, drawn: list[np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        order = np.empty(self.rows, np.int32)
        ends = np.cumsum([0, *map(len, drawn)])
        for task, rows in enumerate(drawn):
            keys = _up_and_down(self._lengths[task][rows], self._task_rows[task])
            order[ends[task] : ends[task + 1]] = _global(rows[_sorted(keys, generator)], self._offsets[task])
        visited = [task for task, rows in enumerate(drawn) if len(rows)]
        if len(visited) > self.steps_per_epoch:
            return order, *self._few_steps(drawn, visited, ends)
        steps = _apportion(self.steps_per_epoch, [len(drawn[task]) for task in visited], least=1)
        bounds = [ends[task] + _cut(len(drawn[task]), count) for task, count in zip(visited, steps)]
        return order, *_ranges(bounds)

    def _few_steps(
        self, drawn: list[np.ndarray], visited: list[int], ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fewer steps than tasks: the largest tasks first, each to the window that holds least."""
        windows: list[list[int]] = [[] for _ in range(self.steps_per_epoch)]
        for task in sorted(visited, key=lambda task: -len(drawn[task])):
            min(windows, key=lambda window: sum(len(drawn[t]) for t in window)).append(task)
        sequence = np.array([task for window in windows for task in window])
        return ends[sequence], ends[sequence + 1], np.cumsum([0, *map(len, windows)])

    def _whole(
        self, drawn: list[np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Order, segments and units of an epoch whose groups are kept whole; a row without group is a unit alone."""
        units = [self._units(task, rows) for task, rows in enumerate(drawn)]
        ends = np.cumsum([0, *map(len, drawn)])
        globals_ = [_global(rows, offset) for rows, offset in zip(drawn, self._offsets)]
        if self._mixed:
            shifts = np.cumsum([0, *(int(of_task.max(initial=-1)) + 1 for of_task in units)])
            lengths = [of_task[rows].astype(np.int64) for of_task, rows in zip(self._lengths, drawn)]
            parts = [(np.concatenate(lengths), np.concatenate([u + s for u, s in zip(units, shifts)]))]
            globals_ = [np.concatenate(globals_)]
        else:
            keys = [_up_and_down(self._lengths[t][rows], self._task_rows[t]) for t, rows in enumerate(drawn)]
            parts = list(zip(keys, units))
        orders = [whole_order(keys, own, lambda k: _sorted(k, generator)) for keys, own in parts]
        order = np.concatenate([rows[chosen] for rows, chosen in zip(globals_, orders)])
        sorted_units = [own[chosen].astype(np.int32) for (_, own), chosen in zip(parts, orders)]
        joined = np.concatenate(sorted_units)
        if self._mixed:
            return order, *_ranges([whole_cuts(starts_of(joined), self.steps_per_epoch)]), joined
        visited = [task for task, rows in enumerate(drawn) if len(rows)]
        if len(visited) > self.steps_per_epoch:
            return order, *self._few_steps(drawn, visited, ends), joined
        bounds = [starts_of(sorted_units[task]) for task in visited]
        sizes = [len(drawn[task]) for task in visited]
        steps = _apportion(self.steps_per_epoch, sizes, least=1, most=[len(of_task) - 1 for of_task in bounds])
        cuts = [ends[task] + whole_cuts(own, count) for task, own, count in zip(visited, bounds, steps)]
        return order, *_ranges(cuts), joined

    def _units(self, task: int, rows: np.ndarray) -> np.ndarray:
        """Numbers that rows of a visit share if they must stay together, (visits,) int64: a group, once a pass."""
        groups = self._groups[task]
        if groups is None:
            return np.arange(len(rows), dtype=np.int64)
        passes = np.arange(len(rows), dtype=np.int64) // max(self._task_rows[task], 1)
        return passes * (int(groups.max(initial=0)) + 1) + groups[rows]

    def _draw(self, task: int, epoch: int) -> np.ndarray:
        """The rows of a task that an epoch visits, each as often as it is visited, int32."""
        rows, visits = self._task_rows[task], self._visits[epoch][task]
        if rows == 0 or visits == 0:
            return np.empty(0, np.int32)
        every = np.arange(rows, dtype=np.int32)
        passes, extra = divmod(visits, rows)
        parts = [np.tile(every, passes)] if passes else []
        if extra:
            # Goes on in the permutation where the extra visits of the epochs before ended.
            begin = sum(self._visits[earlier][task] % rows for earlier in range(epoch)) % rows
            turn = self._turn(task, every)
            parts.append(np.take(turn, np.arange(begin, begin + extra), mode="wrap"))
        return np.concatenate(parts)

    def _turn(self, task: int, every: np.ndarray) -> np.ndarray:
        """The order in which the rows of a task get extra visits; the rows of a group one after the other."""
        generator, groups = _generator(self._seed, task, _EXTRA), self._groups[task]
        if groups is None:
            return generator.permutation(every)
        places = generator.permutation(int(groups.max()) + 1)
        return every[np.argsort(places[groups], kind="stable")]


def _generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, number, purpose))))


def _small(lengths: np.ndarray) -> np.ndarray:
    """Lengths in 16 bits where they fit: numpy then sorts them by radix, many times faster."""
    return lengths.astype(np.uint16 if lengths.max(initial=0) < 2**16 else np.int32)


def _weight(rows: int, exponent: float, cap: int | None) -> float:
    return float(rows if cap is None else min(rows, cap)) ** exponent if rows else 0.0


def _apportion(total: int, weights: Sequence[float], *, least: int = 0, most: Sequence[int] | None = None) -> list[int]:
    """`total` divided in proportion to `weights`, whole numbers by largest remainder, each at least `least`.

    most: the most each may get, `total` or more together; what is too much goes to those that are owed most.
    """
    scale = total / math.fsum(weights)
    shares = [weight * scale for weight in weights]
    # Shares that are whole but for rounding stay whole: exponent 1 is every row exactly once.
    whole = [max(math.floor(share + 1e-12 * max(share, 1.0)), least) for share in shares]
    while (rest := total - sum(whole)) > 0:
        # Ties go to the first, so that the result does not depend on the sort.
        owed = sorted(range(len(weights)), key=lambda i: (weights[i] == 0, whole[i] - shares[i], i))
        for i in owed[:rest]:
            whole[i] += 1
    while sum(whole) > total:
        i = max((i for i in range(len(whole)) if whole[i] > least), key=lambda i: (whole[i] - shares[i], -i))
        whole[i] -= 1
    for i in range(len(whole) if most is not None else 0):
        while most is not None and whole[i] > most[i]:
            whole[i] -= 1
            open_ = [j for j in range(len(whole)) if whole[j] < most[j]]
            whole[min(open_, key=lambda j: (whole[j] - shares[j], j))] += 1
    return whole


def _ranges(bounds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """start, stop and first of windows that are one range each, between neighbouring bounds."""
    start = np.concatenate([of_task[:-1] for of_task in bounds])
    stop = np.concatenate([of_task[1:] for of_task in bounds])
    return start, stop, np.arange(len(start) + 1)


def _cut(rows: int, pieces: int) -> np.ndarray:
    """Bounds of `pieces` ranges of 0 .. rows, equally long but for one, (pieces + 1,) int64."""
    return np.arange(pieces + 1, dtype=np.int64) * rows // pieces


def _global(rows: np.ndarray, offset: int) -> np.ndarray:
    return rows + np.int32(offset)


def _up_and_down(lengths: np.ndarray, rows: int) -> np.ndarray:
    """Sort keys of several passes over a task: pass after pass, lengths rising in even passes, falling in odd ones."""
    if len(lengths) <= rows:
        return lengths
    passes = np.arange(len(lengths)) // rows
    longest = int(lengths.max()) + 1
    rising = np.where(passes % 2 == 0, lengths, longest - 1 - lengths.astype(np.int64))
    return passes * longest + rising


def _sorted(keys: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The order that sorts `keys`, at random among equals."""
    shuffled = generator.permutation(np.arange(len(keys), dtype=np.int32))
    return shuffled[np.argsort(keys[shuffled], kind="stable")]
