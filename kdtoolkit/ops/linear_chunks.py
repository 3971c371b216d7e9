"""The work of `linear_soft_cross_entropy`: logits by chunks of rows, their loss, and the gradients of the layer.

A chunk's logits are made in memory that all chunks share, and replaced there by their gradient, which is multiplied
into the gradients of hidden states, weight and bias at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference
from .arguments import PLAIN, Arguments
from .backend import Implementation, implementation
from .call import Results, cuts_of
from .native import MOST_MEMBERS

CHUNK_BYTES = {"cpu": 24 * 2**20}
"""Device type -> size of a chunk of logits. Smaller chunks add up the weight's gradient more often; on a CPU, memory
for larger ones is new pages in every call, which cost more than the arithmetic on them."""
OTHER_CHUNK_BYTES = 64 * 2**20
WEIGHTS_IN_CHUNK = 5
"""A chunk may have a fifth of the size of a large weight, whose gradient needs that size anyway."""
UNIT_ROWS = 16
"""Chunks are of a multiple of so many rows."""

EACH_ROW = ("labels", "kind", "temperature", "alpha", "beta", "weight")
"""Fields of Arguments of which there may be one value per row."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of hidden, weight and bias; None: not wanted."""

_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


class Layer(NamedTuple):
    """A linear layer and what it is applied to: logits that are made when they are needed.

    hidden (rows, width), weight (classes, width), bias (classes,) or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits: autocast's, which leaves float64 alone, or the layer's."""
        double = any(value is not None and value.dtype == torch.float64 for value in self)
        asked = None if double else autocast_dtype(self.hidden.device.type)
        return asked or self.hidden.dtype

    def stand_in(self) -> Tensor:
        """A tensor with the shape of all logits and the memory of one number, for checks of what goes with them."""
        shape = (*self.hidden.shape[:-1], self.weight.shape[0])
        return torch.zeros((), dtype=self.dtype, device=self.hidden.device).expand(shape)

    def flat(self) -> Layer:
        """The same with one dimension of rows."""
        return self._replace(hidden=self.hidden.reshape(math.prod(self.hidden.shape[:-1]), self.hidden.shape[-1]))

    def to(self, dtype: torch.dtype) -> Layer:
        """The same in another dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return Layer(self.hidden.to(dtype), self.weight.to(dtype), bias)

    def logits(self, hidden: Tensor, memory: Tensor) -> Tensor:
        """The logits of some hidden states, (their rows, classes), in the first rows of `memory`."""
        out = memory[: len(hidden)]
        if self.bias is None:
            return torch.mm(hidden, self.weight.t(), out=out)
        return torch.addmm(self.bias, hidden, self.weight.t(), out=out)


class Work(NamedTuple):
    """A checked call.

    call: with one dimension of rows, but for a teacher's logits: (members, rows, classes) with the rows as they came.
    Stand-ins hold the place of logits that are still to be made; `normalizer` is what a mean is divided by.
    teacher: a layer to make the teacher's logits. counted: (rows,), which rows are read; None: all.
    dtype, teacher_dtype: of the logits to be made. chunk: its rows. compiled: the backend, None for the reference.
    """

    call: Arguments
    teacher: Layer | None
    counted: Tensor | None
    dtype: torch.dtype
    teacher_dtype: torch.dtype | None
    chunk: int
    compiled: Implementation | None


def planned(call: Arguments, student: Layer, teacher: Layer | None, chunk_rows: int | None) -> Work:
    """How a checked call is computed. chunk_rows: rows of a chunk, None for the usual number."""
    stand_in, rows, classes = call.student, math.prod(call.shape), call.student.shape[-1]
    teacher = None if call.teacher is None else teacher
    flat: dict[str, Any] = {"student": stand_in.reshape(rows, classes)}
    for name in EACH_ROW:
        value = getattr(call, name)
        flat[name] = value.reshape(-1) if isinstance(value, Tensor) else value
    if call.teacher is not None and call.teacher.dim() == stand_in.dim():
        flat["teacher"] = call.teacher.unsqueeze(0)
    if call.teacher_weights is not None and call.teacher_weights.dim() > 1:
        flat["teacher_weights"] = call.teacher_weights.reshape(call.members, rows)
    call = call._replace(**flat, readable=False)  # what can be looked at was looked at
    counted = counted_rows(call, rows)
    if call.reduction == "mean" and call.normalizer is None:
        call = call._replace(normalizer=total_weight(call, counted, rows))
    chunk = chunk_rows or usual_chunk(
        rows, bytes_of_row(student, teacher), bytes_of_chunk(student), bytes_of_sums(student)
    )
    # A compiled backend sees memory: where that may not be what it seems, plain PyTorch runs, chunk by chunk.
    plain = type(student.hidden) in PLAIN and type(student.weight) in PLAIN and _dispatch_modes() == 0
    compiled = implementation(stand_in.device.type) if plain and call.members <= MOST_MEMBERS else None
    return Work(
        call, None if teacher is None else teacher.flat(), counted, stand_in.dtype,
        None if teacher is None else teacher.dtype, max(min(chunk, rows), 1), compiled,
    )  # fmt: skip


def bytes_of_row(student: Layer, teacher: Layer | None) -> int:
    """Memory of the logits that are made for one row."""
    return sum(len(layer.weight) * layer.dtype.itemsize for layer in (student, teacher) if layer)


def bytes_of_chunk(student: Layer) -> int:
    """Memory that the logits of a chunk may take."""
    usual = CHUNK_BYTES.get(student.hidden.device.type, OTHER_CHUNK_BYTES)
    return max(usual, student.weight.numel() * student.dtype.itemsize // WEIGHTS_IN_CHUNK)


def bytes_of_sums(student: Layer) -> int:
    """Memory in which the gradient of a weight of low precision is added up, where there are several chunks."""
    weight = student.weight
    return 4 * weight.numel() if weight.requires_grad and weight.dtype.itemsize < 4 else 0


def usual_chunk(rows: int, row_bytes: int, chunk_bytes: int, sums: int = 0) -> int:
    """Rows of a chunk: as many as its size allows, and about the same number in each; all if the memory of the sums
    that several chunks need would be more.
    """
    if 0 < rows * row_bytes <= sums:
        return rows
    most = chunk_bytes // (row_bytes * UNIT_ROWS) * UNIT_ROWS
    chunks = math.ceil(rows / max(most, UNIT_ROWS))
    return math.ceil(rows / max(chunks, 1) / UNIT_ROWS) * UNIT_ROWS


def counted_rows(call: Arguments, rows: int) -> Tensor | None:
    """(rows,) True where a row is read; None if they all are, whatever the tensors hold."""
    counted = None
    if isinstance(call.weight, Tensor) or call.weight == 0:
        counted = per_row(call.weight, call, rows) != 0
    if call.labels is not None and call.ignore == "row":
        labelled = (call.labels != call.ignore_index) | (per_row(call.alpha, call, rows) == 0)
        counted = labelled if counted is None else counted & labelled
    return counted


def total_weight(call: Arguments, counted: Tensor | None, rows: int) -> Tensor:
    """() sum of the weights of the rows that are read; 1 if it is 0."""
    weight = per_row(call.weight, call, rows)
    total = (weight if counted is None else weight.masked_fill(~counted, 0.0)).sum()
    return total.masked_fill(total == 0, 1.0)


def per_row(value: float | Tensor, call: Arguments, rows: int) -> Tensor:
    """(rows,) in the type of the arithmetic."""
    return reference.per_row(value, call.student.new_empty(rows, dtype=call.number))


def each_chunk(
    student: Layer, work: Work, wanted: Sequence[bool], grad_output: Tensor | None = None, want_loss: bool = True
) -> tuple[Results, Gradients]:
    """The results, if they are wanted, and the wanted ones of the gradients, times grad_output.

    student: its layer, flat. grad_output: of the loss's shape, flat; None: 1.
    """
    call, rows, each = work.call, len(student.hidden), work.call.reduction == "none"
    dtypes = [value if value is None else value.dtype for value in student]
    with autocast_off(student.hidden.device.type):
        student = student.to(work.dtype)
        memory = student.hidden.new_empty(work.chunk, call.student.shape[1])
        teacher, teacher_memory = work.teacher, None
        if teacher is not None and work.teacher_dtype is not None:
            teacher = teacher.to(work.teacher_dtype)
            teacher_memory = teacher.hidden.new_empty(memory.shape)
        results = new_results(call, rows) if want_loss else (None, None, None)
        gradients = new_gradients(student, dtypes, wanted, single=rows <= work.chunk)
        for start in range(0, rows, work.chunk):
            chunk = slice(start, min(start + work.chunk, rows))
            hidden = student.hidden[chunk]
            if work.counted is not None:
                hidden = hidden.masked_fill(~work.counted[chunk].unsqueeze(1), 0.0)  # 0 * NaN would be NaN
            logits = student.logits(hidden, memory)
            if teacher is None or teacher_memory is None:
                soft = teacher_rows(call, chunk)
            else:
                soft = teacher.logits(teacher.hidden[chunk], teacher_memory)
            incoming = grad_output[chunk] if each and grad_output is not None else grad_output
            part = rows_of(call, chunk, logits, soft)
            parts, gradient = loss_of_chunk(part, work.compiled, any(wanted), incoming, want_loss)
            add_results(results, parts, chunk if each else None)
            if gradient is not None:
                add_gradients(gradients, gradient, hidden, student.weight, chunk)
        finished = [value if value is None else value.to(dtype) for value, dtype in zip(gradients, dtypes)]
    return results, (finished[0], finished[1], finished[2])


def loss_of_chunk(
    part: Arguments, compiled: Implementation | None, wants_gradient: bool, grad_output: Tensor | None, want_loss: bool
) -> tuple[Results, Tensor | None]:
    """The results of a chunk, and the gradient of its logits, which takes their place if the backend can do that."""
    if compiled is not None:
        gradient = part.student if wants_gradient else None
        return compiled.run(part, gradient=gradient, grad_output=grad_output, want_loss=want_loss), gradient
    if not wants_gradient:
        return reference.evaluate(part), None
    with torch.enable_grad():
        logits = part.student.detach().requires_grad_()
        loss, soft, hard = reference.evaluate(part._replace(student=logits))
        (gradient,) = torch.autograd.grad(loss, logits, torch.ones_like(loss) if grad_output is None else grad_output)
    return (loss.detach(), soft, hard), gradient


def rows_of(call: Arguments, chunk: slice, student: Tensor, teacher: Tensor | None) -> Arguments:
    """The call for some of its rows, with their logits."""
    own: dict[str, Any] = {"student": student, "teacher": teacher}
    for name in (*EACH_ROW, "listed_index", "listed_value"):
        value = getattr(call, name)
        own[name] = value[chunk] if isinstance(value, Tensor) else value
    if call.teacher_weights is not None and call.teacher_weights.dim() > 1:
        own["teacher_weights"] = call.teacher_weights[:, chunk]
    return call._replace(**own)


def teacher_rows(call: Arguments, chunk: slice) -> Tensor | None:
    """(members, rows, classes) of the teacher's logits; None without a dense teacher.

    As they lie in memory, or copied where no one stride leads from row to row (logits shifted by a token).
    """
    teacher = call.teacher
    if teacher is None:
        return None
    if 0 in cuts_of(teacher, 1):
        return teacher.view(call.members, -1, teacher.shape[-1])[:, chunk]
    rows = torch.arange(chunk.start, chunk.stop, device=teacher.device)
    places: Any = (slice(None), *torch.unravel_index(rows, teacher.shape[1:-1]))
    return teacher[places]


def new_results(call: Arguments, rows: int) -> Results:
    """Zeros for what the call returns."""
    loss = call.student.new_zeros(rows if call.reduction == "none" else (), dtype=call.number)
    if not call.return_parts:
        return loss, None, None
    return loss, torch.zeros_like(loss), torch.zeros_like(loss)


def add_results(results: Results, parts: Results, chunk: slice | None) -> None:
    """Puts the results of a chunk in their place; chunk None: adds them up."""
    for result, part in zip(results, parts):
        if result is None or part is None:
            continue
        if chunk is None:
            result.add_(part)
        else:
            result[chunk] = part


def new_gradients(
    student: Layer, dtypes: Sequence[torch.dtype | None], wanted: Sequence[bool], *, single: bool
) -> Gradients:
    """Memory for the gradients. What is added up over chunks is so in float32, or float64 where the layer is.

    dtypes: that the gradients will have. single: nothing is added up.
    """
    hidden, weight, bias = student
    number = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    of_weight = dtypes[1] if single else number
    made = torch.zeros_like if len(hidden) == 0 else torch.empty_like
    return (
        made(hidden) if wanted[0] else None,
        made(weight, dtype=of_weight) if wanted[1] else None,
        torch.zeros_like(bias, dtype=number) if wanted[2] and bias is not None else None,
    )


def add_gradients(gradients: Gradients, of_logits: Tensor, hidden: Tensor, weight: Tensor, chunk: slice) -> None:
    """What a chunk adds to the gradients of the layer: of_logits (rows, classes), hidden (rows, width)."""
    of_hidden, of_weight, of_bias = gradients
    if of_hidden is not None:
        torch.mm(of_logits, weight, out=of_hidden[chunk])
    if of_weight is not None:
        add_product(of_weight, of_logits, hidden, first=chunk.start == 0)
    if of_bias is not None:
        of_bias.add_(of_logits.sum(0))


def add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """total += left.T @ right, or = for the first. A total of higher precision takes blocks no larger than `left`."""
    if total.dtype == left.dtype:
        total.addmm_(left.t(), right, beta=0 if first else 1)
        return
    block = max(left.numel() // max(total.shape[1], 1), 1)
    for start in range(0, len(total), block):
        columns = slice(start, start + block)
        product = torch.mm(left[:, columns].t(), right)
        if first:
            total[columns] = product
        else:
            total[columns] += product


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """In which autocast computes a linear layer now; None if it is off."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def autocast_off(device_type: str) -> AbstractContextManager[Any]:
    """Dtypes are chosen by the caller: autocast leaves the products alone."""
    return nullcontext() if autocast_dtype(device_type) is None else torch.autocast(device_type, enabled=False)
