"""The heads of all tasks of a run: one matrix product for a batch, however many tasks are in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import did_you_mean
from ..student import Encoded, Student
from ..tasks import Task
from .interaction import FACTOR, interaction
from .linear import TaskParameters, initial_parameters

if TYPE_CHECKING:
    from ..data.collate import Batch

HEADS = ("auto", "linear", "pair")


class HeadOutputs(NamedTuple):
    """What the heads say about a batch.

    outputs: (rows, columns), the columns of every task in the batch, in the order of the run's tasks.
    start, count: (rows,) int64. A row's own columns are start .. start + count - 1; the others are what other tasks'
    heads would say of it.
    """

    outputs: Tensor
    start: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody asks a batch for


class MultiTaskHeads(nn.Module):
    """One head a task over the features of one student.

    tasks: the run's tasks, in order; `Batch.tasks` numbers them. width: features of the student's `pooled`.
    pairs: how the student reads two texts. "joint": every head is linear on `pooled`. "separate": a task of pairs reads
    [a; b; |a - b|; a * b] of its two texts, a task of single texts reads `pooled`.
    mixed: whether a batch may hold rows of several tasks. It then has to be one product of one width, so with
    "separate", if any task reads pairs, every task reads the interaction, and a single text is paired with itself.

    Parameters are stored one by one, `weight.<task>` (outputs, features) and `bias.<task>` (outputs,), and concatenated
    in the forward pass. Only the tasks that occur in a batch take part, so that an idle task has gradient None and an
    optimizer leaves it as it is, to the bit, weight decay and momentum included.

    Raises ValueError if there is no task, names repeat, a task has no outputs yet, or a head cannot be served (see
    `refusal`).
    """

    def __init__(self, tasks: Sequence[Task], width: int, *, pairs: Literal["joint", "separate"], mixed: bool) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("heads: expected at least one task")
        if len({task.name for task in tasks}) != len(tasks):
            raise ValueError(f"heads: task names repeat: {', '.join(task.name for task in tasks)}")
        for task in tasks:
            if task.outputs < 1:
                raise ValueError(f"heads: task '{task.name}' has no label names yet; read its data first")
            if (problem := _pair_refusal(task, pairs)) is not None:
                raise ValueError(problem)
        self.tasks = tuple(tasks)
        reads_pairs = [pairs == "separate" and (bool(task.pair) or task.head == "pair") for task in tasks]
        if mixed and any(reads_pairs):
            reads_pairs = [True] * len(tasks)
        self._reads_pairs = tuple(reads_pairs)
        weights, biases = {}, {}
        for task, as_pair in zip(tasks, reads_pairs):
            features = FACTOR * width if as_pair else width
            weights[task.name], biases[task.name] = initial_parameters(task.outputs, features)
        self.weight, self.bias = TaskParameters(weights), TaskParameters(biases)
        counts = torch.tensor([task.outputs for task in tasks])
        self.counts: Tensor
        self.register_buffer("counts", counts, persistent=False)  # (tasks,)

    def forward(self, encoded: Encoded, batch: Batch) -> HeadOutputs:
        """Outputs of every row of the batch.

        Raises ValueError if tasks that read different features meet in one batch of heads built with mixed=False.
        """
        present = self._present(batch.tasks)
        as_pair = self._reads_pairs[present[0]]
        if any(self._reads_pairs[task] != as_pair for task in present):
            names = ", ".join(self.tasks[task].name for task in present)
            raise ValueError(f"heads: tasks of one text and of two ({names}) share a batch, which needs mixed=True")
        features = encoded.pooled.index_select(0, batch.first)
        if as_pair:
            second = features if batch.second is None else encoded.pooled.index_select(0, batch.second)
            features = interaction(features, second)
        names_present = [self.tasks[task].name for task in present]
        outputs = functional.linear(features, self.weight.gather(names_present), self.bias.gather(names_present))
        count = self.counts[batch.tasks]
        if len(present) == 1:
            return HeadOutputs(outputs, torch.zeros_like(count), count)
        # Where each present task's columns begin, found without a copy from the CPU, which would wait for the device.
        width = torch.zeros_like(self.counts).index_copy(0, batch.tasks, count)  # 0 for idle tasks
        return HeadOutputs(outputs, (width.cumsum(0) - width)[batch.tasks], count)

    def _present(self, tasks: Tensor) -> list[int]:
        """Positions of the tasks that occur, ascending; with one task there is nothing to ask a device."""
        return [0] if len(self.tasks) == 1 else torch.unique(tasks).tolist()


def refusal(task: Task, student: Student | type[Student]) -> str | None:
    """Why the head that `task` asks for cannot be put on `student` (a class or an instance); None if it can."""
    return _pair_refusal(task, student.pairs)


def _pair_refusal(task: Task, pairs: str) -> str | None:
    place = f"task '{task.name}': head '{task.head}'"
    if task.head not in HEADS:
        return f"{place} is unknown; {did_you_mean(task.head, HEADS)}"
    if task.head == "pair" and task.pair is False:
        return f"{place} compares two texts, and the task has one; use 'auto' or 'linear'"
    if task.head == "pair" and pairs == "joint":
        return f"{place} compares two texts, and the student reads them as one sequence; use 'auto' or 'linear'"
    if task.head == "linear" and task.pair and pairs == "separate":
        return f"{place} reads one text, and the student reads the two texts of a pair apart; use 'auto' or 'pair'"
    return None
