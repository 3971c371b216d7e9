"""Weights of the tasks' losses that are learned with the student: one log-variance a task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INITIAL_LOG_VARIANCE = 0.0
"""Where every s = log sigma^2 begins: classification tasks at weight 1, regression tasks at 1/2. What
the paper's authors began with we do not know; LibMTL begins at -0.5."""


class LogVariances(nn.Module):
    """One number a task, learned with the student and part of a checkpoint; no part of a saved student."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.values = nn.ParameterList(nn.Parameter(torch.full((), INITIAL_LOG_VARIANCE)) for _ in range(tasks))

    def forward(self, tasks: Tensor) -> Tensor:
        """(tasks,) all of them; gradient reaches those of the tasks that occur in `tasks` (rows,) and no others."""
        present = set(torch.unique(tasks).tolist())
        return torch.stack([value if task in present else value.detach() for task, value in enumerate(self.values)])


def uncertainty_losses(losses: Tensor, weights: Tensor, log_variances: Tensor, regression: Tensor) -> Tensor:
    """(tasks,) the tasks' losses as Kendall et al. 2018 (arXiv:1705.07115), section 3.2, weigh them.

    With s = log sigma^2 of a task, a row's loss L of objective.weight w becomes

        regression:                 w * (L * exp(-s) / 2 + s / 2)      the Gaussian likelihood
        classification, multilabel: w * (L * exp(-s)     + s / 2)      the scaled softmax

    so that the penalty s / 2 = log sigma is paid once a row, and this is a sum over rows like the loss itself: how a
    window is cut changes nothing. What the losses of a step are worth depends on s, and so on all steps before.

    losses: (tasks,) sums over rows of w * L. weights: (tasks,) sums of w over the rows that have a loss.
    log_variances: (tasks,) s. regression: (tasks,) bool.
    """
    return losses * precision(log_variances, regression) + weights * log_variances / 2


def precision(log_variances: Tensor, regression: Tensor) -> Tensor:
    """(tasks,) what a task's loss is multiplied by: exp(-s), half of it for regression."""
    return torch.where(regression, 0.5, 1.0) * (-log_variances).exp()
