"""How a compiled backend takes part in autograd.

Two plans. "Gradient in forward" (float32, float64 and bfloat16 with one loss): the gradient is computed along with the
loss and is all that is kept, so that logits can be freed; backward multiplies it by what comes in. "Gradient in
backward" (float16, whose small gradients vanish before a loss scale reaches them, and a loss per row): the logits are
kept and backward computes everything again, with what comes in folded in before any rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .arguments import Arguments
from .backend import Implementation
from .call import Results, cuts_of

TENSORS = 14
"""So many fields of Arguments, the first ones, may be tensors."""

USE_REFERENCE = "use kdtoolkit.ops.soft_cross_entropy_reference, which supports it"

_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda tensor: False)
_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def evaluate(call: Arguments, implementation: Implementation) -> Results:
    """(loss, soft part, hard part) by a compiled backend, the loss with its gradient; the parts None or detached."""
    student = call.student
    if getattr(forward_ad, "_current_level", -1) >= 0 and forward_ad.unpack_dual(student).tangent is not None:
        raise RuntimeError(f"soft_cross_entropy: forward-mode differentiation is not supported; {USE_REFERENCE}")
    if not (student.requires_grad and torch.is_grad_enabled()):
        return implementation.run(call)
    if gradient_in_forward(call):
        return GradientInForward.apply(student, call, implementation)
    return GradientInBackward.apply(call, implementation, *call[:TENSORS])


def gradient_in_forward(call: Arguments) -> bool:
    """Which plan a call takes."""
    return call.reduction != "none" and call.student.dtype != torch.float16


def refuse_transforms() -> None:
    """Raises RuntimeError inside torch.func transforms: a kernel sees memory, not batched or dual tensors."""
    if _transforms_active():
        raise RuntimeError(f"soft_cross_entropy: torch.func transforms are not supported; {USE_REFERENCE}")


def refuse_second_order(grad_output: Tensor | None) -> None:
    """Raises RuntimeError in a backward pass that is to be differentiated itself, or is batched."""
    refuse_transforms()
    if grad_output is not None and _batched(grad_output):
        raise RuntimeError(f"soft_cross_entropy: batched backward passes are not supported; {USE_REFERENCE}")
    if torch.is_grad_enabled():
        raise RuntimeError(
            "soft_cross_entropy: its gradient cannot be differentiated again (create_graph=True); " + USE_REFERENCE
        )


class GradientInForward(torch.autograd.Function):
    """Computes loss and gradient at once, and keeps the gradient alone."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, call: Arguments, implementation: Implementation) -> Results:
        gradient = own_memory(call)
        in_place = gradient is not None
        if gradient is None:
            gradient = new_gradient(student)
        results = implementation.run(call, gradient=gradient)
        if in_place:
            torch.autograd.graph.increment_version(student)
        ctx.save_for_backward(gradient)
        ctx.scale = implementation.scale
        finish(ctx, results)
        return results

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> Any:
        refuse_second_order(grad_output)
        if grad_output is None:
            return None, None, None
        (gradient,) = ctx.saved_tensors
        # While the graph is kept another pass may come, and results of this one are in other hands.
        return ctx.scale(gradient, grad_output, not _keep_graph()), None, None


class GradientInBackward(torch.autograd.Function):
    """Computes the loss, and everything again when the gradient is wanted."""

    @staticmethod
    def forward(ctx: Any, call: Arguments, implementation: Implementation, *tensors: Any) -> Results:
        results = implementation.run(call)
        # Through autograd's own hands, so that a change of any of them before backward is an error.
        ctx.save_for_backward(*[value if isinstance(value, Tensor) else None for value in tensors])
        ctx.others = [None if isinstance(value, Tensor) else value for value in call]
        ctx.implementation = implementation
        finish(ctx, results)
        return results

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> Any:
        refuse_second_order(grad_output)
        nothing = (None,) * (TENSORS + 1)
        if grad_output is None:
            return None, *nothing
        fields = list(ctx.others)
        for place, tensor in enumerate(ctx.saved_tensors):
            if tensor is not None:
                fields[place] = tensor
        call = Arguments._make(fields)
        student = call.student
        gradient = None if _keep_graph() else own_memory(call)
        in_place = gradient is not None
        if gradient is None:
            gradient = new_gradient(student)
        ctx.implementation.run(call, gradient=gradient, grad_output=grad_output, want_loss=False)
        if in_place:
            torch.autograd.graph.increment_version(student)
        return None, None, gradient, *nothing[2:]


def finish(ctx: Any, results: Results) -> None:
    """What both plans tell autograd of their results."""
    ctx.set_materialize_grads(False)
    _, soft, hard = results
    if soft is not None and hard is not None:
        ctx.mark_non_differentiable(soft, hard)


def new_gradient(student: Tensor) -> Tensor:
    """Contiguous memory for a gradient."""
    if student.is_contiguous():
        return torch.empty_like(student)  # the same, in less time
    return torch.empty(student.shape, dtype=student.dtype, device=student.device)


def own_memory(call: Arguments) -> Tensor | None:
    """The student's memory, to be written over by the gradient; None unless that is permitted and harmless.

    Harmless: each element lies in a place of its own, where kernels can write it, and no other argument lies there.
    """
    student = call.student
    if not call.grad_inplace or student.is_neg() or student.numel() == 0:
        return None
    if student.stride(-1) != 1 and student.shape[-1] != 1:
        return None
    if not cuts_of(student, 0) or overlaps(student):
        return None
    memory = student.untyped_storage().data_ptr()
    if any(isinstance(value, Tensor) and value.untyped_storage().data_ptr() == memory for value in call[1:TENSORS]):
        return None
    return student.detach()


def overlaps(matrix: Tensor) -> bool:
    """Whether elements of a matrix may share memory: False only if each dimension steps over all smaller ones."""
    reach = 1
    for stride, size in sorted(zip(matrix.stride(), matrix.shape)):
        if size > 1:
            if stride < reach:
                return True
            reach = stride * (size - 1) + reach
    return False
