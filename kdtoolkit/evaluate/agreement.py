"""How far the student does as its teacher does."""

from __future__ import annotations

import numpy as np

from ..tasks import Task
from .metrics import decisions, pearson


def agreement(task: Task, student_outputs: np.ndarray, teacher_outputs: np.ndarray) -> float | None:
    """Share of equal decisions, 0 to 1 (multilabel: over all rows and labels); Pearson's r for regression.

    Both (rows, task.outputs). Rows about which the teacher says nothing (NaN) are left out; None if that is all rows.
    Raises ValueError if the shapes differ.
    """
    student, teacher = np.asarray(student_outputs, dtype=np.float64), np.asarray(teacher_outputs, dtype=np.float64)
    if student.shape != teacher.shape:
        raise ValueError(f"task '{task.name}': student outputs {student.shape}, teacher outputs {teacher.shape}")
    said = ~np.isnan(teacher).any(1)
    if not said.any():
        return None
    student, teacher = student[said], teacher[said]
    if task.kind == "regression":
        return float(pearson(student[:, 0], teacher[:, 0]))
    return float((decisions(task, student) == decisions(task, teacher)).mean())


def gap_closed(student: float, gold_only: float, teacher: float, *, lower_is_better: bool = False) -> float | None:
    """The part of the way from gold_only to the teacher that the student went: 1.0 is all of it, below 0 is backwards.

    None where the teacher does not beat gold_only.
    """
    gap = teacher - gold_only
    if gap == 0 or (gap > 0) == lower_is_better:
        return None
    return (student - gold_only) / gap
