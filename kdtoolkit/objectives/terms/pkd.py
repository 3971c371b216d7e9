"""Patient knowledge distillation: the first token's state, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ...shape import Shape
from .base import Seen, Term
from .layers import layer_map, layered
from .projection import projection
from .rows import of_rows

if TYPE_CHECKING:
    from ...data.collate import Batch
    from ...student import Encoded


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows,) squared distance of the normalised states, between 0 and 4; student, teacher (rows, width).

    | s / |s| - t / |t| |^2. A state of zeros is normalised to zeros.
    Source: Sun et al. 2019, arXiv:1908.09355, section 3.2.
    """
    difference = F.normalize(student.float(), dim=1) - F.normalize(teacher.float(), dim=1)
    return difference.square().sum(1)


class PKD(Term):
    """Sum over the student's layers below its last of `pkd`, each against a layer of the teacher.

    student, teacher: shapes. layers: "skip" (every T / S-th layer of the teacher, "uniform" in `layer_map`), "last", or
    the teacher's layer for each of the student's layers but the last. project: see `projection`.
    reduction: "sum" over layers and features as in the paper; "mean" over both as in the authors' code, for which its
    weights, such as 500, are meant.
    """

    joint = True

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        layers: Literal["skip", "last"] | list[int] = "skip",
        project: bool | None = None,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        own, other = layered(student, "student"), layered(teacher, "teacher")
        rule: str | Sequence[int] = "uniform" if layers == "skip" else layers
        self.pairs = layer_map(rule, own.layers, other.layers, last=False)
        self.projection: nn.Module = projection(own.width, other.width, project)
        self.scale = 1.0 if reduction == "sum" else 1.0 / (len(self.pairs) * other.width)

    @property
    def student_needs(self) -> frozenset[str]:
        return frozenset({"hidden"})

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"first/{layer}" for _, layer in self.pairs))

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        hidden = encoded.hidden or ()
        return {f"first/{own}": self.projection(of_rows(hidden[own][:, 0], batch)) for own, _ in self.pairs}

    def loss(self, seen: Seen) -> Tensor:
        values = [pkd(seen.student[f"first/{own}"], seen.teacher[f"first/{other}"]) for own, other in self.pairs]
        return self.scale * sum(values[1:], values[0])
