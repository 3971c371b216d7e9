"""The recipe's further terms, evaluated on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..feature_name import FeatureName, corner
from ..schedule import Value, value_at
from ..shape import Shape
from ..tasks import Task
from .mixture import mean_logits
from .terms.base import Seen, Term

if TYPE_CHECKING:
    from ..data.collate import Batch

NO_LABEL = -100


class FurtherTerm(NamedTuple):
    """A term with its place in the objective. label: for the log; tasks: positions of the tasks that have it.

    sizes: of the teacher that it reads, for in a mixed batch there may be hidden states of a wider one too; None: there
    is no other.
    """

    label: str
    term: Term
    weight: Value
    tasks: frozenset[int]
    sizes: Shape | None = None

    @property
    def featured(self) -> bool:
        """Whether it reads the teacher's hidden states, so that rows without them do not have it."""
        return bool(self.term.teacher_needs)


class FurtherValues(NamedTuple):
    """by_row: (rows,) float32, sum over terms of weight * value, with gradient; 0 for rows without a term.

    sums, rows: (terms, tasks) float32, detached: the terms before their weights, and how many rows have them.
    """

    by_row: Tensor
    sums: Tensor
    rows: Tensor


class Sides(NamedTuple):
    """What the objective knows of a batch. outputs: (rows, columns) of the heads; start: (rows,), a row's first column.

    teacher: (members, rows, width); members: (members, rows) their weights, 0 for those that say nothing.
    temperature: by task.
    """

    outputs: Tensor
    start: Tensor
    teacher: Tensor
    members: Tensor
    temperature: Sequence[float]


def further_values(
    terms: Sequence[FurtherTerm],
    tasks: Sequence[Task],
    sides: Sides,
    features: Sequence[Mapping[str, Tensor]],
    batch: Batch,
    *,
    step: int,
    steps: int,
) -> FurtherValues:
    """The terms of the rows that a teacher speaks for, task by task.

    features: per term, the student's (`HeadOutputs.features`).
    Raises ValueError for a row whose two texts the student reads apart, where the term compares one sequence a row.
    """
    device = batch.tasks.device
    by_row = torch.zeros(len(batch.tasks), device=device)
    sums, counts = (torch.zeros(len(terms), len(tasks), device=device) for _ in range(2))
    taught = sides.members.sum(0) > 0
    for number, further in enumerate(terms):
        weight = value_at(further.weight, step, steps)
        if weight == 0:
            continue
        has = taught
        if further.featured:
            if batch.featured is None:
                continue
            has = taught & batch.featured
        if further.term.labelled:
            has = has & ~batch.labels.isnan()
        for position in sorted(further.tasks):
            rows = (has & (batch.tasks == position)).nonzero().squeeze(1)
            if not len(rows):
                continue
            seen = _seen(further, tasks[position], position, sides, features[number], batch, rows)
            value = further.term.loss(seen).float()
            by_row = by_row.index_add(0, rows, weight * value)
            sums[number, position] = value.detach().sum()
            counts[number, position] = len(rows)
    return FurtherValues(by_row, sums, counts)


def _seen(
    further: FurtherTerm,
    task: Task,
    position: int,
    sides: Sides,
    student: Mapping[str, Tensor],
    batch: Batch,
    rows: Tensor,
) -> Seen:
    term = further.term
    if term.joint and batch.second is not None and not torch.equal(batch.first[rows], batch.second[rows]):
        raise ValueError("the student reads the two texts of a row apart, and the term compares one sequence a row")
    columns = sides.start[rows].unsqueeze(1) + torch.arange(task.outputs, device=rows.device)
    teacher, members = sides.teacher[:, rows, : task.outputs], sides.members[:, rows]
    labels = batch.labels[rows]
    known = ~labels.isnan() if task.kind == "classification" else torch.zeros_like(labels, dtype=torch.bool)
    temperature = sides.temperature[position]
    return Seen(
        student={name: some.index_select(0, rows).float() for name, some in student.items()},
        teacher={name: _states(name, further.sizes, batch, rows) for name in term.teacher_needs},
        mask=batch.tokens.mask.index_select(0, batch.first[rows]),
        student_logits=sides.outputs[rows].gather(1, columns),
        teacher_logits=_combined(task, teacher, members, temperature),
        labels=torch.where(known, labels.nan_to_num(), NO_LABEL).long(),
        temperature=temperature,
    )


def _states(name: str, sizes: Shape | None, batch: Batch, rows: Tensor) -> Tensor:
    """(rows, ...) a feature of the teacher of these rows, without the columns that only a wider one has."""
    states = (batch.features or {})[name].index_select(0, rows)
    if sizes is None:
        return states
    return states[corner(slice(None), FeatureName.parse(name).shape(sizes, batch.tokens.ids.shape[1]))]


def _combined(task: Task, teacher: Tensor, members: Tensor, temperature: float) -> Tensor:
    """(rows, classes) logits of an ensemble as one teacher: the mean of the members' values, or, for classification,
    those whose softmax at `temperature` is the mean of the members' softmaxes there.
    """
    if len(teacher) == 1:
        return teacher[0]
    if task.kind != "classification":
        return mean_logits(teacher, members)
    log_shares = (members / members.sum(0)).log().unsqueeze(2)
    spoken = teacher.masked_fill((members == 0).unsqueeze(2), 0.0)
    return temperature * ((spoken / temperature).log_softmax(2) + log_shares).logsumexp(0)
