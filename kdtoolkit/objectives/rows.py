"""What the objective knows of each row: before the student has answered, and after."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RowFacts(NamedTuple):
    """What a batch and a step say of the rows, whatever the student answers: (rows,) each, but where a shape is told.

    teacher (members, rows, width) and the members' weights (members, rows); labels: `NO_LABEL` where there is no gold
    class; kind, temperature, alpha, beta, weight: the op's arguments. parts: (2, rows), whether a row has a teacher's
    part and a gold part that count. counts: (3, tasks) float32, rows of each task, and those with either part.
    """

    teacher: Tensor
    members: Tensor
    labels: Tensor
    kind: Tensor
    temperature: Tensor
    alpha: Tensor
    beta: Tensor
    weight: Tensor
    parts: Tensor
    counts: Tensor


class Rows(NamedTuple):
    """The op's arguments, row by row: (rows,) each, but outputs (rows, columns), teacher (members, rows, width) and the
    members' weights (members, rows).
    """

    outputs: Tensor
    teacher: Tensor
    members: Tensor
    labels: Tensor
    kind: Tensor
    temperature: Tensor
    alpha: Tensor
    beta: Tensor
    weight: Tensor
    start: Tensor
    width: Tensor
