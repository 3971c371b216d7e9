"""Relational knowledge distillation: distances and angles between the rows of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...shape import Shape
from .base import Seen, Term
from .layers import layered, one_layer
from .rows import joined

if TYPE_CHECKING:
    from ...data.collate import Batch
    from ...student import Encoded


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """() mean over pairs of different rows of Huber(d_S / mean d_S - d_T / mean d_T), d the Euclidean distances.

    student (rows, s), teacher (rows, t): the widths need not agree. Each mean is over the distances that are not 0.
    Huber(x) is x^2 / 2 up to |x| = 1, then |x| - 1 / 2. Of fewer than two rows: 0.
    Source: Park et al. 2019, arXiv:1904.05068, section 3.2.1.
    """
    difference = _scaled_distances(student.float()) - _scaled_distances(teacher.float())
    pairs = max(len(student) * (len(student) - 1), 1)
    return F.huber_loss(difference, torch.zeros_like(difference), reduction="sum") / pairs


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """() mean over triplets of different rows (i, j, k) of Huber(cos_S - cos_T), cos of the angle at j.

    student (rows, s), teacher (rows, t). Where two of the rows are equal the cosine is 0. It takes rows^3 numbers. Of
    fewer than three rows: 0. Source: Park et al. 2019, arXiv:1904.05068, section 3.2.2.
    """
    rows = len(student)
    difference = _cosines(student.float()) - _cosines(teacher.float())  # (vertex, i, k)
    # i = j and k = j are 0 on both sides; i = k is the cosine of an angle of no triplet.
    difference = difference.masked_fill(torch.eye(rows, dtype=torch.bool, device=difference.device), 0.0)
    triplets = max(rows * (rows - 1) * (rows - 2), 1)
    return F.huber_loss(difference, torch.zeros_like(difference), reduction="sum") / triplets


def _scaled_distances(rows: Tensor) -> Tensor:
    """(rows, rows) Euclidean distances, divided by the mean of those that are not 0."""
    distances = torch.linalg.vector_norm(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.masked_fill(mean == 0, 1.0)


def _cosines(rows: Tensor) -> Tensor:
    """(rows, rows, rows): [j, i, k] is the cosine of the angle at row j between rows i and k."""
    directions = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
    return directions @ directions.transpose(1, 2)


class RKD(Term):
    """distance * `distance_loss` + angle * `angle_loss` over the rows of a task in a batch; no sum over rows.

    on: "states" relates the student's pooled features, of both texts where it reads them apart, to the first token's
    state in one of the teacher's layers; "logits" relates outputs, for teachers that show no layers. layer: the
    teacher's, counted from 1; None: its last. The defaults of the weights are those of the authors' example.
    """

    rowwise = False

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        distance: float = 1.0,
        angle: float = 2.0,
        on: Literal["states", "logits"] = "states",
        layer: int | None = None,
    ) -> None:
        super().__init__()
        for name, weight in (("distance", distance), ("angle", angle)):
            if weight < 0:
                raise ValueError(f"{name}: a weight of {weight:g} is negative; 0 leaves it out")
        if distance == 0 and angle == 0:
            raise ValueError("distance and angle both weigh 0, so nothing would be learned")
        self.distance, self.angle, self.outputs = distance, angle, on == "logits"
        self.layer = None if self.outputs else one_layer("layer", layer, layered(teacher, "teacher").layers)

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        return () if self.outputs else (f"first/{self.layer}",)

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        return {} if self.outputs else {"pooled": joined(encoded.pooled, batch)}

    def loss(self, seen: Seen) -> Tensor:
        student, teacher = seen.student_logits, seen.teacher_logits
        if not self.outputs:
            student, teacher = seen.student["pooled"], seen.teacher[f"first/{self.layer}"]
        value = torch.zeros((), device=student.device)
        if self.distance:
            value = value + self.distance * distance_loss(student, teacher)
        if self.angle:
            value = value + self.angle * angle_loss(student, teacher)
        return value.expand(len(student))
