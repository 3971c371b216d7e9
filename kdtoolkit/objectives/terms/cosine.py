"""DistilBERT's cosine loss: the direction of the last hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ...shape import Shape
from .averages import mean_over_tokens
from .base import Seen, Term
from .layers import layered, one_layer
from .projection import projection
from .rows import of_rows

if TYPE_CHECKING:
    from ...data.collate import Batch
    from ...student import Encoded


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos of the last dimension, between 0 and 2; of a vector of zeros with anything: 1.

    Source: Sanh et al. 2019, arXiv:1910.01108, section 2.
    """
    return 1.0 - (F.normalize(student.float(), dim=-1) * F.normalize(teacher.float(), dim=-1)).sum(-1)


class Cosine(Term):
    """Mean over real tokens of `cosine_distance`, of the last hidden states.

    The mean is over a row's tokens, and the authors' code takes it over all tokens of a batch, which lets long rows
    weigh more. first: only the first token, so that student and teacher may read different tokens. layer: the
    teacher's, counted from 1; None: its last. project: see `projection`.
    """

    joint = True

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        first: bool = False,
        layer: int | None = None,
        project: bool | None = None,
    ) -> None:
        super().__init__()
        own, other = layered(student, "student"), layered(teacher, "teacher")
        self.first, self.tokens = first, not first
        self.layer = one_layer("layer", layer, other.layers)
        self.projection: nn.Module = projection(own.width, other.width, project)

    @property
    def student_needs(self) -> frozenset[str]:
        return frozenset({"hidden"})

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return (f"{'first' if self.first else 'hidden'}/{self.layer}",)

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        states = of_rows((encoded.hidden or (None,))[-1], batch)
        return {"states": self.projection(states[:, 0] if self.first else states)}

    def loss(self, seen: Seen) -> Tensor:
        (needed,) = self.teacher_needs
        distance = cosine_distance(seen.student["states"], seen.teacher[needed])
        return distance if self.first else mean_over_tokens(distance, seen.mask)
