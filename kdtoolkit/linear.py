"""Linear maps whose float32 products use all of a processor, where torch's own leave half of it idle.

torch multiplies float32 matrices by MKL, which on processors of another maker does without AVX-512. oneDNN, which torch
brings along for convolutions and for bfloat16, uses it on all: 200 to 245 against 92 to 105 billion operations a second
on the AMD EPYC of BENCHMARKS.md ("Products in float32"). Values differ by rounding alone.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import processor
from .memory import keep_few_kernels

M = TypeVar("M", bound=nn.Module)

LEAST = 1 << 26
"""Multiplications below which it does not pay: oneDNN compiles a kernel for each shape of a batch, some 0.5 ms each."""


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """values (..., inputs) times weight (outputs, inputs), transposed, plus bias (outputs): (..., outputs).

    `torch.nn.functional.linear` in every respect but its speed, and that its gradient cannot be differentiated again
    where oneDNN multiplies. `torch.backends.mkldnn.enabled = False` leaves all to torch.
    """
    if not _is_quick(values, weight, bias):
        return nn.functional.linear(values, weight, bias)
    if torch.is_grad_enabled():
        mapped: Tensor = _Linear.apply(values, weight, bias)
        return mapped
    return _product(values, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def with_quick_products(model: M) -> M:
    """`model`, every plain `nn.Linear` in it a `Linear` from now on."""
    for module in model.modules() if _product_is_there() else ():
        if type(module) is nn.Linear:
            module.__class__ = Linear  # it has no attribute of its own
    return model


def _is_quick(values: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN is to multiply: plain float32 on a CPU, enough of it, and nothing that has to see torch's own."""
    return (
        _product_is_there()
        and values.is_cpu
        and values.dtype == weight.dtype == torch.float32
        and values.dim() > 1
        and values.numel() * len(weight) >= LEAST
        and type(values) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and (bias is None or bias.dtype == torch.float32)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
    )


@functools.cache
def _product_is_there() -> bool:
    """Whether MKL multiplies here by half of what the processor has, and oneDNN can be asked instead."""
    found = (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and processor.maker() == "AuthenticAMD"
        and "avx512f" in processor.flags()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
    if found:
        keep_few_kernels()
    return found


def _product(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What torch's compiler makes of a linear map on a CPU; it has no gradient."""
    mapped: Tensor = torch.ops.mkldnn._linear_pointwise.default(values, weight, bias, "none", [], "")
    return mapped


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight)
        return _product(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        of_values, of_weight, of_bias = ctx.needs_input_grad
        flat = slopes.reshape(-1, slopes.shape[-1])
        return (
            _product(slopes, weight.t(), None) if of_values else None,
            _product(flat.t(), values.reshape(-1, values.shape[-1]).t(), None) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )
