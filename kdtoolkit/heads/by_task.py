"""Parameters and modules by task name."""

from __future__ import annotations

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


class TaskModules(nn.Module):
    """Modules by task name, `hidden.sst2.weight` in a state dict; no nn.ModuleDict, for the same reason."""

    def add(self, task: str, module: nn.Module) -> None:
        """Takes the module of a task in."""
        self._modules[task] = module

    def __contains__(self, task: str) -> bool:
        return task in self._modules

    def __getitem__(self, task: str) -> nn.Module:
        module = self._modules[task]
        assert module is not None
        return module
