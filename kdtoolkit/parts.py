"""A model that is asked and not trained, of which each process of a run keeps a part.

By PyTorch's FSDP2 (Zhao et al. 2023, arXiv:2304.11277): a layer is gathered when its turn comes, and given up after it.
So all processes have to call the model equally often, also those that have nothing to ask it.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from . import processes
from .encoder_layers import numbered_layers
from .errors import InputError

T = TypeVar("T")


class InParts:
    """`model`, of which this process keeps a part from now on, on `device`. All processes make it at the same place.

    model: whole, and on a CPU, from where one layer after the other is taken; alike in all processes. It is called
    through this, in `torch.no_grad`, and once in each of the `rounds`.
    Raises InputError where torch is too old for it.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        from torch.distributed.device_mesh import DeviceMesh

        fully_shard = fully_shard_of_torch("train.teacher_sharding")
        mesh = DeviceMesh.from_group(_group(), device.type)
        self.model = model
        self._outermost: Any = _Outermost(model)
        scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
        for module in (*(layer for _, layer in numbered_layers(model)), self._outermost):
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
        for scalar in scalars:  # stays whole
            scalar.data = scalar.data.to(device)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the model gives."""
        return self._outermost(*arguments, **options)

    def rounds(self, work: Sequence[T]) -> Iterator[T | None]:
        """What this process has to ask, one after the other, then None for as long as others still ask something.

        All processes come here at the same place, and call the model once for each that they are given.
        """
        most = torch.tensor(len(work))
        distributed.all_reduce(most, distributed.ReduceOp.MAX, group=_group())
        for place in range(int(most)):
            yield work[place] if place < len(work) else None
            self._outermost.reshard()  # its outermost part too, which torch 2.7 would keep


class _Outermost(nn.Module):
    """Around a model whose class has to stay: FSDP would give it another, by which transformers does not know it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.model(*arguments, **options)


def fully_shard_of_torch(place: str) -> Callable[..., Any]:
    """PyTorch's `fully_shard`. Raises InputError, naming `place`, where torch is too old for it."""
    from torch.distributed import fsdp

    found: Callable[..., Any] | None = getattr(fsdp, "fully_shard", None)
    if found is None or "ignored_params" not in inspect.signature(found).parameters:
        raise InputError(place, f"fsdp needs torch 2.7, and this is {torch.__version__}", "upgrade it, or leave it out")
    # What layers return, nobody writes into.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    return found


@functools.cache
def _group() -> Any:
    """A group of all processes that nothing else speaks in, such as a training that goes on meanwhile."""
    return distributed.new_group(timeout=processes.PATIENCE)
