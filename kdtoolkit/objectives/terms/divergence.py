"""Divergence of two distributions given by their logarithms."""

from __future__ import annotations

from torch import Tensor


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum p log(p / q) over the last dimension, in nats; where p is 0 the summand is 0, whatever q is."""
    nothing = log_p.isneginf()
    return (log_p.exp() * (log_p.masked_fill(nothing, 0.0) - log_q.masked_fill(nothing, 0.0))).sum(-1)
