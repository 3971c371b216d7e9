"""Dynamic weight average: tasks whose losses fall slowly are weighed more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def dwa_weights(last: Sequence[float], before: Sequence[float], temperature: float) -> list[float]:
    """K * softmax(r / temperature) over K tasks, r = last / before (Liu et al. 2019, arXiv:1803.10704, DWA).

    last, before: each task's mean loss in the last epoch and in the one before. A task that was not visited in one of
    them (NaN), or whose loss was not positive in the earlier one, counts as one whose loss stays the same, r = 1.
    """
    rates = [now / then if then > 0 and not math.isnan(now) else 1.0 for now, then in zip(last, before, strict=True)]
    highest = max(rates)
    shares = [math.exp((rate - highest) / temperature) for rate in rates]
    return [len(shares) * share / math.fsum(shares) for share in shares]


class DynamicWeights:
    """The weights of each epoch, from the mean losses of the two epochs before it; 1 in the first two.

    A task's mean loss is taken over an epoch's row visits, each row weighing its objective.weight, before the weights
    here. An epoch is that of the batch plan. So a step's weights depend on all rows of two earlier epochs; they are no
    function of the step's own rows, but how windows are cut still changes nothing beyond rounding.
    """

    def __init__(self, tasks: int, temperature: float) -> None:
        self.tasks, self.temperature = tasks, temperature
        self.epoch = 0
        self.weights = [1.0] * tasks
        self._means: list[list[float]] = []  # of the last two epochs, the later one last
        self._sums: Tensor | None = None  # of this epoch: (2, tasks) float64, see `add`

    def start(self, epoch: int) -> None:
        """Called before each step with its epoch; a new epoch closes the one before."""
        if epoch == self.epoch:
            return
        losses, weights = self._totals()
        means = [loss / weight if weight else math.nan for loss, weight in zip(losses, weights)]
        self._means = [*self._means, means][-2:]
        self._sums, self.epoch = None, epoch
        if len(self._means) == 2:
            self.weights = dwa_weights(self._means[1], self._means[0], self.temperature)

    def add(self, sums: Tensor) -> None:
        """Counts a step. sums: (2, tasks), the sums over its rows, of all processes, of weight * loss and of weight."""
        sums = sums.detach().double()
        self._sums = sums if self._sums is None else self._sums + sums

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint, exact: JSON writes a float so that it is read back to the bit."""
        return {"epoch": self.epoch, "weights": self.weights, "means": _marked(self._means), "sums": self._totals()}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on from `state()`."""
        self.epoch, self.weights = state["epoch"], list(state["weights"])
        self._means = [[math.nan if value is None else value for value in epoch] for epoch in state["means"]]
        self._sums = torch.tensor(state["sums"], dtype=torch.float64, device=device)

    def _totals(self) -> list[list[float]]:
        if self._sums is None:
            return [[0.0] * self.tasks, [0.0] * self.tasks]
        totals: list[list[float]] = self._sums.tolist()
        return totals


def _marked(means: list[list[float]]) -> list[list[float | None]]:
    """NaN as None, for JSON has none."""
    return [[None if math.isnan(value) else value for value in epoch] for epoch in means]
