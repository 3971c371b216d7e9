"""From the losses of a window's micro-batches to the gradient of its step."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..balance import projected_sum, shuffled_orders
from .randomness import derived_seed


class Gradients(Protocol):
    """What puts the gradient of a step together, in `.grad` of the parameters."""

    def forward(self, *, last: bool) -> AbstractContextManager[None]:
        """The context in which the wrapped model has to run. last: of the step's micro-batches."""

    def add(self, losses: Tensor) -> None:
        """A micro-batch's share of the step's loss: (tasks,), whose sum it is, or that sum; 0 for an idle task."""

    def finish(self, step: int) -> None:
        """The last micro-batch of a step was added."""


class SummedGradients:
    """The gradient of the sum of the tasks' losses. The processes meet once a step, in its last backward pass."""

    def __init__(self, accelerator: Accelerator, wrapped: nn.Module) -> None:
        self.accelerator, self.wrapped = accelerator, wrapped

    def forward(self, *, last: bool) -> AbstractContextManager[None]:
        if last or self.accelerator.num_processes == 1:
            return nullcontext()
        context: AbstractContextManager[None] = self.accelerator.no_sync(self.wrapped)
        return context

    def add(self, losses: Tensor) -> None:
        self.accelerator.backward(losses if losses.ndim == 0 else losses.sum())

    def finish(self, step: int) -> None:
        pass


class ProjectedGradients:
    """PCGrad (Yu et al. 2020, arXiv:2001.06782) over whole windows.

    On the parameters `shared`, each task's gradient is gathered over all micro-batches of the window and all
    processes, and only then projected: cutting a window changes nothing beyond rounding. The other parameters of
    `model` (tasks' own heads, projections of the objective's terms, log-variances) get the plain sum, which for a
    task's own head is that task's gradient. The order of the projections is a function of (seed, step).

    Costs: one backward pass a task instead of one in all, and the memory of as many gradients of `shared` as there are
    tasks.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        wrapped: nn.Module,
        model: nn.Module,
        shared: Iterable[nn.Parameter],
        tasks: int,
        seed: int,
    ) -> None:
        self.accelerator, self.wrapped, self.tasks, self.seed = accelerator, wrapped, tasks, seed
        self._shared = [parameter for parameter in shared if parameter.requires_grad]
        known = set(self._shared)
        self._others = [p for p in model.parameters() if p.requires_grad and p not in known]
        self._by_task: list[Tensor | None] = [None] * len(self._shared)  # each (tasks, *shape)
        self._sum: list[Tensor | None] = [None] * len(self._others)

    def forward(self, *, last: bool) -> AbstractContextManager[None]:
        # The processes meet in `finish`, task by task; what a distributed wrapper would average is too early.
        context: AbstractContextManager[None] = self.accelerator.no_sync(self.wrapped)
        return context

    def add(self, losses: Tensor) -> None:
        present = losses.detach().ne(0).nonzero().squeeze(1).tolist()
        for task in present:
            found = torch.autograd.grad(
                losses[task], [*self._shared, *self._others], retain_graph=task != present[-1], allow_unused=True
            )
            for place, gradient in enumerate(found[: len(self._shared)]):
                if gradient is not None:
                    _gathered(self._by_task, place, gradient, self.tasks)[task] += gradient
            for place, gradient in enumerate(found[len(self._shared) :]):
                if gradient is not None:
                    before = self._sum[place]
                    self._sum[place] = gradient.clone() if before is None else before + gradient

    def finish(self, step: int) -> None:
        self._meet()
        gathered = [(p, gradients) for p, gradients in zip(self._shared, self._by_task) if gradients is not None]
        gram = torch.zeros(self.tasks, self.tasks, dtype=torch.float64, device=self.accelerator.device)
        for _, gradients in gathered:
            flat = gradients.flatten(1)
            gram += (flat @ flat.t()).double()
        weights = projected_sum(gram, shuffled_orders(self.tasks, derived_seed(self.seed, step, "pcgrad")))
        for parameter, gradients in gathered:
            parameter.grad = torch.tensordot(weights.to(gradients), gradients, 1)
        for parameter, total in zip(self._others, self._sum):
            parameter.grad = total
        self._by_task, self._sum = [None] * len(self._shared), [None] * len(self._others)

    def _meet(self) -> None:
        """The means over all processes; a gradient that one of them has, all have."""
        if self.accelerator.num_processes == 1:
            return
        mine = [gradient is not None for gradient in (*self._by_task, *self._sum)]
        found = self.accelerator.reduce(torch.tensor(mine, dtype=torch.float32, device=self.accelerator.device), "sum")
        has = found.gt(0).tolist()
        for place, parameter in enumerate(self._shared):
            if has[place]:
                gradients = _gathered(self._by_task, place, parameter, self.tasks)
                self._by_task[place] = self.accelerator.reduce(gradients, "mean")
        for place, parameter in enumerate(self._others):
            if has[len(self._shared) + place]:
                own = self._sum[place]
                total = torch.zeros_like(parameter) if own is None else own
                self._sum[place] = self.accelerator.reduce(total, "mean")


def _gathered(by_task: list[Tensor | None], place: int, like: Tensor, tasks: int) -> Tensor:
    """The gradients of one parameter, (tasks, *shape), zero at first."""
    gradients = by_task[place]
    if gradients is None:
        gradients = by_task[place] = torch.zeros(tasks, *like.shape, dtype=like.dtype, device=like.device)
    return gradients
