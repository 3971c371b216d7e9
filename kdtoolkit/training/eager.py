"""torch's optimizers, without the compiler that they load.

The methods of torch's optimizers are wrapped so that torch.compile, were they called within it, would see them as they
are meant; the wrappers load the compiler (torch._dynamo and sympy: a CPU second and 70 MB) at the first call, also
where nothing is compiled. What they wrap is called here as it is. The optimizer's step is never compiled here.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer


class Eager(Optimizer):
    """Goes before an optimizer of torch in the bases of a class; its updates, state and hooks are that optimizer's."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update."""
        return inspect.unwrap(super().step.__func__)(self, closure)  # type: ignore[attr-defined]


class AdamW(Eager, torch.optim.AdamW):
    """torch.optim.AdamW."""


class Adamax(Eager, torch.optim.Adamax):
    """torch.optim.Adamax."""


class Adadelta(Eager, torch.optim.Adadelta):
    """torch.optim.Adadelta."""


class SGD(Eager, torch.optim.SGD):
    """torch.optim.SGD."""
