"""Hidden states of a teacher for the rows of a batch, from wherever they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..errors import WorkError
from ..feature_name import FeatureName, by_token, corner
from ..shape import Shape


class RowFeatures(NamedTuple):
    """Features of some rows.

    lengths: (rows,) int64, the teacher's tokens of each. values: by name as `kdtoolkit.teacher.Features` says, float32,
    0 on padding, padded to the longest of the rows at least.
    """

    lengths: np.ndarray
    values: dict[str, np.ndarray]


class FeatureSource(Protocol):
    """The teacher's features for the rows of train of one task."""

    @property
    def names(self) -> tuple[str, ...]:
        """Which features it gives."""

    @property
    def shape(self) -> Shape:
        """The teacher's sizes."""

    @property
    def together(self) -> bool:
        """Whether `of` has to be called by all processes of a run at the same place, also for no rows."""

    def lengths(self) -> np.ndarray:
        """The teacher's tokens of every row, (rows,) int64."""

    def of(self, rows: np.ndarray) -> RowFeatures:
        """The features of these rows of the task, (n,) int64, in their order."""


class Wanted(NamedTuple):
    """Rows of one task in a batch, if it has any. where: their positions in it; own: their numbers in the task."""

    task: str
    source: FeatureSource
    where: np.ndarray
    own: np.ndarray


def gathered(wanted: Sequence[Wanted], lengths: np.ndarray, time: int) -> dict[str, np.ndarray]:
    """By name, (rows, ...) float32 for a batch: zeros but for the wanted rows; token axes have length `time`.

    Where the tasks' teachers have different sizes, the axes are as long as the largest, and the others' states stand in
    their first places. lengths: (rows,) the student's tokens of each row.
    Raises WorkError where teacher and student read different numbers of tokens, and a feature is one by token.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for _, source, _, own in wanted:
        for name in source.names if len(own) else ():
            shape = FeatureName.parse(name).shape(source.shape, time)
            shapes[name] = tuple(map(max, shape, shapes.get(name, shape)))
    values = {name: np.zeros((len(lengths), *shape), np.float32) for name, shape in shapes.items()}
    for task, source, where, own in wanted:
        found = source.of(own)
        if not len(own):  # asked along with other processes, which have rows of the task
            continue
        if any(map(by_token, source.names)):
            check_lengths(task, own, found.lengths, lengths[where])
        for name in source.names:
            feature = FeatureName.parse(name)
            some = found.values[name]
            if feature.token_axes:
                longest = some.shape[1 + feature.token_axes[0]]
                some = some[corner(slice(None), feature.shape(source.shape, min(time, longest)))]
            values[name][corner(where, some.shape[1:])] = some
    return values


def check_lengths(task: str, rows: np.ndarray, teacher: np.ndarray, student: np.ndarray) -> None:
    """Raises WorkError, naming a row, if the two read different numbers of tokens, (n,) each."""
    other = np.flatnonzero(teacher != student)
    if len(other):
        first = other[0]
        raise WorkError(
            f"task '{task}', row {rows[first] + 1} of train: the teacher reads {teacher[first]} tokens and the student "
            f"{student[first]}, and a term of the objective compares them token by token; the student needs the "
            "teacher's tokenizer and max_tokens"
        )
