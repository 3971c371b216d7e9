"""DIST: the correlation of probabilities, over the classes of a row and over the rows of a class."""

from __future__ import annotations

import torch
from torch import Tensor

from ...shape import Shape
from .base import Seen, Term


def correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along `dim`; 0, without gradient, where one of the two does not vary."""
    a, b = (x - x.mean(dim, keepdim=True) for x in (a.float(), b.float()))
    # Vectors that differ by rounding alone are told from zero by their size, which is that of probabilities.
    a, b = (_unit(x, dim) for x in (a, b))
    return (a * b).sum(dim)


def _unit(centred: Tensor, dim: int) -> Tensor:
    length = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    varies = length > 1e-7
    return torch.where(varies, centred / length.masked_fill(~varies, 1.0), 0.0)


def row_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows,) 1 - correlation of each row's probabilities over the classes, between 0 and 2.

    student, teacher: (rows, classes). For two classes the correlation is 1 or -1, and there is no gradient.
    Source: Huang et al. 2022, arXiv:2205.10536, section 3 (inter-class relation).
    """
    return 1.0 - correlation(student, teacher, 1)


def column_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """() 1 - mean over classes of the correlation of each class's probabilities over the rows, between 0 and 2.

    student, teacher: (rows, classes). Of a single row: 1, without gradient.
    Source: the same (intra-class relation).
    """
    return 1.0 - correlation(student, teacher, 0).mean()


class DIST(Term):
    """rows * `row_loss` + columns * `column_loss` of softmax(logits / T); no sum over rows unless columns is 0.

    rows, columns: the paper's beta and gamma. temperature: None: the objective's. There is no factor of T^2.
    """

    outputs = True
    rowwise = False

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        rows: float = 1.0,
        columns: float = 1.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        for name, weight in (("rows", rows), ("columns", columns)):
            if weight < 0:
                raise ValueError(f"{name}: a weight of {weight:g} is negative; 0 leaves it out")
        if rows == 0 and columns == 0:
            raise ValueError("rows and columns both weigh 0, so nothing would be learned")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature: {temperature:g} is not positive; the paper's are 1 and 4")
        self.rows, self.columns, self.temperature, self.rowwise = rows, columns, temperature, columns == 0

    def loss(self, seen: Seen) -> Tensor:
        temperature = self.temperature or seen.temperature
        student, teacher = ((z.float() / temperature).softmax(1) for z in (seen.student_logits, seen.teacher_logits))
        value = torch.zeros(len(student), device=student.device)
        if self.rows:
            value = value + self.rows * row_loss(student, teacher)
        if self.columns:
            value = value + self.columns * column_loss(student, teacher)
        return value
