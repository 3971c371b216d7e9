"""Batches of tensors from global row numbers, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..student import Tokens
from ..tasks import Task
from ..tokenizers.base import JointTemplate
from .features import FeatureSource, Wanted, gathered

if TYPE_CHECKING:
    from ..tokenizers import Tokenizer
    from .tokens import TokenArrays


@dataclass
class Batch:
    """What a step reads.

    tokens: the texts, each (texts, time). first, second: (rows,) int64, the texts of each row; `second` equals `first`
    for a single text and is None when no row has a second text of its own (pairs read jointly included).
    tasks: (rows,) int64, positions in the run's task list.
    labels: (rows,) float32, class number or regression value, NaN where there is none and for multilabel tasks.
    targets: (rows, width) float32 or None; 0 and 1 of multilabel rows, NaN in the row's own columns where it has no
    label, NaN throughout for rows of other tasks.
    teacher: (members, rows, width) float32 or None; NaN in the row's own columns where a member says nothing.
    Columns beyond the row's own are 0. width: the most outputs of any task in the batch.
    features: hidden states of the teacher by name (see `Teacher.features`), padded to the time of `tokens`, 0 for rows
    that are not `featured`; None unless the objective needs them. featured: (rows,) bool.
    groups: (rows,) int64 or None; rows of one number are candidates of one query (ranking).
    """

    tokens: Tokens
    first: Tensor
    second: Tensor | None
    tasks: Tensor
    labels: Tensor
    targets: Tensor | None = None
    teacher: Tensor | None = None
    features: dict[str, Tensor] | None = None
    featured: Tensor | None = None
    groups: Tensor | None = None

    @property
    def rows(self) -> int:
        """Number of examples."""
        return len(self.first)

    @property
    def size(self) -> int:
        """Bytes, about."""
        read = (*self.tokens, self.teacher, self.targets, *(self.features or {}).values())
        return sum(tensor.nbytes for tensor in read if tensor is not None)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        if self.first.is_cpu and torch.device(device).type == "cpu":
            return self
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in pinned memory, from where a GPU copies while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        features = None if self.features is None else {name: change(some) for name, some in self.features.items()}
        return Batch(
            Tokens(*map(change, self.tokens)), change(self.first), changed(self.second), change(self.tasks),
            change(self.labels), changed(self.targets), changed(self.teacher), features, changed(self.featured),
            changed(self.groups),
        )  # fmt: skip


@dataclass
class TaskArrays:
    """The rows of one task of a run.

    labels: (rows,) float32 or, multilabel, (rows, outputs); NaN = none. teacher: (rows, members, outputs) float32,
    usually memory-mapped, NaN = none; None: the task has no teacher. groups: (rows,) int64 or None; by row, the first
    row of its group (the candidates of a query). features: the teacher's hidden states of the same rows; None: no term
    of the objective needs them. featured: (rows,) bool, the rows that have them; None: all.
    """

    tokens: TokenArrays
    labels: np.ndarray
    teacher: np.ndarray | None = None
    groups: np.ndarray | None = None
    features: FeatureSource | None = None
    featured: np.ndarray | None = None


@dataclass
class _Texts:
    """Texts in one flat array: piece numbers, and where each text begins and how long it is, (texts,) int64."""

    ids: np.ndarray
    start: np.ndarray
    length: np.ndarray


_Where: TypeAlias = "slice | np.ndarray"
"""Positions in the batch; a slice where one task fills it, which is much cheaper."""
_Placed: TypeAlias = "list[tuple[_Where, _Texts]]"
_Local: TypeAlias = "list[tuple[int, _Where, np.ndarray]]"
"""Per task of a batch: its position in the run, positions in the batch, rows of the task."""


class Collator:
    """collator(rows) makes the batch of those global rows (numbered as in BatchPlan), in their order.

    pairs: "separate": the texts of a batch are one flat list, first texts in row order, then second texts, raw pieces
    without special ones. "joint": one sequence a row, after `template`; sequences longer than max_tokens, special
    pieces included, lose pieces at the end of the longer text first, and keep one of each text at least.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        arrays: Sequence[TaskArrays],
        template: JointTemplate,
        *,
        pairs: Literal["joint", "separate"],
        max_tokens: int | None = None,
    ) -> None:
        """max_tokens: limit of a joint sequence; None: that of the arrays. Raises ValueError if sizes do not agree."""
        if arrays and len(arrays) != len(tasks):
            raise ValueError(f"expected arrays of {len(tasks)} tasks, received {len(arrays)}")
        for task, of_task in zip(tasks, arrays):
            sizes = {len(of_task.tokens), len(of_task.labels)}
            if len(sizes | ({len(of_task.teacher)} if of_task.teacher is not None else set())) != 1:
                raise ValueError(f"task '{task.name}': tokens, labels and teacher have different numbers of rows")
        self.tasks, self.template, self.pairs = tuple(tasks), template, pairs
        self._arrays = list(arrays)
        # Indexing np.memmap itself costs several times more than indexing the same memory as a plain array.
        self._labels = [np.asarray(of_task.labels, np.float32) for of_task in arrays]
        self._teachers = [None if a.teacher is None else a.teacher.view(np.ndarray) for a in arrays]
        self._ends = np.cumsum([0, *(len(of_task.tokens) for of_task in arrays)])
        limits = [of_task.tokens.max_tokens for of_task in arrays]
        self.max_tokens = max_tokens if max_tokens is not None else max(limits, default=2**31 - 1)

    @classmethod
    def for_texts(
        cls, tasks: Sequence[Task], tokenizer: Tokenizer, *, pairs: Literal["joint", "separate"], max_tokens: int
    ) -> Collator:
        """A collator for `batch_of` alone: texts that are not in any array."""
        return cls(tasks, (), tokenizer.joint, pairs=pairs, max_tokens=max_tokens)

    @property
    def rows(self) -> int:
        """Number of global rows."""
        return int(self._ends[-1])

    @property
    def together(self) -> bool:
        """Whether all processes of a run have to make their batches at the same place."""
        return any(array.features is not None and array.features.together for array in self._arrays)

    def __call__(self, rows: np.ndarray) -> Batch:
        """The batch of the global rows `rows`, (rows,) integer; of no rows, a batch of none."""
        rows = np.asarray(rows, np.int64)
        every = slice(0, len(rows))
        groups: list[tuple[int, _Where]] = [(0, every)]
        if len(self._arrays) == 1:
            tasks = np.zeros(len(rows), np.int64)
        else:
            tasks = np.searchsorted(self._ends, rows, side="right") - 1
            if len(rows):
                lowest, highest = int(tasks.min()), int(tasks.max())
                groups = [(lowest, every)]
                if lowest != highest:
                    order = np.argsort(tasks, kind="stable")
                    ends = np.searchsorted(tasks[order], np.arange(lowest, highest + 2)).tolist()
                    by_task = zip(range(lowest, highest + 1), ends, ends[1:])
                    groups = [(task, order[a:b]) for task, a, b in by_task if a < b]
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise IndexError(f"expected rows 0 to {self.rows - 1}")
        local = [(task, where, rows[where] - self._ends[task]) for task, where in groups]
        firsts, seconds = [], []
        for task, where, own in local:
            source = self._arrays[task].tokens
            firsts.append((where, _texts(source, own, 0)))
            if source.texts_per_row == 2:
                seconds.append((where, _texts(source, own, 1)))
        tokens, first, second = self._tokens(len(rows), firsts, seconds)
        labels, targets = self._gold(len(rows), local)
        features, featured = self._features(tokens, first, local)
        return Batch(
            tokens, first, second, torch.from_numpy(tasks), labels, targets, self._soft(len(rows), local),
            features, featured, self._groups(rows, local),
        )  # fmt: skip

    def batch_of(
        self, task: int, first: Sequence[Sequence[int]], second: Sequence[Sequence[int]] | None = None
    ) -> Batch:
        """A batch of texts given as pieces, without labels, for the task at position `task`."""
        every = slice(0, len(first))
        firsts: _Placed = [(every, _flat(first, self.max_tokens))]
        seconds: _Placed = [] if second is None else [(every, _flat(second, self.max_tokens))]
        tokens, one, two = self._tokens(len(first), firsts, seconds)
        tasks = torch.full((len(first),), task, dtype=torch.int64)
        return Batch(tokens, one, two, tasks, torch.full((len(first),), torch.nan))

    def joint_cuts(self) -> list[int]:
        """Per task, how many rows lose pieces because both texts and special pieces exceed max_tokens."""
        p, m, s = (len(part) for part in self.template[:3])
        counts = []
        for of_task in self._arrays:
            pair = of_task.tokens.texts_per_row == 2
            room = max(self.max_tokens - p - s - (m if pair else 0), of_task.tokens.texts_per_row)
            counts.append(int((of_task.tokens.lengths() > room).sum()))
        return counts

    def _tokens(self, rows: int, firsts: _Placed, seconds: _Placed) -> tuple[Tokens, Tensor, Tensor | None]:
        """firsts, seconds: (positions in the batch, texts) by task; seconds only of tasks that read pairs."""
        every = np.arange(rows)
        if self.pairs == "joint":
            by_task = [(where, texts, _same(where, seconds)) for where, texts in firsts]
            return _to_tokens(*_joint(rows, by_task, self.template, self.max_tokens)), torch.from_numpy(every), None
        if not seconds:
            return _to_tokens(*_separate(rows, firsts)), torch.from_numpy(every), None
        second, texts, placed = every.copy(), rows, list(firsts)
        if len(firsts) == 1:
            second, texts, placed = every + rows, 2 * rows, [*firsts, (slice(rows, 2 * rows), seconds[0][1])]
        else:
            paired = np.sort(np.concatenate([where for where, _ in seconds]))
            second[paired] = np.arange(rows, rows + len(paired))
            texts += len(paired)
            placed += [(second[where], of_task) for where, of_task in seconds]
        return _to_tokens(*_separate(texts, placed)), torch.from_numpy(every), torch.from_numpy(second)

    def _gold(self, rows: int, local: _Local) -> tuple[Tensor, Tensor | None]:
        multilabel = [task for task, _, _ in local if self._labels[task].ndim == 2]
        if len(local) == 1 and not multilabel:
            task, _, own = local[0]
            return torch.from_numpy(self._labels[task][own]), None
        labels = np.full(rows, np.nan, np.float32)
        targets = None
        if multilabel:
            targets = np.full((rows, max(self._labels[task].shape[1] for task in multilabel)), np.nan, np.float32)
        for task, where, own in local:
            gold = self._labels[task][own]
            if gold.ndim == 1:
                labels[where] = gold
            elif targets is not None:
                targets[where, : gold.shape[1]] = gold
                targets[where, gold.shape[1] :] = 0
        return torch.from_numpy(labels), None if targets is None else torch.from_numpy(targets)

    def lengths(self) -> list[np.ndarray]:
        """Per task, the tokens of each row as a joint sequence, special ones included, (rows,) int64."""
        p, m, s = (len(part) for part in self.template[:3])
        found = []
        for of_task in self._arrays:
            special = p + s + (m if of_task.tokens.texts_per_row == 2 else 0)
            room = max(self.max_tokens - special, of_task.tokens.texts_per_row)
            found.append(np.minimum(of_task.tokens.lengths().astype(np.int64), room) + special)
        return found

    def _features(self, tokens: Tokens, first: Tensor, local: _Local) -> tuple[dict[str, Tensor] | None, Tensor | None]:
        """The teacher's features by name, and which rows have them."""
        there = {task: (where, own) for task, where, own in local}
        featured = np.zeros(len(first), bool)
        wanted = []
        # In the same order in all processes, which may have rows of other tasks.
        for task, array in enumerate(self._arrays):
            if array.features is None or not (task in there or array.features.together):
                continue
            where, own = there.get(task, (slice(0), np.zeros(0, np.int64)))
            has = np.ones(len(own), bool) if array.featured is None else array.featured[own]
            places = np.arange(len(first))[where][has]
            featured[places] = True
            wanted.append(Wanted(self.tasks[task].name, array.features, places, own[has]))
        if not wanted:
            return None, None
        lengths = tokens.lengths.numpy()[first.numpy()]
        values = gathered(wanted, lengths, tokens.ids.shape[1])
        return {name: torch.from_numpy(some) for name, some in values.items()}, torch.from_numpy(featured)

    def _soft(self, rows: int, local: _Local) -> Tensor | None:
        teachers = [self._teachers[task] for task, _, _ in local]
        shapes = [teacher.shape[1:] for teacher in teachers if teacher is not None]
        if not shapes:
            return None
        if len(local) == 1 and teachers[0] is not None:
            return torch.from_numpy(np.ascontiguousarray(teachers[0][local[0][2]].swapaxes(0, 1)))
        members, width = max(shape[0] for shape in shapes), max(self.tasks[task].outputs for task, _, _ in local)
        soft = np.zeros((members, rows, width), np.float32)
        for (task, where, own), teacher in zip(local, teachers):
            soft[:, where, : self.tasks[task].outputs] = np.nan
            if teacher is not None:
                soft[: teacher.shape[1], where, : teacher.shape[2]] = teacher[own].swapaxes(0, 1)
        return torch.from_numpy(soft)

    def _groups(self, rows: np.ndarray, local: _Local) -> Tensor | None:
        """Numbers that are equal for rows of one group; a group that is in the batch twice is two groups."""
        if all(self._arrays[task].groups is None for task, _, _ in local):
            return None
        numbers = rows.copy()  # a row of a task without groups is one alone
        for task, where, own in local:
            groups = self._arrays[task].groups
            if groups is not None:
                numbers[where] = groups[own] + self._ends[task]
        return torch.from_numpy(numbers + _copies(rows) * self.rows)


def _copies(rows: np.ndarray) -> np.ndarray:
    """How often the row of each place stands before it, (rows,) int64."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    place = np.arange(len(rows))
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(rows)]
    copies = np.empty(len(rows), np.int64)
    copies[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return copies


def _same(where: _Where, seconds: _Placed) -> _Texts | None:
    """The second texts of the task whose positions are `where`."""
    return next((texts for positions, texts in seconds if positions is where), None)


def _texts(tokens: TokenArrays, rows: np.ndarray, which: int) -> _Texts:
    text = rows * tokens.texts_per_row + which if tokens.texts_per_row == 2 else rows
    start = tokens.offsets[text]
    return _Texts(tokens.ids, start, tokens.offsets[text + 1] - start)


def _flat(texts: Sequence[Sequence[int]], max_tokens: int) -> _Texts:
    cut = [text[:max_tokens] for text in texts]
    length = np.array([len(text) for text in cut], np.int64)
    ids = np.array([piece for text in cut for piece in text], np.int32)
    return _Texts(ids, np.cumsum(length) - length, length)


def _separate(texts: int, placed: _Placed) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """ids (texts, time) and lengths (texts,) of texts given as (positions, texts) groups, and no segments."""
    time = max((int(group.length.max(initial=1)) for _, group in placed), default=1)
    steps = np.arange(time)
    ids, length = np.empty((texts, time), np.int64), np.empty(texts, np.int64)
    for where, group in placed:
        # Read past the end of short texts, clipped to the array; what was too much is set to padding below.
        ids[where] = group.ids.take(group.start[:, None] + steps, mode="clip") if len(group.start) else 0
        length[where] = group.length
    ids *= steps < length[:, None]
    return ids, length, None


def _joint(
    rows: int, by_task: list[tuple[_Where, _Texts, _Texts | None]], template: JointTemplate, max_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """ids (rows, time), lengths (rows,) and segments of sequences made after `template`; see Collator."""
    prefix, middle, suffix, segment = template
    parts = []
    for where, first, second in by_task:
        a, b, between = first.length, np.zeros_like(first.length), len(middle) if second is not None else 0
        room = max(max_tokens - len(prefix) - between - len(suffix), 1 if second is None else 2)
        if second is None:
            a = np.minimum(a, room)
        else:
            # As the teachers' tokenizers cut: the longer text gives way first; of two long ones each keeps half, the
            # longer the odd piece, the second of equally long ones.
            half = (room + (first.length > second.length)) // 2
            a = np.minimum(first.length, np.maximum(room - second.length, half))
            b = np.minimum(second.length, room - a)
        parts.append((where, first, second, a, b, len(prefix) + between + len(suffix)))
    time = max((int((a + b).max(initial=1)) + special for *_, a, b, special in parts), default=1)
    steps = np.arange(time)
    ids, length = np.empty((rows, time), np.int64), np.empty(rows, np.int64)
    segments = np.zeros((rows, time), np.int64)
    for where, first, second, a, b, special in parts:
        if not len(a):
            continue
        of_task = first.ids.take((first.start - len(prefix))[:, None] + steps, mode="clip").astype(np.int64)
        end_of_first = len(prefix) + a
        row = np.arange(len(a))
        if prefix:
            of_task[:, : len(prefix)] = prefix
        end = end_of_first
        if second is not None:
            begin = end_of_first + len(middle)
            from_second = steps >= begin[:, None]
            other = second.ids.take((second.start - begin)[:, None] + steps, mode="clip")
            of_task = np.where(from_second, other, of_task)
            for place, piece in enumerate(middle):
                of_task[row, end_of_first + place] = piece
            end = begin + b
            segments[where] = _segments(steps, len(prefix), end_of_first, begin, end, end + len(suffix), segment)
        for place, piece in enumerate(suffix):
            of_task[row, end + place] = piece
        ids[where] = of_task
        length[where] = a + b + special
    ids *= steps < length[:, None]
    return ids, length, segments


def _segments(
    steps: np.ndarray, prefix: int, first: np.ndarray, middle: np.ndarray, second: np.ndarray, suffix: np.ndarray,
    numbers: tuple[int, int, int, int, int],
) -> np.ndarray:  # fmt: skip
    """Segment numbers, (rows, time), of parts that end at the given places; 0 on padding."""
    if numbers == (0, 0, 0, 1, 1):
        return ((steps >= middle[:, None]) & (steps < suffix[:, None])).astype(np.int64)
    ends = [np.full_like(first, prefix), first, middle, second, suffix]
    part = sum((steps >= end[:, None]).astype(np.int64) for end in ends)
    return np.array([*numbers, 0])[part]


def _to_tokens(ids: np.ndarray, length: np.ndarray, segments: np.ndarray | None) -> Tokens:
    mask = np.arange(ids.shape[1]) < length[:, None]
    if segments is None:
        segments = np.zeros_like(ids)
    return Tokens(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(segments))
