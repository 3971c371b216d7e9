"""MiniLMv2: relations between queries, between keys and between values, over heads of any number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from ...shape import Shape
from .base import Seen, Term
from .layers import attention_heads, layered, one_layer
from .relations import regroup, relation, relation_divergence
from .rows import of_rows

if TYPE_CHECKING:
    from ...data.collate import Batch
    from ...student import Encoded


class MiniLMv2(Term):
    """Weighted sum over queries, keys and values of KL(R_T || R_S), R = softmax(X X^T / sqrt(d)) by relation head.

    Each is a mean over relation heads and real tokens (`relation_divergence`); X of the student's last layer and of one
    of the teacher's is regrouped into relation heads first, so head counts and widths may differ.
    Source: Wang et al. 2021, arXiv:2012.15828, section 3.

    heads: relation heads, a divisor of both widths; None: as many as the teacher has attention heads. layer: the
    teacher's, counted from 1; None: its last. queries, keys, values: their weights; what weighs 0 is not computed.
    states: the student's last hidden states stand in the place of its queries, keys and values, for students without
    attention; that is ours, not the paper's.
    """

    tokens = True
    joint = True

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        heads: int | None = None,
        layer: int | None = None,
        queries: float = 1.0,
        keys: float = 1.0,
        values: float = 1.0,
        states: bool = False,
    ) -> None:
        super().__init__()
        own, other = layered(student, "student"), layered(teacher, "teacher")
        teacher_heads = attention_heads(teacher, "teacher")
        if not states:
            attention_heads(student, "student")
        self.heads = teacher_heads if heads is None else heads
        for side, shape in (("student", own), ("teacher", other)):
            if self.heads < 1 or shape.width % self.heads:
                raise ValueError(
                    f"heads: {self.heads} relation heads do not divide the {side}'s width {shape.width}; set heads to "
                    f"{math.gcd(own.width, other.width)}, or to a number that divides this"
                )
        self.weights = {"queries": queries, "keys": keys, "values": values}
        for name, weight in self.weights.items():
            if weight < 0:
                raise ValueError(f"{name}: a weight of {weight:g} is negative; 0 leaves the relation out")
        self.names = tuple(name for name, weight in self.weights.items() if weight > 0)
        if not self.names:
            raise ValueError("queries, keys and values all weigh 0, so nothing would be learned")
        self.layer, self.states = one_layer("layer", layer, other.layers), states

    @property
    def student_needs(self) -> frozenset[str]:
        return frozenset({"hidden" if self.states else "relations"})

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return tuple(f"{name}/{self.layer}" for name in self.names)

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        if self.states:
            return {"states": of_rows((encoded.hidden or (None,))[-1], batch)}
        return {name: of_rows((getattr(encoded, name) or (None,))[-1], batch) for name in self.names}

    def loss(self, seen: Seen) -> Tensor:
        own = {name: relation(regroup(features, self.heads)) for name, features in seen.student.items()}
        parts = []
        for name in self.names:
            other = relation(regroup(seen.teacher[f"{name}/{self.layer}"], self.heads))
            divergence = relation_divergence(own["states" if self.states else name], other, seen.mask)
            parts.append(self.weights[name] * divergence)
        return sum(parts[1:], parts[0])
