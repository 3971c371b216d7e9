"""A step's gradients of several processes on one machine, in one round through their shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import numpy as np
import torch
from torch import Tensor, distributed, nn

from .. import processes
from . import collectives, compiled_updates
from .clipping import clip_pieces
from .compiled_updates import Pieces
from .shared_memory import LINE, SharedMemory
from .table_exchange import TableExchange
from .upcoming import Meanwhile, idle

COUNT = Struct("@q")
"""The number that a message begins with: how many rows of the table."""
UNFIT = -1
"""In its place: more rows than there is room for, or the whole table."""


class OneRound:
    """What `GradientExchange` does else in three rounds, in each of which all wait for the last process.

    A process writes how many rows of the table it has and which parameters have a gradient, all these gradients one
    after the other, the numbers of the rows and their values. What all have written is averaged by compiled code.
    """

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter], table: TableExchange | None) -> OneRound | None:
        """None where not all processes can: no shared memory, no compiled code, several types of numbers, too many."""
        if not parameters:
            return None
        memory = collectives.memory_of(parameters[0])
        found = None
        if memory is not None and compiled_updates.can([*parameters, *([] if table is None else [table.table.weight])]):
            found = cls(parameters, table, memory)
        everywhere = int(processes.total(found is not None and found.rows >= 0)) == distributed.get_world_size()
        return found if everywhere else None

    def __init__(self, parameters: Sequence[nn.Parameter], table: TableExchange | None, memory: SharedMemory) -> None:
        self._parameters, self._table, self._memory = parameters, table, memory
        self._sizes = [parameter.numel() for parameter in parameters]
        self._dtype = parameters[0].dtype
        self._header = COUNT.size + len(parameters)
        self._from = _lines(self._header)  # where the gradients begin, in bytes
        self._to = self._from + sum(self._sizes) * self._dtype.itemsize
        self._rows_from = _lines(self._to)
        width = 0 if table is None else table.table.weight.shape[1]
        self.rows = (memory.room - self._rows_from - LINE) // (8 + width * self._dtype.itemsize)
        """For how many rows of the table there is room; below 0: not for the gradients before them."""
        self._met: list[Pieces] = []  # the means of the last round, until they are clipped
        self._norm = 0.0

    def meet(self, meanwhile: Meanwhile = idle) -> bool:
        """The means become `.grad`, in all processes at the same place. False: of none, as rows of one are unfit.

        meanwhile: called while this process would wait for another.
        """
        own = None if self._table is None else self._table.rows(self.rows)
        if own is None:
            count = 0 if self._table is None else UNFIT
        else:
            count = len(own[0]) if len(own[0]) <= self.rows else UNFIT
        gradients = [_without_gaps(parameter) for parameter in self._parameters]
        mine = bytes([gradient is not None for gradient in gradients])
        header = np.frombuffer(COUNT.pack(count) + mine, np.uint8)
        pieces = Pieces(gradients, self._sizes, self._dtype)

        def write(place: Tensor) -> None:
            place.numpy()[: self._header] = header
            pieces.gather(place[self._from : self._to])
            if own is not None and count > 0:
                for there, here in zip(self._table_in(place, count), own):
                    there.copy_(here)

        parts = self._memory.meet(self._memory.room, write, meanwhile)
        headers = [part.numpy()[: self._header].tobytes() for part in parts]
        counts = [COUNT.unpack_from(header)[0] for header in headers]
        if UNFIT in counts:
            self._met = []
            return False
        others = {header[COUNT.size :] for header in headers} - {mine}
        for place in {place for used in others for place, one in enumerate(used) if one and not mine[place]}:
            gradients[place] = self._parameters[place].grad = torch.empty_like(self._parameters[place])
        if others:
            pieces = Pieces(gradients, self._sizes, self._dtype)
        self._met = [pieces]
        squares = pieces.average([part[self._from : self._to] for part in parts])
        if self._table is not None and any(counts):
            rows = [self._table_in(part, some) for part, some in zip(parts, counts)]
            numbers, values = compiled_updates.merged(rows, 1 / len(parts))
            self._table.put(numbers, values)
            self._met.append(Pieces.of([values]))
            squares += self._met[1].squares()
        self._norm = squares**0.5
        return True

    def clip(self, max_norm: float) -> Tensor | None:
        """Scales the means to a norm of at most `max_norm`, once; their norm before that. None: they are not here."""
        met, self._met = self._met, []
        return clip_pieces(met, self._norm, max_norm, self._dtype) if met else None

    def _table_in(self, message: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Numbers and values of the rows in a message."""
        assert self._table is not None
        weight = self._table.table.weight
        border = self._rows_from + 8 * count
        end = border + count * weight.shape[1] * weight.element_size()
        values = message[border:end].view(weight.dtype).view(count, weight.shape[1])
        return message[self._rows_from : border].view(torch.int64), values


def _without_gaps(parameter: nn.Parameter) -> Tensor | None:
    if parameter.grad is not None and not parameter.grad.is_contiguous():
        parameter.grad = parameter.grad.contiguous()
    return parameter.grad


def _lines(count: int) -> int:
    """So many bytes or more, to the end of a line."""
    return -(-count // LINE) * LINE
