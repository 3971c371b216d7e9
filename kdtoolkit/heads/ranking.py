"""The relevance of a candidate as the two logits of a binary task."""

from __future__ import annotations

import torch
from torch import Tensor


def relevance_logits(relevance: Tensor, *, gamma: float, positive: int) -> Tensor:
    """Relevances r (rows, 1) to logits (rows, 2): gamma * r in the column `positive`, 0 in the other.

    Their softmax gives sigmoid(gamma * r) for the positive label, so that every metric of a binary task is defined.
    Their difference is what candidates are compared by: P(candidate | query) = softmax of gamma * r over the query's.
    Source: MT-DNN's ranking layer for QNLI (arXiv:1901.11504, section 3; arXiv:1904.09482).
    """
    columns = [torch.zeros_like(relevance), torch.zeros_like(relevance)]
    columns[positive] = gamma * relevance
    return torch.cat(columns, 1)
