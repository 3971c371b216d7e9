"""The public function. What it computes is in `reference.py`, what it accepts in `arguments.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .arguments import Number, check_arguments
from .backend import IMPLEMENTATIONS, backend
from .sparse import SparseTeacher


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor | Sequence[Tensor] | SparseTeacher | None,
    labels: Tensor | None = None,
    *,
    kind: str | Tensor = "ce",
    temperature: Number = 1.0,
    scale_T2: bool = True,
    alpha: Number = 0.0,
    beta: Number = 0.5,
    weight: Number | None = None,
    columns: tuple[Tensor, Tensor] | None = None,
    ignore_index: int = -100,
    ignore: str = "row",
    reduction: str = "mean",
    normalizer: Number | None = None,
    teacher_weights: Sequence[float] | Tensor | None = None,
    return_parts: bool = False,
    grad_inplace: bool = False,
) -> Any:
    """alpha * (cross-entropy against the label) + (1 - alpha) * (loss against the teacher), from raw logits.

    In what follows "rows" are the leading dimensions of `student_logits`, "a number or (rows,)" is one for all or a
    tensor of their shape, and all tensors are on one device.

    student_logits: (rows, classes) float32, float64, float16 or bfloat16, any strides. The arithmetic is float32
        (float64 for float64 logits); the gradient has the logits' dtype.
    teacher_logits: (rows, classes) of any of these dtypes; a stack (members, rows, classes) or a list of members, whose
        *probabilities* are averaged (the mse kinds average their values); a `SparseTeacher`; or None if alpha is
        exactly 1. It must not require grad. -inf masks a class, on either side.
    labels: (rows,) int32 or int64, counted from the row's first column. Needed unless alpha is exactly 0.
    kind: a name or (rows,) codes of `KINDS`, which differ in the soft part only. With q, p the softened distributions:
        ce -sum p log q; kl KL(p|q); rkl KL(q|p); jsd beta KL(p|m) + (1-beta) KL(q|m) with m = beta p + (1-beta) q;
        tvd sum |q-p| / 2; all of them nats (tvd: no unit) times T^2;
        bce mean over columns of the cross-entropy of sigmoid(z/T) against sigmoid(v/T), times T^2; v of -inf and +inf
        are the targets 0 and 1; it has no hard part, so alpha must be 0;
        mse mean over columns of (z-v)^2, no temperature; mse_centered the same with each row's means taken off.
    temperature: positive, a number or (rows,), no unit. It softens both sides of the soft part, never the hard part.
    scale_T2: multiply the soft part by T^2 (not the mse kinds), so that gradients keep their size.
    alpha: weight of the hard part, 0 to 1, a number or (rows,). Where it is exactly 0 the label is not read, not even
        to be ignored (mask with `weight`); where it is exactly 1 the teacher is not read.
    beta: weight of the teacher in the mixture of jsd, between 0 and 1, a number or (rows,).
    weight: >= 0, a number, (rows,) or a bool mask (rows,). A row of weight 0 is not read: NaN in it does no harm.
    columns: (start, count), integers of shape (rows,): a row's classes are the student's columns from start on, count
        of them, and the *first* count columns of teacher_logits, which may then have any width that holds them.
    ignore_index, ignore: a row with that label has no hard part ("hard"), or is removed altogether ("row").
    reduction: "mean" (sum of weighted losses / sum of the weights of the rows that were not removed), "sum", or "none"
        (a tensor of the rows' shape). normalizer: positive number or 0-dim tensor that replaces the sum of weights.
    teacher_weights: of the members, (members,) or (members, rows), divided by their sum; one of weight 0 is not read.
    return_parts: also return the soft and hard parts, before alpha, weighted and reduced alike, detached.
    grad_inplace: permission to write the gradient over the memory of student_logits, which must then not be a leaf
        and not be used by anything else. The reference needs no permission and makes no use of it.

    Returns the loss, or (loss, soft part, hard part), float32 (float64 for float64 logits): a scalar, 0.0 with zero
        gradient if no row counts.
    Raises ValueError, saying expected and received, for wrong shapes, dtypes, devices, values and pairs of options.
        Labels outside the row's classes raise on a CPU; elsewhere, where looking would mean waiting, the row is NaN.
        A row whose logits hold NaN or +inf, or -inf throughout, is NaN.
    Source: Hinton, Vinyals and Dean 2015 (arXiv:1503.02531); TextBrewer (arXiv:2002.12620) for the mean of logits;
        MT-DNN-KD (arXiv:1904.09482) for the mean of probabilities; BAM (arXiv:1907.04829) for alpha over time.
    """
    call = check_arguments(
        student_logits, teacher_logits, labels, kind=kind, temperature=temperature, scale_T2=scale_T2, alpha=alpha,
        beta=beta, weight=weight, columns=columns, ignore_index=ignore_index, ignore=ignore, reduction=reduction,
        normalizer=normalizer, teacher_weights=teacher_weights, return_parts=return_parts, grad_inplace=grad_inplace,
    )  # fmt: skip
    loss, soft, hard = IMPLEMENTATIONS[backend().name](call)
    return (loss, soft, hard) if return_parts else loss
