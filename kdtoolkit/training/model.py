"""A student with its heads, as one module for the optimizer and for distributed wrappers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..balance import LogVariances
from ..heads import HeadOutputs, MultiTaskHeads
from ..student import Student
from .depths import student_depths

if TYPE_CHECKING:
    from ..data.collate import Batch


class StudentModel(nn.Module):
    """forward(batch) gives the outputs of each row's own task: (rows, columns) and each row's column range."""

    def __init__(self, student: Student, heads: MultiTaskHeads) -> None:
        super().__init__()
        self.student = student
        self.heads = heads
        student.states_read = heads.read_states
        self.terms = nn.ModuleList()
        """The objective's further terms; in training only, so they are no part of a saved student."""
        self.log_variances: LogVariances | None = None
        """The balance `uncertainty`; a module only while `fit` runs."""

    def forward(self, batch: Batch) -> HeadOutputs:
        encoded = self.student(batch.tokens)
        outputs = self.heads(encoded, batch)
        if self.log_variances is not None:
            outputs = outputs._replace(log_variances=self.log_variances(batch.tasks))
        if not (self.training and len(self.terms)):
            return outputs
        return outputs._replace(features=tuple(term(encoded, batch) for term in self.terms))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that several tasks reach, for balances of their gradients: the student's, and what heads share."""
        return [*self.student.parameters(), *self.heads.shared_parameters()]

    def kept_whole(self) -> list[nn.Module]:
        """Those of which a step may use other parts in each process; where the rest is sharded, they are not."""
        return [self.heads, self.terms, *([] if self.log_variances is None else [self.log_variances])]

    def depths(self) -> dict[str, int]:
        """By name of each parameter, its layer, for `optimizer.layer_decay`: the student's own, all others at the top.

        Raises InputError if the student does not say (see `student_depths`).
        """
        own, top = student_depths(self.student)
        return {
            name: own[name.removeprefix("student.")] if name.startswith("student.") else top
            for name, _ in self.named_parameters()
        }
