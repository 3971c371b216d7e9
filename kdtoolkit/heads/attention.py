"""Attention over the tokens of a text."""

from __future__ import annotations

from torch import Tensor, nn


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of `scores`, over the places where `mask` (broadcastable) is True; 0 elsewhere."""
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


class SelfAttentivePooling(nn.Module):
    """Mean of a text's states, weighted by a softmax over v . state with a learned v.

    (rows, time, width) and mask (rows, time) to (rows, width). Each text has one token at least.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)  # a softmax would not feel a bias

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        shares = masked_softmax(self.score(states).squeeze(-1), mask)  # (rows, time)
        return (shares.unsqueeze(1) @ states).squeeze(1)
