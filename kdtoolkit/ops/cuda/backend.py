"""The compiled backend of tensors on an NVIDIA GPU: our kernels, launched on torch's current stream.

A call is one launch, of two where a mean has very many rows. Nothing waits for the device, and what is launched can be
captured in a CUDA graph: make one call before the capture, as with any other op, so that the kernels are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import Arguments
from ..call import Results, new_results, packed
from ..native import FIELDS, LAYOUT, REDUCTIONS, SIZE, TYPES
from . import launch, modules
from .driver import DeviceFacts, Driver, driver
from .launch import Launch

VARIABLE = "KDTOOLKIT_OP_BACKEND"


class Machine(NamedTuple):
    """A device, ready: its driver, its context, its kernels."""

    driver: Driver
    context: int
    facts: DeviceFacts
    kernels: modules.Kernels

    def launch(self, launch: Launch, call: bytes, stream: int) -> None:
        """Queues a kernel on a stream of the device."""
        entered = self.driver.enter(self.context)
        try:
            function = self.kernels.function(launch.kernel, modules.shared_limit(self.facts))
            self.driver.launch(function, launch.grid, launch.block, launch.shared, stream, call, launch.staged)
        finally:
            if entered:
                self.driver.leave()


_machines: dict[tuple[torch.device, str], tuple[Machine | None, str]] = {}
_scratch: dict[tuple[torch.device, int], Tensor] = {}


def choose() -> tuple[str | None, str]:
    """The name of the backend on torch's current device, None if there is none, and why.

    Raises InputError or CompileError if it is there and broken.
    """
    if not torch.cuda.is_available():
        return None, "torch finds no CUDA device"
    machine, reason = machine_of(torch.device("cuda", torch.cuda.current_device()))
    return (machine.kernels.backend if machine else None), reason


def run(
    call: Arguments, *, gradient: Tensor | None = None, grad_output: Tensor | None = None, want_loss: bool = True
) -> Results:
    """Queues the computation of the call's results, if they are wanted, and of its gradient, times grad_output, if
    there is memory for it.

    gradient: of the student's shape and dtype; its memory may be the student's. grad_output: of the loss's shape.
    Raises RuntimeError if there are no kernels for the call's device.
    """
    results = new_results(call) if want_loss else (None, None, None)
    if call.student.numel() == 0:
        for result in results:
            if result is not None:
                result.zero_()
        return results
    device = call.student.device
    machine = required_machine(device)
    stream = current_stream(device)
    scratch = scratch_of(device, stream, machine.facts)
    data, kept = packed(
        call, results, gradient=gradient, grad_output=grad_output,
        counter=scratch.data_ptr(), row_results=scratch.data_ptr() + scratch.element_size(),
    )  # fmt: skip
    fields = dict(zip(FIELDS, LAYOUT.unpack(data)))
    if launch.needs_total(fields):
        total = call.student.new_empty((), dtype=call.number)
        kept.append(total)
        weigh = {**fields, "reduction": REDUCTIONS["sum"], "loss": total.data_ptr(), "soft": 0, "hard": 0}
        machine.launch(launch.total_launch(fields, machine.facts), as_bytes(weigh), stream)
        fields["normalizer"] = total.data_ptr()
        data = as_bytes(fields)
    machine.launch(launch.rows_launch(fields, machine.facts), data, stream)
    del kept  # torch gives the memory to nobody but later work of this stream
    return results


def scale(gradient: Tensor, grad_output: Tensor, in_place: bool) -> Tensor:
    """gradient * grad_output, a number, rounded once; `in_place`: over the gradient, which is not touched for 1."""
    if gradient.numel() == 0:
        return gradient
    if not (gradient.is_contiguous() and grad_output.dtype == number_of(gradient)):
        return gradient.mul_(grad_output) if in_place else gradient * grad_output
    device, size = gradient.device, gradient.numel()
    machine = required_machine(device)
    scaled = gradient if in_place else torch.empty_like(gradient)
    fields: dict[str, Any] = {name: 0.0 if letter == "d" else 0 for name, letter in FIELDS.items()}
    fields.update(
        size=SIZE, rows=1, inner=1, classes=size, student=gradient.data_ptr(), student_type=TYPES[gradient.dtype],
        gradient=scaled.data_ptr(), grad_output=grad_output.data_ptr(),
    )  # fmt: skip
    machine.launch(launch.scale_launch(fields, machine.facts), as_bytes(fields), current_stream(device))
    return scaled


def machine_of(device: torch.device) -> tuple[Machine | None, str]:
    """A device with its kernels, None if there are none for it, and why."""
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if asked not in (modules.PREBUILT, modules.COMPILED):
        asked = "auto"
    found = _machines.get((device, asked))
    if found is None:
        found = _machines[device, asked] = _machine_of(device, asked)
    return found


def _machine_of(device: torch.device, asked: str) -> tuple[Machine | None, str]:
    if torch.version.hip:
        return None, "kernels for AMD devices are not part of kdtoolkit"
    library = driver()
    if library is None:
        return None, "no CUDA driver was found"
    context = library.primary_context(device.index)
    facts = library.facts(device.index)
    entered = library.enter(context)
    try:
        kernels, reason = modules.load(library, facts, asked)
    finally:
        if entered:
            library.leave()
    return (Machine(library, context, facts, kernels) if kernels else None), reason


def required_machine(device: torch.device) -> Machine:
    """The device's machine; RuntimeError if there is none (another device than the one that was asked about)."""
    machine, reason = machine_of(device)
    if machine is None:
        raise RuntimeError(f"soft_cross_entropy: no kernels for {device}: {reason}; set {VARIABLE}=reference")
    return machine


def current_stream(device: torch.device) -> int:
    """The handle of torch's current stream of a device."""
    return torch.cuda.current_stream(device).cuda_stream


def capturing() -> bool:
    """Whether the current stream is being captured in a graph."""
    return torch.cuda.is_current_stream_capturing()


def scratch_of(device: torch.device, stream: int, facts: DeviceFacts) -> Tensor:
    """Memory for the sums of a launch: the counter of blocks in the first number, which every launch leaves at 0.

    Launches of one stream follow each other and share it; a graph, which may run beside them, has its own.
    """
    size = 1 + 3 * launch.most_blocks(facts)
    if capturing():
        return torch.zeros(size, dtype=torch.float64, device=device)
    found = _scratch.get((device, stream))
    if found is None:
        found = _scratch[device, stream] = torch.zeros(size, dtype=torch.float64, device=device)
    return found


def number_of(gradient: Tensor) -> torch.dtype:
    """The type of the arithmetic."""
    return torch.float64 if gradient.dtype == torch.float64 else torch.float32


def as_bytes(fields: Mapping[str, Any]) -> bytes:
    """A kd_call."""
    return LAYOUT.pack(*fields.values())
