"""The rows of an embedding table that several processes have read in a step, in place of the whole table."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


class TableExchange:
    """Makes the gradient of one table that of all processes, as DDP does with every other parameter, row by row.

    A step reads some hundred rows of a table of many thousand; to meet over all of them would cost a small student more
    than its step. The table must be the same in all processes at the start.
    """

    def __init__(self, table: nn.Embedding) -> None:
        self.table, self._size = table, distributed.get_world_size()

    @torch.no_grad()
    def meet(self) -> None:
        """The mean over the processes becomes `.grad` in each; nothing where no process has a gradient."""
        weight = self.table.weight
        own = weight.grad
        sparse = own is None or own.is_sparse
        gradient = own.coalesce() if own is not None and own.is_sparse else None
        count = 0 if gradient is None else gradient.indices().shape[1]
        facts = torch.tensor([count, not sparse], dtype=torch.int64, device=weight.device)
        counts, whole = torch.stack(self._from_all(facts)).t().tolist()
        if any(whole):  # a table that is also used in another way
            total = torch.zeros_like(weight) if own is None else own.to_dense()
            distributed.all_reduce(total)
            weight.grad = total / self._size
        elif any(counts):
            rows = torch.zeros(max(counts), dtype=torch.int64, device=weight.device)
            values = weight.new_zeros(max(counts), weight.shape[1])
            if gradient is not None:
                rows[:count], values[:count] = gradient.indices()[0], gradient.values()
            places = torch.cat([part[:some] for part, some in zip(self._from_all(rows), counts)])
            slopes = torch.cat([part[:some] for part, some in zip(self._from_all(values), counts)]) / self._size
            weight.grad = torch.sparse_coo_tensor(places.unsqueeze(0), slopes, weight.shape).coalesce()

    @torch.no_grad()
    def as_the_first(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """The table of every process becomes the first's, to the bit, and with `optimizer` its moments too.

        Rows that wait are brought up to date when a process reads them, so that they differ by rounding meanwhile.
        """
        state = {} if optimizer is None else optimizer.state.get(self.table.weight, {})
        for tensor in (self.table.weight, *(state[key] for key in sorted(state) if state[key].ndim)):
            distributed.broadcast(tensor, 0)

    def _from_all(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self._size)]
        distributed.all_gather(parts, tensor)
        return parts
