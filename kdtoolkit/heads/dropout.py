"""Dropout at a rate of each row's own."""

from __future__ import annotations

import torch
from torch import Tensor


def row_dropout(features: Tensor, rates: Tensor) -> Tensor:
    """`features` (rows, width), each row with dropout at its rate, (rows,), 0 or more and below 1.

    What is kept is divided by 1 - rate, so that the expectation is the row itself; a row of rate 0 stays as it is.
    """
    keep = (1 - rates).unsqueeze(1).to(features.dtype)
    return torch.where(torch.rand_like(features) < keep, features / keep, 0.0)
