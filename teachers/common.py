"""Models that several teachers of a process have in common, as those of all tasks of a joint one have: in memory once.

Nobody who holds one may change its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import nn

from kdtoolkit.parts import InParts

M = TypeVar("M")


class Common(Generic[M]):
    """A model that is in memory for as long as one of those that asked for it keeps this."""

    def __init__(self, model: M) -> None:
        self.model = model
        self._parts: dict[nn.Module, InParts] = {}

    def parts(self, module: nn.Module, device: torch.device) -> InParts:
        """`module`, the model or one inside it, of which this process keeps a part from the first call on."""
        if module not in self._parts:
            self._parts[module] = InParts(module, device)
        return self._parts[module]


_held: WeakValueDictionary[Hashable, Common[Any]] = WeakValueDictionary()


def common(key: Hashable, load: Callable[[], M]) -> Common[M]:
    """What somebody holds under `key`, else what `load` gives."""
    found: Common[M] | None = _held.get(key)
    if found is None:
        found = _held[key] = Common(load())
    return found
