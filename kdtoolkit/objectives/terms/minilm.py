"""MiniLM: the last layer's attention, and the relation between its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...shape import Shape
from .base import Seen, Term
from .layers import layered, one_layer
from .relations import relation, relation_divergence
from .rows import of_rows
from .tinybert import same_heads

if TYPE_CHECKING:
    from ...data.collate import Batch
    from ...student import Encoded


class MiniLM(Term):
    """KL of the attention distributions plus KL of the value relations softmax(V V^T / sqrt(d)), of the last layers.

    Each is a mean over heads and real tokens (`relation_divergence`). The head counts must be equal, the widths need
    not. layer: the teacher's, counted from 1; None: its last.
    Source: Wang et al. 2020, arXiv:2002.10957, section 3.
    """

    tokens = True
    joint = True

    def __init__(self, student: Shape | None, teacher: Shape | None, *, layer: int | None = None) -> None:
        super().__init__()
        same_heads(student, teacher)
        self.layer = one_layer("layer", layer, layered(teacher, "teacher").layers)

    @property
    def student_needs(self) -> frozenset[str]:
        return frozenset({"attentions", "relations"})

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return f"attention/{self.layer}", f"values/{self.layer}"

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        return {
            "attention": of_rows((encoded.attentions or (None,))[-1], batch),
            "values": of_rows((encoded.values or (None,))[-1], batch),
        }

    def loss(self, seen: Seen) -> Tensor:
        attention = relation_divergence(seen.student["attention"], seen.teacher[f"attention/{self.layer}"], seen.mask)
        values = relation(seen.student["values"]), relation(seen.teacher[f"values/{self.layer}"])
        return attention + relation_divergence(*values, seen.mask)
