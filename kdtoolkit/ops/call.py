"""From checked arguments to the one structure that compiled backends take (csrc/call.cuh), and its results.

Tensors are handed over as they lie in memory. What a kernel cannot read so is copied: logits whose last stride is not 1
or whose rows have more than two strides, and values per row of another dtype or with gaps.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import Arguments
from .native import LAYOUT, REDUCTIONS, SIZE, TAILS, TYPES

Results = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Loss, soft part, hard part; None: not wanted."""


class Packed(NamedTuple):
    """A packed call. It holds addresses only: `kept` are tensors made for it, to be kept until the call is over."""

    data: bytes
    kept: list[Tensor]


def new_results(call: Arguments) -> Results:
    """Memory for what the call returns: one number each, or one per row; the parts only if they are asked for."""
    shape = call.shape if call.reduction == "none" else ()
    loss = torch.empty(shape, dtype=call.number, device=None if call.student.is_cpu else call.student.device)
    if not call.return_parts:
        return loss, None, None
    return loss, torch.empty_like(loss), torch.empty_like(loss)


def packed(
    call: Arguments,
    results: Results = (None, None, None),
    *,
    gradient: Tensor | None = None,
    grad_output: Tensor | None = None,
    threads: int = 1,
    check: bool = False,
    bad_row: int = 0,
    row_results: int = 0,
    counter: int = 0,
) -> Packed:
    """The call as bytes. gradient: of the student's shape and dtype, contiguous, or the student's own memory if
    `function.own_memory` allows that. grad_output: of the loss's shape and dtype; None: 1. bad_row, row_results,
    counter: addresses.
    """
    (student, teacher, labels, kind, temperature, alpha, beta, weight, start, count, normalizer, shares, listed_index,
     listed_value, members, tail, listed_is_log, scale_T2, ignore_index, ignore, reduction, *_) = call  # fmt: skip
    kept: list[Tensor] = []
    number = torch.float64 if student.dtype is torch.float64 else torch.float32
    gradient_at = 0 if gradient is None else gradient.data_ptr()
    teacher_at = teacher_type = teacher_outer = teacher_inner = teacher_member = 0
    if student.dim() == 2 and student.is_contiguous() and (
        teacher is None or (teacher.dim() == 2 and teacher.is_contiguous() and not teacher.is_neg())
    ) and not student.is_neg():  # fmt: skip
        # The usual matrices, in less time than any.
        rows, classes = inner, student_inner = student.shape
        student_outer = gradient_outer = 0
        gradient_inner, width = classes, classes
        if teacher is not None:
            teacher_at, teacher_type, width = teacher.data_ptr(), TYPES[teacher.dtype], teacher.shape[1]
            teacher_inner = width
    else:
        inner, student, teacher = laid_out(student, teacher, kept)
        size = student.shape
        width = classes = size[-1]
        rows = size[0] if len(size) == 2 else math.prod(size[:-1])
        student_outer, student_inner = row_strides(student, inner)
        gradient_outer, gradient_inner = (0, 0) if gradient is None else row_strides(gradient, inner)
        if teacher is not None:
            teacher_at, teacher_type, width = teacher.data_ptr(), TYPES[teacher.dtype], teacher.shape[-1]
            stacked = teacher.dim() > len(size)
            teacher_outer, teacher_inner = row_strides(teacher, inner, stacked)
            teacher_member = teacher.stride(0) if stacked else 0

    listed = listed_at = listed_value_at = 0
    if listed_index is not None and listed_value is not None:
        listed, listed_at = listed_index.shape[1], address(listed_index, torch.int64, kept)
        listed_value_at = address(listed_value, number, kept)
    labels_at = label_bytes = 0
    if labels is not None:
        labels_at, label_bytes = address(labels, labels.dtype, kept), 8 if labels.dtype is torch.int64 else 4
    shares_at = share_member = share_row = 0
    if shares is not None:
        shares_at = address(shares, number, kept)
        share_member, share_row = math.prod(shares.shape[1:]), int(shares.dim() > 1)
    normalizer_at = 0
    if normalizer is not None:
        if not isinstance(normalizer, Tensor):
            normalizer = torch.full((), normalizer, dtype=number, device=student.device)
            kept.append(normalizer)
        normalizer_at = address(normalizer, number, kept)
    incoming = incoming_stride = 0
    if grad_output is not None:
        incoming_stride = int(any(grad_output.stride()))  # 0: one number, as it is or expanded
        incoming = address(grad_output, number, kept) if incoming_stride else grad_output.data_ptr()
    kinds = temperatures = alphas = betas = weights = 0
    if not isinstance(kind, int):
        kinds, kind = address(kind, torch.int64, kept), 0
    if not isinstance(temperature, float):
        temperatures, temperature = address(temperature, number, kept), 0.0
    if not isinstance(alpha, float):
        alphas, alpha = address(alpha, number, kept), 0.0
    if not isinstance(beta, float):
        betas, beta = address(beta, number, kept), 0.0
    if not isinstance(weight, float):
        weights, weight = address(weight, number, kept), 0.0
    loss, soft, hard = results
    data = LAYOUT.pack(
        SIZE,
        rows, inner, classes, width, members, listed,
        student.data_ptr(), TYPES[student.dtype], student_outer, student_inner,
        gradient_at, gradient_outer, gradient_inner,
        teacher_at, teacher_type, teacher_outer, teacher_inner, teacher_member,
        TAILS[tail], listed_at, listed_value_at, listed_is_log,
        labels_at, label_bytes, ignore_index, ignore == "row",
        0 if start is None else address(start, torch.int64, kept),
        0 if count is None else address(count, torch.int64, kept),
        kinds, kind,
        temperatures, temperature,
        alphas, alpha,
        betas, beta,
        weights, weight,
        shares_at, share_member, share_row,
        scale_T2, REDUCTIONS[reduction], normalizer_at, incoming, incoming_stride,
        0 if loss is None else loss.data_ptr(),
        0 if soft is None else soft.data_ptr(),
        0 if hard is None else hard.data_ptr(),
        threads, check, bad_row,
        row_results, counter,
    )  # fmt: skip
    return Packed(data, kept)


def laid_out(student: Tensor, teacher: Tensor | None, kept: list[Tensor]) -> tuple[int, Tensor, Tensor | None]:
    """Rows in the inner of two dimensions, the logits, and the teacher; copies where no two strides reach all rows.

    With shape (..., a, b, classes), rows are cut after some dimension into outer and inner ones. Matrices of one
    dimension of rows, or of two, are read as they are; of more, if such a cut exists for both matrices.
    """
    student = plain(student, kept)
    if teacher is not None:
        teacher = plain(teacher, kept)
    size = student.shape
    if len(size) == 2:
        return size[0], student, teacher
    if student.is_contiguous() and (teacher is None or teacher.is_contiguous()):
        return math.prod(size[:-1]), student, teacher
    if len(size) < 4:
        return size[-2] if len(size) == 3 else 1, student, teacher
    cuts = cuts_of(student, 0)
    if not cuts:
        student = copied(student, kept)
        cuts = cuts_of(student, 0)
    if teacher is not None:
        common = cuts & cuts_of(teacher, int(teacher.dim() > student.dim()))
        if common:
            cuts = common
        else:
            teacher = copied(teacher, kept)
    return math.prod(size[min(cuts) : -1]), student, teacher


def cuts_of(matrix: Tensor, first: int) -> set[int]:
    """After how many dimensions of rows a cut leaves one stride on either side; rows begin at dimension `first`."""
    sizes, strides = matrix.shape[first:-1], matrix.stride()[first:-1]
    cuts = set(range(len(sizes)))
    long = [place for place, size in enumerate(sizes) if size != 1]  # the stride of one row means nothing
    for outer, inner in itertools.pairwise(long):
        if strides[outer] != strides[inner] * sizes[inner]:
            cuts &= set(range(outer + 1, inner + 1))
    return cuts


def row_strides(matrix: Tensor, inner: int, stacked: bool = False) -> tuple[int, int]:
    """The two strides, in elements, that lead to row r: of r // inner and of r % inner."""
    strides = matrix.stride()
    if len(strides) - stacked == 2:
        return 0, strides[-2]
    sizes, strides, width = matrix.shape[stacked:-1], strides[stacked:-1], matrix.shape[-1]
    # The innermost long dimension on either side of the cut; the others follow from it.
    outer = step = None
    count = 1
    for size, stride in zip(reversed(sizes), reversed(strides)):
        if size != 1 and count < inner:
            step = stride if step is None else step
        elif size != 1:
            outer = stride if outer is None else outer
        count *= size
    return outer or 0, width if step is None else step


def plain(matrix: Tensor, kept: list[Tensor]) -> Tensor:
    """The matrix, copied if the elements of a row are not neighbours in memory."""
    if (matrix.stride(-1) != 1 and matrix.shape[-1] != 1) or matrix.is_neg():
        return copied(matrix, kept)
    return matrix


def copied(matrix: Tensor, kept: list[Tensor]) -> Tensor:
    """A contiguous copy, kept until the call is over."""
    matrix = matrix.detach().resolve_neg().contiguous()
    kept.append(matrix)
    return matrix


def address(values: Tensor, dtype: torch.dtype, kept: list[Tensor]) -> int:
    """Where the values lie, without gaps and in `dtype`; what had to be made for it is kept."""
    if values.dtype is not dtype or not values.is_contiguous():
        values = values.to(dtype).contiguous()
        kept.append(values)
    return values.data_ptr()
