"""The learned map from the student's width to the teacher's."""

from __future__ import annotations

from torch import nn


def projection(student: int, teacher: int, project: bool | None) -> nn.Module:
    """A matrix without bias, (teacher, student), drawn from torch's global generator; or nothing.

    project: None: only where the widths differ. Raises ValueError if it is False and they do.
    """
    if project is None:
        project = student != teacher
    if project:
        return nn.Linear(student, teacher, bias=False)
    if student != teacher:
        raise ValueError(f"project: the widths differ, student {student} and teacher {teacher}; leave project out")
    return nn.Identity()
