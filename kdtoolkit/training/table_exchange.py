"""The rows of an embedding table that several processes have read in a step, in place of the whole table."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from .clipping import coalesced
from .collectives import as_the_first, from_all, sum_of


class TableExchange:
    """Makes the gradient of one table the mean of the processes' gradients, row by row.

    A step reads some hundred rows of a table of many thousand; to meet over all of them would cost a small student more
    than its step. The table must be the same in all processes at the start.
    """

    def __init__(self, table: nn.Embedding) -> None:
        self.table, self._size = table, distributed.get_world_size()
        self._own: Tensor | None = None

    def facts(self) -> list[int]:
        """What the others have to know before `meet`: how many rows this process has, and whether it has the whole."""
        gradient = self.table.weight.grad
        sparse = gradient is None or gradient.is_sparse
        self._own = coalesced(gradient) if gradient is not None and gradient.is_sparse else None
        return [0 if self._own is None else self._own.indices().shape[1], not sparse]

    def rows(self, most: int) -> tuple[Tensor, Tensor] | None:
        """This process's gradient: numbers of rows, (rows,), and values, (rows, width). None: it is whole.

        Rows may be there several times, as they were read, unless that makes them more than `most`.
        """
        weight = self.table.weight
        if weight.grad is None:
            return torch.empty(0, dtype=torch.int64, device=weight.device), weight.new_empty(0, weight.shape[1])
        if not weight.grad.is_sparse:
            return None
        if weight.grad._nnz() > most:
            weight.grad = coalesced(weight.grad)
        return weight.grad._indices()[0], weight.grad._values()

    def put(self, numbers: Tensor, values: Tensor) -> None:
        """These rows, each once and by number, become the gradient."""
        weight = self.table.weight
        weight.grad = torch.sparse_coo_tensor(
            numbers.unsqueeze(0), values, weight.shape, check_invariants=False, is_coalesced=True
        )

    @torch.no_grad()
    def meet(self, facts: list[list[int]]) -> None:
        """The mean over the processes becomes `.grad` in each; nothing where no process has a gradient.

        facts: those of all processes.
        """
        weight, counts = self.table.weight, [count for count, _ in facts]
        if any(whole for _, whole in facts):  # a table that is also used in another way
            total = torch.zeros_like(weight) if weight.grad is None else weight.grad.to_dense()
            weight.grad = sum_of([total]).view_as(weight) / self._size
        elif any(counts):
            numbers = torch.zeros(max(counts), dtype=torch.int64, device=weight.device)
            values = weight.new_zeros(max(counts), weight.shape[1])
            if self._own is not None:
                here = self._own.indices().shape[1]
                numbers[:here], values[:here] = self._own.indices()[0], self._own.values()
            # One message of both, as bytes: the numbers of the rows, and their gradients.
            mine = torch.cat([numbers.view(torch.uint8), values.view(torch.uint8).flatten()])
            parts = from_all(mine)
            border = numbers.numel() * numbers.element_size()
            places = torch.cat([part[:border].view(torch.int64)[:some] for part, some in zip(parts, counts)])
            slopes = torch.cat(
                [part[border:].view(weight.dtype).view_as(values)[:some] for part, some in zip(parts, counts)]
            )
            weight.grad = torch.sparse_coo_tensor(
                places.unsqueeze(0), slopes / self._size, weight.shape, check_invariants=False
            ).coalesce()
        self._own = None

    def as_the_first(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """The table of every process becomes the first's, to the bit, and with `optimizer` its moments too.

        Rows that wait are brought up to date when a process reads them, so that they differ by rounding meanwhile.
        """
        state = {} if optimizer is None else optimizer.state.get(self.table.weight, {})
        as_the_first([self.table.weight, *(state[key] for key in sorted(state) if state[key].ndim)])
