"""The compiled backend of tensors on a CPU."""

from __future__ import annotations

import ctypes
from typing import NoReturn

import torch
from torch import Tensor

from . import native
from .arguments import Arguments
from .call import Results, new_results, packed
from .values import check_values


def choose() -> tuple[str | None, str]:
    """The name of the backend, None if there is none, and why. Raises InputError if it is there and broken."""
    library = native.library()
    if library is None:
        return None, native.ABSENT
    return "cpu", f"compiled kernel, {native.SHOWN[library.instructions().decode()]}"


def run(
    call: Arguments, *, gradient: Tensor | None = None, grad_output: Tensor | None = None, want_loss: bool = True
) -> Results:
    """Computes the call's results, if they are wanted, and its gradient, times grad_output, if there is memory for it.

    gradient: of the student's shape and dtype; its memory may be the student's. grad_output: of the loss's shape.
    Raises ValueError for values out of range.
    """
    library = native.library()
    assert library is not None
    results = new_results(call) if want_loss else (None, None, None)
    if call.student.numel() == 0:
        for result in results:
            if result is not None:
                result.zero_()
        return results
    bad_row = ctypes.c_longlong(-1)
    data, kept = packed(
        call, results, gradient=gradient, grad_output=grad_output, threads=torch.get_num_threads(),
        check=call.readable, bad_row=ctypes.addressof(bad_row),
    )  # fmt: skip
    code = library.compute(data)
    del kept
    if code:
        refuse(call, code, bad_row.value)
    return results


def scale(gradient: Tensor, grad_output: Tensor, in_place: bool) -> Tensor:
    """gradient * grad_output, a number, rounded once; `in_place`: over the gradient, which is not touched for 1."""
    factor = grad_output.item()
    if in_place:
        return gradient if factor == 1.0 else gradient.mul_(factor)
    return gradient * factor


def refuse(call: Arguments, code: int, row: int) -> NoReturn:
    """Raises the error for which the kernel returned a code."""
    if code in native.BAD_VALUES:
        check_values(call)
        name = native.BAD_VALUES[code]
        raise ValueError(f"soft_cross_entropy: {name}: expected values in range, received another in row {row}")
    if code == native.NO_MEMORY:
        raise MemoryError("soft_cross_entropy: no memory for the sums of the rows")
    raise RuntimeError(f"soft_cross_entropy: the compiled op refused the call with code {code}; {native.REINSTALL}")
