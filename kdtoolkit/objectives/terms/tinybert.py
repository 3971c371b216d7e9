"""TinyBERT's three losses on what is inside a Transformer: attention scores, hidden states, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from ...shape import Shape
from .averages import squared_error
from .base import Seen, Term
from .layers import attention_heads, layer_map, layered
from .projection import projection
from .rows import of_rows

if TYPE_CHECKING:
    from ...data.collate import Batch
    from ...student import Encoded


def attention_error(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """(rows,) mean squared difference of attention scores over heads and pairs of real tokens.

    student, teacher: (rows, heads, time, time), before the softmax; mask (rows, time) bool. Pairs with padding are left
    out of sum and count; the authors' code sets them to 0 and counts them, so that padding lowers its loss.
    Source: Jiao et al. 2020, arXiv:1909.10351, section 3.1.
    """
    pairs = (mask.unsqueeze(1) & mask.unsqueeze(2)).unsqueeze(1)
    difference = (student.float() - teacher.float()).masked_fill(~pairs, 0.0)
    count = mask.sum(1).square().clamp(min=1) * student.shape[1]
    return difference.square().sum((1, 2, 3)) / count


class Attention(Term):
    """Sum over the student's layers of `attention_error`; layers: see `layer_map`. The head counts must be equal."""

    tokens = True
    joint = True

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        layers: Literal["uniform", "last", "first"] | list[int] = "uniform",
    ) -> None:
        super().__init__()
        own, other = layered(student, "student"), layered(teacher, "teacher")
        same_heads(own, other)
        self.pairs = layer_map(layers, own.layers, other.layers)

    @property
    def student_needs(self) -> frozenset[str]:
        return frozenset({"attentions"})

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"attention/{layer}" for _, layer in self.pairs))

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        scores = encoded.attentions or ()
        return {f"attention/{own}": of_rows(scores[own - 1], batch) for own, _ in self.pairs}

    def loss(self, seen: Seen) -> Tensor:
        values = [
            attention_error(seen.student[f"attention/{own}"], seen.teacher[f"attention/{other}"], seen.mask)
            for own, other in self.pairs
        ]
        return sum(values[1:], values[0])


def same_heads(student: Shape | None, teacher: Shape | None) -> int:
    """The number of heads of both; ValueError with the way out if they differ or there are none."""
    own, other = attention_heads(student, "student"), attention_heads(teacher, "teacher")
    if own != other:
        raise ValueError(
            f"the student has {own} attention heads and the teacher {other}, and the term compares head with head; "
            f"give the student {other} heads, or use the term minilmv2, which regroups them"
        )
    return own


class Hidden(Term):
    """Sum over the student's layers of the mean squared difference from the teacher's states after a projection.

    mean over real tokens and features of (H_S W - H_T)^2, W one matrix for all layers, as in Jiao et al. 2020,
    arXiv:1909.10351, section 3.1. layers: see `layer_map`. project: true as in the paper; null: only where
    the widths differ.
    """

    tokens = True
    joint = True

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        layers: Literal["uniform", "last", "first"] | list[int] = "uniform",
        project: bool | None = True,
    ) -> None:
        super().__init__()
        own, other = layered(student, "student"), layered(teacher, "teacher")
        self.pairs = layer_map(layers, own.layers, other.layers)
        self.projection: nn.Module = projection(own.width, other.width, project)

    @property
    def student_needs(self) -> frozenset[str]:
        return frozenset({"hidden"})

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"hidden/{layer}" for _, layer in self.pairs))

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        hidden = encoded.hidden or ()
        return {f"hidden/{own}": self.projection(of_rows(hidden[own], batch)) for own, _ in self.pairs}

    def loss(self, seen: Seen) -> Tensor:
        values = [
            squared_error(seen.student[f"hidden/{own}"], seen.teacher[f"hidden/{other}"], seen.mask)
            for own, other in self.pairs
        ]
        return sum(values[1:], values[0])


class Embedding(Term):
    """Mean squared difference of the embeddings (layer 0) after a projection of its own; `Hidden` for layer 0.

    Source: Jiao et al. 2020, arXiv:1909.10351, section 3.1.
    """

    tokens = True
    joint = True

    def __init__(self, student: Shape | None, teacher: Shape | None, *, project: bool | None = True) -> None:
        super().__init__()
        own, other = layered(student, "student"), layered(teacher, "teacher")
        self.projection: nn.Module = projection(own.width_of(0), other.width_of(0), project)

    @property
    def student_needs(self) -> frozenset[str]:
        return frozenset({"hidden"})

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return ("hidden/0",)

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        return {"hidden/0": self.projection(of_rows((encoded.hidden or ())[0], batch))}

    def loss(self, seen: Seen) -> Tensor:
        return squared_error(seen.student["hidden/0"], seen.teacher["hidden/0"], seen.mask)
