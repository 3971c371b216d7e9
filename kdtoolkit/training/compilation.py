"""`train.compile`: the student's encoder through torch.compile while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def compiled(model: nn.Module, mode: str) -> Iterator[None]:
    """Has `model.student` (without one, the model) compiled while the context lasts; its parameters keep their names.

    mode: "none", or torch's: "default", "reduce-overhead" (CUDA graphs), "max-autotune". Lengths of texts are dynamic,
    but for CUDA graphs, of which each length gets its own.
    """
    if mode == "none":
        yield
        return
    module: nn.Module = getattr(model, "student", model)
    module.compile(mode=mode, dynamic=None if mode == "reduce-overhead" else True)
    try:
        yield
    finally:
        module._compiled_call_impl = None
