"""Sums of what the loop logs, kept on the device so that logging costs no synchronisation per step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..tasks import Task
from .collectives import sum_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..objectives import ObjectiveResult


class Meter:
    """Soft and gold parts by task (nats a row that has them), gradient norm and rows per second since `take`."""

    def __init__(self, tasks: Sequence[Task], terms: Sequence[str] = ()) -> None:
        """terms: labels of the objective's further terms, in its order."""
        self.tasks, self.terms = tasks, terms
        self.gradient_norm: Tensor | float | None = None
        self._clear()

    def _clear(self) -> None:
        self._sums: Tensor | None = None
        self._loss: Tensor | None = None
        self._terms: Tensor | None = None
        self._since = time.perf_counter()

    def add(self, result: ObjectiveResult) -> None:
        """Adds the parts of one micro-batch."""
        parts = torch.stack([result.soft, result.soft_rows, result.hard, result.hard_rows, result.rows])  # (5, tasks)
        self._sums = parts if self._sums is None else self._sums + parts
        if result.terms is not None and result.term_rows is not None:
            terms = torch.stack([result.terms, result.term_rows])  # (2, terms, tasks)
            self._terms = terms if self._terms is None else self._terms + terms
        loss = result.loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    def _meet(self, accelerator: Accelerator) -> None:
        """The sums over all processes, of which some may have had no row."""

        def mine(sums: Tensor | None, *shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=accelerator.device) if sums is None else sums.double()

        tasks, terms = len(self.tasks), len(self.terms)
        own = [mine(self._loss), mine(self._sums, 5, tasks), mine(self._terms, 2, terms, tasks)]
        loss, sums, of_terms = sum_of(own).split([part.numel() for part in own])
        self._loss, self._sums = loss.view(()), sums.view(5, tasks)
        if terms:
            self._terms = of_terms.view(2, terms, tasks)

    def take(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """The values since the last call, by TensorBoard tag; "finite" is 0.0 if the loss was not.

        accelerator: of several processes; the values then are over the rows of all.
        """
        values = {"finite": 1.0}
        if accelerator is not None and accelerator.num_processes > 1:
            self._meet(accelerator)
        if self._sums is not None and self._loss is not None:
            soft, soft_rows, hard, hard_rows, rows = self._sums.cpu().tolist()
            total, loss = sum(rows), float(self._loss)
            values["finite"] = float(loss == loss and abs(loss) != float("inf"))
            values["loss/all"] = loss / max(total, 1.0)
            values["rows_per_second"] = total / max(time.perf_counter() - self._since, 1e-9)
            for kind, sums, counts in (("soft", soft, soft_rows), ("gold", hard, hard_rows)):
                for task, part, count in zip(self.tasks, sums, counts):
                    if count:
                        values[f"loss_{kind}/{task.name}"] = part / count
        if self._terms is not None:
            for label, sums, counts in zip(self.terms, *self._terms.cpu().tolist(), strict=True):
                for task, part, count in zip(self.tasks, sums, counts):
                    if count:
                        values[f"loss_{label}/{task.name}"] = part / count
        if self.gradient_norm is not None:
            values["gradient_norm"] = float(self.gradient_norm)
        self._clear()
        return values
