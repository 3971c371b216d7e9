"""What the processes of a training tell each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed

from .shared_memory import SharedMemory, shared_memory


def from_all(tensor: Tensor) -> list[Tensor]:
    """The tensors of all processes, of one shape and type, by rank; to be read until they meet again."""
    if (memory := memory_of(tensor)) is not None:
        return memory.from_all(tensor)
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor)
    return parts


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sums over the processes, flat, one tensor after the other; of one type, to the same bits in all."""
    if (memory := memory_of(tensors[0])) is not None:
        return memory.sum_of(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    return flat


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


def memory_of(tensor: Tensor) -> SharedMemory | None:
    """Where the processes meet over such a tensor, if they share memory; all ask for it at the same place."""
    return shared_memory() if tensor.is_cpu else None
