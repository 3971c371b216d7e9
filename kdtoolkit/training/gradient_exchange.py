"""The gradients of a step, of several processes: each gets their mean, in as few messages as memory allows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .clipping import clip_gradients
from .collectives import from_all, sum_of
from .one_round import OneRound
from .table_exchange import TableExchange
from .upcoming import Meanwhile, idle

MESSAGE = 100_000_000
"""Bytes of gradients that are sent at once; so much memory an exchange takes."""


class GradientExchange:
    """Makes the gradient of each parameter the mean of the processes' gradients; what none has used keeps none.

    It works when the backward pass is over, where DDP begins within it. A CPU has no core that were free meanwhile, and
    what DDP does for it (a walk through the graph for what was not used, a message a bucket) costs a small student as
    much as its step. table: the embeddings of which rows are exchanged; they are no part of `parameters`.
    The parameters must be the same in all processes at the start.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], table: TableExchange | None = None) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._table = table

    @functools.cached_property
    def _at_once(self) -> OneRound | None:
        return OneRound.of(self._parameters, self._table)

    @torch.no_grad()
    def meet(self, meanwhile: Meanwhile = idle) -> None:
        """The means become `.grad`, in all processes at the same place. meanwhile: see `Sharing.finish`."""
        if not self._parameters and self._table is None:
            return
        if self._at_once is not None and self._at_once.meet(meanwhile):
            return
        facts = [] if self._table is None else self._table.facts()
        mine = [*facts, *(parameter.grad is not None for parameter in self._parameters)]
        device = self._parameters[0].device if self._table is None else self._table.table.weight.device
        every = torch.stack(from_all(torch.tensor(mine, dtype=torch.int64, device=device)))
        used = every[:, len(facts) :].any(0).tolist()
        chosen = [parameter for parameter, some in zip(self._parameters, used) if some]
        if self._table is not None:
            self._table.meet(every[:, : len(facts)].tolist())
        for alike in _messages(chosen):
            flat = sum_of([torch.zeros_like(p) if p.grad is None else p.grad for p in alike])
            flat /= len(every)
            for parameter, gradient in zip(alike, flat.split([parameter.numel() for parameter in alike])):
                parameter.grad = gradient.view_as(parameter)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scales the means, which are the gradients of `parameters`, as `clip_gradients` does."""
        norm = None if self._at_once is None else self._at_once.clip(max_norm)
        return clip_gradients(parameters, max_norm) if norm is None else norm


def _messages(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type together, as many as make a message: `MESSAGE` bytes, or one parameter."""
    for dtype in sorted({parameter.dtype for parameter in parameters}, key=str):
        message: list[nn.Parameter] = []
        size = 0
        for parameter in (parameter for parameter in parameters if parameter.dtype == dtype):
            here = parameter.numel() * parameter.element_size()
            if message and size + here > MESSAGE:
                yield message
                message, size = [], 0
            message.append(parameter)
            size += here
        yield message
