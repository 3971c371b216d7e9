"""The public function. What it computes is in `reference.py`, what it accepts in `arguments.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import library_op, reference
from .arguments import PLAIN, Arguments, Number, check_arguments
from .backend import implementation
from .call import Results
from .function import evaluate, refuse_transforms
from .native import MOST_MEMBERS
from .sparse import SparseTeacher
from .values import check_values


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
    grad_inplace: permission to write the gradient over the memory of student_logits, which nothing else may then use:
        whoever kept it for a backward pass of its own gets torch's error. Not for a leaf, nor under torch.compile.
        Another buffer is taken where that memory is not fit (expanded, shared with the teacher, last stride not 1),
        where the graph is kept, and by the reference.

    Memory: float32, float64 and bfloat16 logits with one loss have their gradient computed along with it: a step needs
        one gradient beyond the logits, which may be freed at once. float16 logits and reduction="none" have it computed
        in backward, with what comes in folded in before it is rounded, and keep the logits until then.
        Copies are made of logits whose last stride is not 1 or whose rows have more than two strides, and of a list of
        members. More than 16 members are averaged by the reference, whatever backend is in use.
    Gradients: of student_logits only. Compiled backends refuse, with RuntimeError, to be differentiated twice, forward,
        or inside torch.func transforms; `soft_cross_entropy_reference` supports all three.
    torch.compile and torch.export take the op whole; values of tensors are then checked as the program runs, on a CPU.

    Returns the loss, or (loss, soft part, hard part), float32 (float64 for float64 logits): a scalar, 0.0 with zero
        gradient if no row counts.
    Raises ValueError, saying expected and received, for wrong shapes, dtypes, devices, values and pairs of options.
        Labels outside the row's classes raise on a CPU; elsewhere, where looking would mean waiting, the row is NaN.
        A row whose logits hold NaN or +inf, or -inf throughout, is NaN.
    Source: Hinton, Vinyals and Dean 2015 (arXiv:1503.02531); TextBrewer (arXiv:2002.12620) for the mean of logits;
        MT-DNN-KD (arXiv:1904.09482) for the mean of probabilities; BAM (arXiv:1907.04829) for alpha over time.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling:
        refuse_transforms()
    call = check_arguments(
        student_logits, teacher_logits, labels, kind=kind, temperature=temperature, scale_T2=scale_T2, alpha=alpha,
        beta=beta, weight=weight, columns=columns, ignore_index=ignore_index, ignore=ignore, reduction=reduction,
        normalizer=normalizer, teacher_weights=teacher_weights, return_parts=return_parts, grad_inplace=grad_inplace,
    )  # fmt: skip
    results = traced(call) if compiling else computed(call)
    return results if return_parts else results[0]


def computed(call: Arguments) -> Results:
    """The results, by the backend in use."""
    student = call.student
    compiled = implementation("cpu" if student.is_cpu else student.device.type)
    if compiled is None or call.members > MOST_MEMBERS:
        check_values(call)
        return reference.evaluate(call)
    if type(student) not in PLAIN or recorded():
        return library_op.call(call)
    return evaluate(call, compiled)


def traced(call: Arguments) -> Results:
    """The same for torch.compile and torch.export: an operator that they can name, or the reference in full."""
    if has_operator(call.student.device.type) and call.members <= MOST_MEMBERS:
        return library_op.call(call)
    return reference.evaluate(call)


def has_operator(device_type: str) -> bool:
    """Whether there is a compiled backend for the operator to call; asked once, when a program is traced."""
    return implementation(device_type) is not None


# What torch.compiler.assume_constant_result does, but without its import of the compiler: a second of every start.
has_operator._dynamo_marked_constant = True  # type: ignore[attr-defined]


def recorded() -> bool:
    """Whether operations are recorded or only pretended, so that the dispatcher has to see the op as one of them.

    Modes that look on (counters of memory or arithmetic) do not need that.
    """
    if torch._C._get_tracing_state() is not None:
        return True
    return torch._C._len_torch_dispatch_stack() > 0 and any(map(torch._C._get_dispatch_mode, RECORDERS))


RECORDERS = [getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "PROXY", "FUNCTIONAL")]
