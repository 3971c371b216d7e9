"""What the processes of a training tell each other."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed

from .shared_memory import SharedMemory, shared_memory


def from_all(tensor: Tensor) -> list[Tensor]:
    """The tensors of all processes, which are of one shape, in order of their ranks."""
    if (memory := _memory(tensor)) is not None:
        return memory.from_all(tensor)
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor)
    return parts


def add_all(tensor: Tensor) -> None:
    """The sum over the processes becomes the tensor, which is contiguous; to the same bits in all of them."""
    if (memory := _memory(tensor)) is not None:
        memory.add(tensor)
    else:
        distributed.all_reduce(tensor)


@torch.no_grad()
def as_the_first(tensors: Iterable[Tensor]) -> None:
    """The tensors of every process become those of the first."""
    for tensor in tensors:
        if 0 in tensor.stride() and not tensor.is_contiguous():  # one value shown many times, a constant
            continue
        whole = tensor.detach().contiguous()
        distributed.broadcast(whole, 0)
        if not tensor.is_contiguous():
            tensor.copy_(whole)


def _memory(tensor: Tensor) -> SharedMemory | None:
    return shared_memory() if tensor.is_cpu else None
