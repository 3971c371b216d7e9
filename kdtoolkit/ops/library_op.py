"""The op as operators of torch's dispatcher, for programs that torch.compile or torch.export traces.

Eager calls do not come here: the dispatcher's way of registering gradients in Python costs more than a small call. The
operators do what `function.py` does: `kdtoolkit::soft_cross_entropy` returns loss, soft part, hard part and gradient,
which is empty if the plan is to compute it in backward, by `kdtoolkit::soft_cross_entropy_backward`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .arguments import Arguments
from .backend import Implementation, implementation
from .call import Results
from .function import TENSORS, gradient_in_forward, refuse_second_order

NAME, BACKWARD = "kdtoolkit::soft_cross_entropy", "kdtoolkit::soft_cross_entropy_backward"
INPUTS = (
    "Tensor student, Tensor? teacher, Tensor? labels, Tensor? kinds, Tensor? temperatures, Tensor? alphas, "
    "Tensor? betas, Tensor? weights, Tensor? start, Tensor? count, Tensor? normalizers, Tensor? teacher_weights, "
    "Tensor? listed_index, Tensor? listed_value, "
    "int kind, float temperature, float alpha, float beta, float weight, float? normalizer, "
    "int members, str? tail, bool listed_is_log, bool scale_T2, int ignore_index, str ignore, str reduction"
)
EITHER = ("kind", "temperature", "alpha", "beta", "weight", "normalizer")
"""Fields of Arguments that are a tensor or a number: two inputs of the operators each."""

torch.library.define(NAME, f"({INPUTS}, bool wants_gradient) -> (Tensor, Tensor, Tensor, Tensor)")
torch.library.define(BACKWARD, f"(Tensor grad_output, {INPUTS}) -> Tensor")


def call(arguments: Arguments) -> Results:
    """The results of a call, through the dispatcher; the parts are detached."""
    wanted = torch.is_grad_enabled() and arguments.student.requires_grad and gradient_in_forward(arguments)
    loss, soft, hard, _ = torch.ops.kdtoolkit.soft_cross_entropy(*inputs_of(arguments), wanted)
    return loss, soft.detach(), hard.detach()


def inputs_of(arguments: Arguments) -> list[Any]:
    """The operators' inputs."""
    tensors = [value if isinstance(value, Tensor) else None for value in arguments[:TENSORS]]
    numbers = []
    for name in EITHER:
        value = getattr(arguments, name)
        numbers.append((None if name == "normalizer" else 0) if isinstance(value, Tensor) else value)
    return [
        *tensors, *numbers, arguments.members, arguments.tail, arguments.listed_is_log, arguments.scale_T2,
        arguments.ignore_index, arguments.ignore, arguments.reduction,
    ]  # fmt: skip


def arguments_of(inputs: Any) -> Arguments:
    """And back. Values can be read again: an operator runs when there are some."""
    tensors, numbers, options = inputs[:TENSORS], inputs[TENSORS : TENSORS + len(EITHER)], inputs[TENSORS + 6 :]
    fields = dict(zip(Arguments._fields, (*tensors, *options, True, False, inputs[0].is_cpu)))
    for name, number in zip(EITHER, numbers):
        fields[name] = number if fields[name] is None else fields[name]
    return Arguments(**fields)


def compiled(device_type: str) -> Implementation:
    """The backend that runs an operator."""
    found = implementation(device_type)
    if found is None:
        raise RuntimeError(
            f"soft_cross_entropy: this program was traced where a compiled op was in use; here is none for "
            f"{device_type} tensors (kdtool doctor says why): trace it again"
        )
    return found


@torch.library.impl(NAME, "CompositeExplicitAutograd")
def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator itself."""
    arguments, wants_gradient = arguments_of(inputs[:-1]), inputs[-1]
    student = arguments.student
    gradient = student.new_empty(student.shape if wants_gradient else 0)
    backend = compiled(student.device.type)
    loss, soft, hard = backend.run(arguments, gradient=gradient if wants_gradient else None)
    return loss, soft, hard, gradient


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def backward(grad_output: Tensor, *inputs: Any) -> Tensor:
    """The gradient, with what comes in folded in."""
    arguments = arguments_of(inputs)
    gradient = arguments.student.new_empty(arguments.student.shape)
    backend = compiled(gradient.device.type)
    backend.run(arguments, gradient=gradient, grad_output=grad_output, want_loss=False)
    return gradient


@torch.library.register_fake(NAME)
def fake_forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shapes and dtypes of the results."""
    arguments, wants_gradient = arguments_of(inputs[:-1]), inputs[-1]
    student = arguments.student
    shape = arguments.shape if arguments.reduction == "none" else ()
    parts = [student.new_empty(shape, dtype=arguments.number) for _ in range(3)]
    return parts[0], parts[1], parts[2], student.new_empty(student.shape if wants_gradient else 0)


@torch.library.register_fake(BACKWARD)
def fake_backward(grad_output: Tensor, *inputs: Any) -> Tensor:
    """Shape and dtype of the gradient."""
    return inputs[0].new_empty(inputs[0].shape)


def keep(ctx: Any, inputs: Any, output: Any) -> None:
    """Keeps what the gradient needs: itself, or everything."""
    *inputs, ctx.wants_gradient = inputs
    if ctx.wants_gradient:
        ctx.save_for_backward(output[3])
    else:
        ctx.save_for_backward(*inputs[:TENSORS])
        ctx.numbers = inputs[TENSORS:]


def differentiate(ctx: Any, grad_output: Tensor, *_: Any) -> Any:
    """The gradients of the operator's inputs: of the student's logits alone."""
    refuse_second_order(grad_output)
    if ctx.wants_gradient:
        (gradient,) = ctx.saved_tensors
        scaled = (gradient.to(grad_output.dtype) * grad_output).to(gradient.dtype)
        return scaled, *[None] * (TENSORS + 13)
    inputs = (*ctx.saved_tensors, *ctx.numbers)
    return torch.ops.kdtoolkit.soft_cross_entropy_backward(grad_output, *inputs), *[None] * len(inputs)


torch.library.register_autograd(NAME, differentiate, setup_context=keep)
