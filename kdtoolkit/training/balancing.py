"""`balance:`: how the losses of the tasks of a step become its gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..balance import DynamicWeights, LogVariances, precision, uncertainty_losses
from ..recipe.schema import Balance
from ..tasks import Task
from .gradients import Gradients, ProjectedGradients, SummedGradients

if TYPE_CHECKING:
    from ..heads import HeadOutputs
    from ..objectives import ObjectiveResult


class Balancing:
    """The balance of one call of `fit`, step by step: `start`, for each micro-batch `forward` and `backward`, `finish`.

    What is fixed and summed goes the shortest way: one loss, one backward pass. `by_task` tells whether the objective
    has to give the tasks' losses apart.
    With uncertainty weights, `model.log_variances` is a module until `close`; the model's forward pass gives what it
    says as `HeadOutputs.log_variances`. With pcgrad, `model.shared_parameters()` is what the tasks share (without such
    a method, all parameters).
    """

    def __init__(
        self, section: Balance, tasks: Sequence[Task], model: nn.Module, accelerator: Accelerator, steps_per_epoch: int
    ) -> None:
        self.section, self.tasks, self.model, self.accelerator = section, tasks, model, accelerator
        self.steps_per_epoch = steps_per_epoch
        self.by_task = section.weights != "fixed" or section.gradients != "sum"
        self._dwa = DynamicWeights(len(tasks), section.temperature) if section.weights == "dwa" else None
        self._regression = torch.tensor([task.kind == "regression" for task in tasks], device=accelerator.device)
        self._window: Tensor | None = None
        self._gradients: Gradients = SummedGradients(accelerator, model)
        self._learned: LogVariances | None = None
        if section.weights == "uncertainty":
            self._learned = LogVariances(len(tasks)).to(accelerator.device)
            model.log_variances = self._learned

    def prepare(self, wrapped: nn.Module, seed: int) -> None:
        """Called once the model is wrapped for several processes and before the first step."""
        self._gradients = SummedGradients(self.accelerator, wrapped)
        if self.section.gradients == "pcgrad":
            shared = getattr(self.model, "shared_parameters", self.model.parameters)()
            self._gradients = ProjectedGradients(self.accelerator, wrapped, self.model, shared, len(self.tasks), seed)

    def start(self, step: int) -> None:
        """A step begins."""
        if self._dwa is not None:
            self._dwa.start(step // self.steps_per_epoch)

    def forward(self, *, last: bool) -> AbstractContextManager[None]:
        """The context of the model's forward pass. last: of the step's micro-batches."""
        return self._gradients.forward(last=last)

    def backward(self, result: ObjectiveResult, heads: HeadOutputs, scale: float) -> None:
        """Adds a micro-batch to the step's gradient, its loss times `scale`; one of scale 0 counts nothing."""
        if not self.by_task:
            self._gradients.add(result.loss * scale)
            return
        assert result.task_losses is not None and result.task_weights is not None
        if self._dwa is not None and scale:
            sums = torch.stack([result.task_losses.detach(), result.task_weights])
            self._window = sums if self._window is None else self._window + sums
        self._gradients.add(self._weighed(result.task_losses, result.task_weights, heads) * scale)

    def finish(self, step: int) -> None:
        """The step's gradient is complete after this."""
        self._gradients.finish(step)
        if self._dwa is not None:
            none = torch.zeros(2, len(self.tasks), device=self.accelerator.device)
            self._dwa.add(self.accelerator.reduce(none if self._window is None else self._window, "sum"))
            self._window = None

    def values(self) -> dict[str, float]:
        """What each task's loss is multiplied by now, beside objective.weight: "balance/TASK"."""
        if self._dwa is not None:
            weights = self._dwa.weights
        elif self._learned is not None:
            weights = precision(torch.stack(list(self._learned.values)).detach(), self._regression).tolist()
        else:
            return {}
        return {f"balance/{task.name}": weight for task, weight in zip(self.tasks, weights)}

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint; what is learned is among the model's weights."""
        return {} if self._dwa is None else {"balance": self._dwa.state()}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a checkpoint's values."""
        if self._dwa is not None and state is not None:
            self._dwa.load(state["balance"], self.accelerator.device)

    def close(self) -> None:
        """Leaves the model as it was found: what the balance has learned is no part of it."""
        if self._learned is not None:
            self.model.register_module("log_variances", None)

    def _weighed(self, losses: Tensor, weights: Tensor, heads: HeadOutputs) -> Tensor:
        if self._dwa is not None:
            return losses * torch.tensor(self._dwa.weights, dtype=losses.dtype).to(losses.device)
        if self._learned is not None:
            if heads.log_variances is None:
                raise ValueError(f"{type(self.model).__name__} gives no log_variances, which balance.weights needs")
            return uncertainty_losses(losses, weights, heads.log_variances, self._regression)
        return losses
