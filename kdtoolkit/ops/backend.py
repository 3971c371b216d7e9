"""Which implementation of the op runs, and why.

The environment variable KDTOOLKIT_OP_BACKEND asks for one by name: auto (default), reference, or a compiled one. A
backend is a function of checked arguments; compiled ones must agree with the reference in value and gradient.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..errors import InputError
from .arguments import Arguments
from .reference import evaluate

VARIABLE = "KDTOOLKIT_OP_BACKEND"
Implementation = Callable[[Arguments], tuple[Tensor, Tensor, Tensor]]

IMPLEMENTATIONS: dict[str, Implementation] = {"reference": evaluate}
"""What this installation has, by name."""


class Backend(NamedTuple):
    """name: of the implementation in use. reason: why it is that one, in words."""

    name: str
    reason: str


def backend() -> Backend:
    """The backend in use and the reason for it.

    Raises InputError if KDTOOLKIT_OP_BACKEND asks for one that this installation does not have.
    """
    asked = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if asked == "auto":
        return Backend("reference", "fallback to plain PyTorch: no compiled op found")
    if asked not in IMPLEMENTATIONS:
        raise InputError(
            VARIABLE,
            f"the op backend '{asked}' is not available here",
            f"available: auto, {', '.join(sorted(IMPLEMENTATIONS))}",
        )
    return Backend(asked, f"asked for by {VARIABLE}={asked}")
