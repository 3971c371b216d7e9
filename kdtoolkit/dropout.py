"""Dropout whose random numbers cost a CPU less than torch's: several of them from one draw."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 1 << 16


def dropout(values: Tensor, rate: float, training: bool = True) -> Tensor:
    """`values`, each number 0 at this rate and the others scaled up, so that the mean stays (Srivastava et al. 2014).

    On a CPU the rate is taken to the next 1/65536, and torch's generator gives four numbers a draw.
    """
    if not training or not rate or not values.is_cpu or torch.compiler.is_compiling():
        return functional.dropout(values, rate, training)
    kept = round((1 - rate) * LEVELS)
    count = values.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    chosen = draws.view(torch.int16)[:count].view(values.shape) < kept - LEVELS // 2
    return values * chosen.to(values.dtype).mul_(LEVELS / kept if kept else 0.0)


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)
