"""Relations between the tokens of a row, and how far the student's are from the teacher's."""

from __future__ import annotations

import math

from torch import Tensor

from .averages import mean_over_tokens
from .divergence import kl


def regroup(features: Tensor, heads: int) -> Tensor:
    """(rows, heads, time, width / heads) of (rows, time, width), or of (rows, other heads, time, head width).

    The heads are laid side by side and cut anew. Source: Wang et al. 2021, arXiv:2012.15828, section 3.1.
    """
    if features.dim() == 4:
        features = features.transpose(1, 2).flatten(2)
    rows, time, width = features.shape
    return features.reshape(rows, time, heads, width // heads).transpose(1, 2)


def relation(features: Tensor) -> Tensor:
    """X X^T / sqrt(d), (rows, heads, time, time), of X (rows, heads, time, d)."""
    features = features.float()
    return features @ features.transpose(2, 3) / math.sqrt(features.shape[3])


def relation_divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """(rows,) mean over heads and real tokens of KL(softmax(teacher) || softmax(student)), in nats.

    student, teacher: (rows, heads, time, time) scores before the softmax, which runs over the real tokens of the last
    dimension; mask (rows, time) bool. A softmax does not see a constant added to all scores of a token.
    Source: Wang et al. 2020, arXiv:2002.10957, section 3.1.
    """
    keys, queries = ~mask[:, None, None, :], ~mask[:, None, :, None]
    log_student, log_teacher = (
        # A query that is padding may hold anything, and must not make a NaN of the gradient.
        scores.float().masked_fill(queries, 0.0).masked_fill(keys, -math.inf).log_softmax(3)
        for scores in (student, teacher)
    )
    return mean_over_tokens(kl(log_teacher, log_student).mean(1), mask)
