"""Linear heads of several tasks: stored apart, multiplied together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class TaskParameters(nn.Module):
    """Parameters by task name; `weight.sst2` in a state dict.

    Not an nn.ParameterDict, because that refuses names that are methods of a module, and a task may be called "type".
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._parameters.update({task: nn.Parameter(value) for task, value in parameters.items()})

    def __getitem__(self, task: str) -> Tensor:
        parameter = self._parameters[task]
        assert parameter is not None
        return parameter

    def gather(self, tasks: Sequence[str]) -> Tensor:
        """The parameters of `tasks`, concatenated; gradient reaches these and no others."""
        if len(tasks) == 1:
            return self[tasks[0]]
        return torch.cat([self[task] for task in tasks])


def initial_parameters(outputs: int, width: int) -> tuple[Tensor, Tensor]:
    """weight (outputs, width) and bias (outputs,), uniform within 1 / sqrt(width), as torch's own linear layer."""
    bound = 1 / math.sqrt(width)
    weight = torch.empty(outputs, width).uniform_(-bound, bound)
    return weight, torch.empty(outputs).uniform_(-bound, bound)
