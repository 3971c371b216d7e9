"""Ensembles: which members speak for which row, and with what weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError


def weight_table(member_weights: Sequence[Sequence[float]]) -> Tensor:
    """(tasks, members) float32 of each task's weights, 0 where a task has fewer members than another.

    Raises InputError if a weight is not positive.
    """
    table = torch.zeros(len(member_weights), max((len(weights) for weights in member_weights), default=0))
    for row, weights in enumerate(member_weights):
        if not all(0 < float(weight) < float("inf") for weight in weights):
            raise InputError("teachers.weight", f"{list(weights)} are not all positive numbers")
        table[row, : len(weights)] = torch.tensor(list(weights), dtype=torch.float32)
    return table


def present_weights(teacher: Tensor, weights: Tensor) -> Tensor:
    """`weights` (members, rows) with 0 for members that say nothing about a row.

    teacher: (members, rows, width); a silent member's row is NaN in all of its columns, so the first one tells. NaN
    elsewhere alone is no silence but a fault, and is left to show in the loss.
    """
    return weights.masked_fill(teacher[..., 0].isnan(), 0.0)


def mean_logits(teacher: Tensor, weights: Tensor) -> Tensor:
    """(rows, width) weighted mean of the members' values; 0 for a row that no member speaks for.

    teacher (members, rows, width); weights (members, rows) >= 0, divided by their sum. Of logits this is the geometric
    mean of the distributions (TextBrewer, arXiv:2002.12620); of regression values the mean of the predictions.
    """
    total = weights.sum(0)
    shares = (weights / total.masked_fill(total == 0, 1.0)).unsqueeze(2)
    # Selected before the product, for 0 * NaN is NaN.
    return (shares * teacher.masked_fill(shares == 0, 0.0)).sum(0)
