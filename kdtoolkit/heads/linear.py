"""The output layer of a head, and the layer that may stand before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def initial_parameters(outputs: int, width: int) -> tuple[Tensor, Tensor]:
    """weight (outputs, width) and bias (outputs,), uniform within 1 / sqrt(width), as torch's own linear layer."""
    bound = 1 / math.sqrt(width)
    weight = torch.empty(outputs, width).uniform_(-bound, bound)
    return weight, torch.empty(outputs).uniform_(-bound, bound)


class HiddenLayer(nn.Linear):
    """A linear layer with ReLU, (rows, features) to (rows, hidden): Tang et al. 2019 (arXiv:1903.12136), section 3."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).relu()
