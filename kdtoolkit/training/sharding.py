"""`train.sharding`: how the processes of a training share the model, which each has whole or in part (FSDP)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from ..encoder_layers import numbered_layers
from ..errors import InputError
from ..parts import fully_shard_of_torch
from ..recipe.schema import Balance, Train
from .collectives import as_the_first
from .gradient_exchange import GradientExchange
from .sharing import Averaging, Overlapping, Sharing
from .upcoming import Meanwhile, idle

PLACE = "train.sharding"
OVERLAPPING = {"cpu": False}
"""Whether the processes meet within the backward pass, by device."""


class FullySharded(Sharing):
    """Parameters, gradients and moments in parts, by PyTorch's FSDP2 (Zhao et al. 2023, arXiv:2304.11277).

    The forward and the backward pass run in `wrapped`, a twin of `model` that gathers the parameters of a layer when it
    is that layer's turn. The model's own parameters stay where they are, with the part that is this process's as their
    data, so that optimizers are built over them, by their names, and work on plain tensors.

    What `model.kept_whole()` gives stays whole in every process, and so do scalars: processes may differ in what they
    use of it in a step. Its gradients are summed once a step. What no process has used has no gradient.
    Every other parameter must be used by all processes or by none.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator
        self._size, self._rank = accelerator.num_processes, accelerator.process_index
        kept = getattr(model, "kept_whole", list[nn.Module])()
        alike = {parameter for module in kept for parameter in module.parameters()}
        alike |= {parameter for parameter in model.parameters() if parameter.ndim == 0}
        self._alike = [parameter for parameter in model.parameters() if parameter in alike]
        self._exchange = GradientExchange(self._alike)
        self._named = dict(model.named_parameters(remove_duplicate=False))
        self._shards: dict[nn.Parameter, Any] = {}
        """By parameter of the model, the twin's: a DTensor."""
        self.wrapped = self._twin(kept)
        for tensor in (*self._alike, *model.buffers()):
            tensor.data = tensor.data.to(accelerator.device)
        as_the_first([*self._alike, *model.buffers()])

    def _twin(self, kept: Sequence[nn.Module]) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh

        fully_shard = fully_shard_of_torch(PLACE)
        # Parameters and buffers are the twin's as well, and so is all that stays whole: only modules are copied.
        shared: list[Any] = [*self.model.parameters(), *self.model.buffers()]
        shared += [module for whole in kept for module in whole.modules()]
        twin = copy.deepcopy(self.model, {id(one): one for one in shared})
        mesh = init_device_mesh(self.accelerator.device.type, (self._size,))
        units = [*numbered_layers(twin, without=kept), ("", twin)]
        for prefix, module in units:
            fully_shard(module, mesh=mesh, ignored_params=set(self._alike))
            # At once, for what is whole now is needed for nothing else.
            found: Iterator[tuple[str, Any]] = module.named_parameters(prefix)
            for name, shard in found:
                parameter = self._named[name]
                if shard is not parameter and parameter not in self._shards:
                    self._shards[parameter] = shard
                    parameter.data = shard.to_local().detach()
        return twin

    @property
    def is_whole(self) -> bool:
        return False

    def own(self, name: str, tensor: Tensor) -> Tensor:
        shard = self._shards.get(self._named[name]) if name in self._named else None
        if shard is None or tensor.shape != shard.shape:
            return tensor
        rows = -(-len(tensor) // self._size)
        return tensor[self._rank * rows : (self._rank + 1) * rows]

    @torch.no_grad()
    def finish(self, meanwhile: Meanwhile = idle) -> None:
        for parameter, shard in self._shards.items():
            parameter.data = shard.to_local()  # the same memory, wherever torch has put it
            parameter.grad = None if shard.grad is None else shard.grad.to_local()
            shard.grad = None
        self._exchange.meet(meanwhile)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        parts = [p.grad for p in parameters if p.grad is not None and p in self._shards]
        wholes = [p.grad for p in parameters if p.grad is not None and p not in self._shards]
        squares = self._sum(self._norm(parts).square()) + self._norm(wholes).square()
        norm = squares.sqrt()
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        return nn.utils.get_total_norm(gradients).to(self.accelerator.device)

    @contextmanager
    def whole(self, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
        first = self.accelerator.is_main_process
        # A checkpoint is written from the CPU, where there is room for it.
        device = self.accelerator.device if optimizer is None else torch.device("cpu")
        moments: list[tuple[dict[str, Any], str, Tensor]] = []
        for parameter, shard in self._shards.items():
            # All at the same: parameters that no step has used yet have no moments, in any process.
            state = {} if optimizer is None else optimizer.state.get(parameter, {})
            for key in sorted(state):
                if state[key].shape == parameter.shape:  # and no counter of steps
                    gathered = self._gathered(shard, state[key])
                    if first:
                        moments.append((state, key, state[key]))
                        state[key] = gathered.to(device)
        for parameter, shard in self._shards.items():
            gathered = self._gathered(shard, parameter.data)
            if first:
                parameter.data = gathered.to(device)
        self.model.train(self.wrapped.training)
        yield
        self._take_parts()
        for state, key, part in moments:
            state[key] = part

    def close(self) -> None:
        for parameter, shard in self._shards.items():
            parameter.data = self._gathered(shard, parameter.data)
        as_the_first(list(self.model.buffers()))
        self.model.train(self.wrapped.training)
        self._shards, self.wrapped = {}, self.model

    @torch.no_grad()
    def _take_parts(self) -> None:
        for parameter, shard in self._shards.items():
            parameter.data = shard.to_local()

    @torch.no_grad()
    def _gathered(self, shard: Any, part: Tensor) -> Tensor:
        """The whole of what each process has a part of, cut like `shard`."""
        from torch.distributed.tensor import DTensor

        whole = DTensor.from_local(
            part, shard.device_mesh, shard.placements, shape=shard.shape, stride=shard.stride(), run_check=False
        )
        return whole.full_tensor()

    def _sum(self, tensor: Tensor) -> Tensor:
        distributed.all_reduce(tensor)
        return tensor


def shared(
    model: nn.Module,
    accelerator: Accelerator,
    train: Train,
    balance: Balance | None,
    table: nn.Embedding | None = None,
) -> Sharing:
    """The model as `train.sharding` has it; one process alone has all of it. table: none where it is sharded.

    Raises InputError where it cannot be sharded.
    """
    # A launcher may start one process alone, which has nobody to meet.
    if accelerator.num_processes == 1:
        return Sharing(model, accelerator)
    projected = balance is not None and balance.gradients == "pcgrad"
    if train.sharding == "none":
        if OVERLAPPING.get(accelerator.device.type, True):
            return Overlapping(model, accelerator, table)
        return Averaging(model, accelerator, table, projected=projected)
    if projected:
        cause = "pcgrad compares whole gradients, and each process has a part of them"
        raise InputError(PLACE, cause, "leave it out, or set balance.gradients: sum")
    return FullySharded(model, accelerator)
