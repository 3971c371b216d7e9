"""Which implementation of the op runs, and why.

The environment variable KDTOOLKIT_OP_BACKEND asks for one by name: auto (default), reference, cpu, cuda-prebuilt or
cuda-nvrtc. It is read on each call. A name of another device's backend leaves the choice open, so that CPU tensors work
where a CUDA backend is asked for.

A compiled backend is a module with three functions: `choose() -> (name or None, reason)`, `run` and `scale`, as
`cpu_backend.py` has them. Whatever autograd needs is in `function.py`, once for all of them. Compiled backends must
agree with the reference in value and gradient.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..errors import InputError
from .arguments import Arguments

VARIABLE = "KDTOOLKIT_OP_BACKEND"
COMPILED = {"cpu": ("cpu_backend", ("cpu",)), "cuda": ("cuda.backend", ("cuda-prebuilt", "cuda-nvrtc"))}
"""Device type -> the module of its compiled backend, imported for such tensors only, and the names it may have."""


class Implementation(Protocol):
    """What `function.py` needs of a compiled backend."""

    def choose(self) -> tuple[str | None, str]: ...

    def run(
        self, call: Arguments, *, gradient: Tensor | None = None, grad_output: Tensor | None = None,
        want_loss: bool = True,
    ) -> Any: ...  # fmt: skip

    def scale(self, gradient: Tensor, grad_output: Tensor, in_place: bool) -> Tensor: ...


class Backend(NamedTuple):
    """name: of the implementation in use. reason: why it is that one, in words."""

    name: str
    reason: str


_chosen: dict[tuple[Any, str], tuple[Backend, Implementation | None]] = {}
# os.environ without its decoding, which would be a fiftieth of a small call.
_environment: Any = getattr(os.environ, "_data", os.environ)
_KEY: Any = VARIABLE if _environment is os.environ else os.environ.encodekey(VARIABLE)


def backend(device_type: str = "cpu") -> Backend:
    """The backend in use for tensors on a device, and the reason for it.

    Raises InputError if KDTOOLKIT_OP_BACKEND asks for one that this installation does not have, or if a compiled one is
    there and broken.
    """
    forget()
    return chosen(device_type)[0]


def implementation(device_type: str) -> Implementation | None:
    """The compiled backend for tensors on a device; None: the reference."""
    return chosen(device_type)[1]


def chosen(device_type: str) -> tuple[Backend, Implementation | None]:
    """Both, looked up if the same was asked before."""
    key = (_environment.get(_KEY), device_type)
    found = _chosen.get(key)
    if found is None:
        asked = os.environ.get(VARIABLE, "").strip().lower() or "auto"
        found = _chosen[key] = _choose(asked, device_type)
    return found


def forget() -> None:
    """Makes the next call choose anew (tests change what there is)."""
    _chosen.clear()


def _choose(asked: str, device_type: str) -> tuple[Backend, Implementation | None]:
    known = [name for _, names in COMPILED.values() for name in names]
    if asked == "reference":
        return Backend("reference", f"asked for by {VARIABLE}=reference"), None
    if asked != "auto" and asked not in known:
        raise _absent(asked, device_type, None)
    module, names = COMPILED.get(device_type, ("", ()))
    if not names:
        return Backend("reference", f"fallback to plain PyTorch: no compiled op for {device_type} tensors"), None
    found = _module(module)
    name, reason = found.choose() if found else (None, f"no compiled op for {device_type} tensors in this version")
    if asked in names:
        if name != asked:
            raise _absent(asked, device_type, reason)
        return Backend(name, f"asked for by {VARIABLE}={asked}; {reason}"), found
    if name is None:
        return Backend("reference", f"fallback to plain PyTorch: {reason}"), None
    return Backend(name, reason), found


def _module(name: str) -> Any:
    if importlib.util.find_spec(f"{__package__}.{name}") is None:
        return None
    return importlib.import_module(f"{__package__}.{name}")


def _absent(asked: str, device_type: str, reason: str | None) -> InputError:
    available = ["auto", "reference"]
    module, _ = COMPILED.get(device_type, ("", ()))
    if module and (found := _module(module)):
        name = found.choose()[0]
        available += [name] if name else []
    cause = f"the op backend '{asked}' is not available here" + (f" ({reason})" if reason else "")
    return InputError(VARIABLE, cause, f"available: {', '.join(available)}")
