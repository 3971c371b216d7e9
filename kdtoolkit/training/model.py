"""A student with its heads, as one module for the optimizer and for distributed wrappers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..heads import HeadOutputs, MultiTaskHeads
from ..student import Student

if TYPE_CHECKING:
    from ..data.collate import Batch


class StudentModel(nn.Module):
    """forward(batch) gives the outputs of each row's own task: (rows, columns) and each row's column range."""

    def __init__(self, student: Student, heads: MultiTaskHeads) -> None:
        super().__init__()
        self.student = student
        self.heads = heads

    def forward(self, batch: Batch) -> HeadOutputs:
        return self.heads(self.student(batch.tokens), batch)
