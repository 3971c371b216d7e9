"""Means over the real tokens of each row, so that padding changes nothing, whatever it holds."""

from __future__ import annotations

from torch import Tensor


def mean_over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """(rows,) means over real tokens of values (rows, time); mask (rows, time) bool. A row without tokens: 0."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def squared_error(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """(rows,) mean squared difference over real tokens and features; student, teacher (rows, time, width)."""
    difference = (student.float() - teacher.float()).masked_fill(~mask.unsqueeze(2), 0.0)
    return mean_over_tokens(difference.square().mean(2), mask)
