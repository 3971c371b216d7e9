"""The student's features of each row of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...data.collate import Batch


def of_rows(features: Tensor | None, batch: Batch) -> Tensor:
    """(texts, ...) features as (rows, ...), for terms whose rows are one sequence each.

    Rows whose two texts the student reads apart, which are of tasks that do not have the term, show their first text.
    Raises ValueError if the student gave none.
    """
    if features is None:
        raise ValueError("the student gave no such features, though it was asked for them by `Student.output`")
    if batch.second is None and len(features) == len(batch.first):
        return features
    return features.index_select(0, batch.first)


def joined(features: Tensor, batch: Batch) -> Tensor:
    """(texts, width) features as (rows, width), or (rows, 2 * width), [a; b], where two texts are read apart."""
    first = features.index_select(0, batch.first)
    return first if batch.second is None else torch.cat([first, features.index_select(0, batch.second)], 1)
