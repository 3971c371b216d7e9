"""The contract of a further term of the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...shape import Shape

if TYPE_CHECKING:
    from ...data.collate import Batch
    from ...student import Encoded


@dataclass(frozen=True)
class Seen:
    """What a term reads, for the rows of one batch that have it.

    student: what `Term.forward` made of the student's features. teacher: the teacher's features by name (see
    `Teacher.features`). mask: (rows, time) bool, True on real tokens.
    student_logits, teacher_logits: (rows, classes) of the rows' one task, the ensemble's members already combined.
    labels: (rows,) int64 gold classes, -100 where there is none. temperature: of the objective, for that task.
    """

    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    mask: Tensor
    student_logits: Tensor
    teacher_logits: Tensor
    labels: Tensor
    temperature: float


class Term(nn.Module, ABC):
    """One term: what it needs of student and teacher, and its value for every row.

    Its constructor takes the two shapes (None where a side has no layers) and, keyword-only, the recipe's keys. It
    raises ValueError for options out of range or layers and heads that do not fit. Projections are its parameters: they
    are trained with the student and are no part of it. They are drawn from torch's global generator.

    Attributes, of the class or, where an option decides, of the instance:
    rowwise: whether the value is a sum over rows; if not, cutting a batch changes it.
    tokens: whether it compares token by token, so that student and teacher must read the same tokens.
    joint: whether a row must be one sequence of the student's, so that a student that reads the two texts of a pair
    apart cannot have it for tasks of pairs. True wherever `tokens` is.
    outputs: whether it reads logits.
    labelled: whether rows without a gold class do not have it.
    """

    rowwise: bool = True
    tokens: bool = False
    joint: bool = False
    outputs: bool = False
    labelled: bool = False

    @property
    def student_needs(self) -> frozenset[str]:
        """What `Student.output` must give: of "hidden", "attentions", "relations"; none for a term on outputs alone."""
        return frozenset()

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        """Names of the teacher's features (see `Teacher.features`); none for a term on outputs alone."""
        return ()

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """The student's features as they are compared, projections applied; each (rows, ...), in the batch's order."""
        return {}

    @abstractmethod
    def loss(self, seen: Seen) -> Tensor:
        """(rows,) float32, in nats or squared units; rows of one task.

        A value of the whole batch stands in every row, so that the mean over the rows is that value.
        """


__all__ = ["Seen", "Shape", "Term"]
