"""PCGrad: where the gradients of two tasks conflict, each gives up what opposes the other.

Yu et al. 2020 (arXiv:2001.06782), algorithm 1: each task's gradient g_i, in turn for the other tasks j in a random
order of its own, loses its component along g_j if the two point away from each other,

    g_i <- g_i - (g_i . g_j / |g_j|^2) g_j      if g_i . g_j < 0,

g_j being j's gradient as it was. The sum of what is left is the step's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def projected_sum(gram: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """The projected gradients' sum as weights of the gradients themselves, (tasks,) float64: sum_k weights[k] * g_k.

    Every projected gradient is a combination of the original ones, and all that the projections ask for are their inner
    products; so none of them is ever formed. Without a conflict the weights are exactly 1.
    gram: (tasks, tasks), g_i . g_j. orders[i]: the other tasks in the order in which task i meets them.
    """
    gram = gram.double().cpu()
    weights = torch.zeros(len(gram), dtype=torch.float64)
    for task, order in enumerate(orders):
        mixture = torch.zeros(len(gram), dtype=torch.float64)
        mixture[task] = 1.0
        for other in order:
            product = mixture @ gram[:, other]
            if product < 0:
                mixture[other] -= product / gram[other, other]
        weights += mixture
    return weights


def shuffled_orders(tasks: int, seed: int) -> list[list[int]]:
    """For each task the other ones in a random order, a function of the seed alone."""
    generator = np.random.Generator(np.random.Philox(seed))
    return [[int(j) for j in generator.permutation(tasks) if j != task] for task in range(tasks)]
