"""What a head is told about two texts that were encoded apart."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR = 4
"""How many times wider the features of a pair are than those of a text."""


def interaction(first: Tensor, second: Tensor) -> Tensor:
    """[a; b; |a - b|; a * b] of two feature vectors: (rows, width) twice to (rows, 4 * width).

    Source: Mou et al. 2016 (arXiv:1512.08422), section 3.2, and Conneau et al. 2017 (arXiv:1705.02364), section 3.1.
    """
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)
