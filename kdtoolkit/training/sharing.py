"""What is apart in a training that several processes share, where each of them holds the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .clipping import clip_gradients
from .collectives import as_the_first, from_all
from .gradient_exchange import GradientExchange
from .lazy_adamw import settle
from .table_exchange import TableExchange
from .upcoming import Meanwhile, idle


class Sharing:
    """One process alone; the others are kinds of it.

    model: the plain one. wrapped: the one that is trained, by its forward pass.
    """

    _table: TableExchange | None = None
    """Of the embeddings that are updated row by row, if several processes do."""

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator
        self.wrapped: nn.Module = model
        model.to(accelerator.device)

    @property
    def is_whole(self) -> bool:
        """Whether `model` can be called by one process alone."""
        return True

    def own(self, name: str, tensor: Tensor) -> Tensor:
        """Of a whole tensor that is shaped like the parameter `name`, what this process keeps."""
        return tensor

    def finish(self, meanwhile: Meanwhile = idle) -> None:
        """The step's gradient is complete in `.grad` of the model's parameters after this.

        meanwhile: may be called, time and again, where this process would wait for another.
        """

    def settle(self, optimizer: torch.optim.Optimizer) -> None:
        """What the optimizer has put off is done, and alike in all processes; before weights are measured or kept."""
        settle(optimizer)
        if self._table is not None:
            self._table.as_the_first(optimizer)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scales the step's gradient down to `max_norm`; its norm before that."""
        return clip_gradients(parameters, max_norm)

    @contextmanager
    def whole(self, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
        """While it lasts, `model` is whole in the first process, and so are the moments of `optimizer`; of all."""
        yield

    def close(self) -> None:
        """Training is over: `model` is plain and whole in every process."""


class Averaging(Sharing):
    """Of several processes, on CPUs: their gradients meet after the backward pass (see `GradientExchange`).

    table: the embeddings that are updated row by row, if any. projected: the gradients have met already, task by task.
    """

    def __init__(
        self, model: nn.Module, accelerator: Accelerator, table: nn.Embedding | None, *, projected: bool
    ) -> None:
        super().__init__(model, accelerator)
        as_the_first((*model.parameters(), *model.buffers()))
        self._table = None if table is None else TableExchange(table)
        others = [p for p in model.parameters() if table is None or p is not table.weight]
        self._gradients = None if projected else GradientExchange(others, self._table)

    def finish(self, meanwhile: Meanwhile = idle) -> None:
        if self._gradients is not None:
            self._gradients.meet(meanwhile)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        if self._gradients is None:
            return super().clip(parameters, max_norm)
        return self._gradients.clip(parameters, max_norm)

    def close(self) -> None:
        # Statistics of what a process has read, such as those of batch normalisation.
        as_the_first(self.model.buffers())


class Overlapping(Sharing):
    """Of several processes, on accelerators: their gradients meet within the backward pass, by PyTorch's DDP.

    table: the embeddings that are updated row by row, if any; of them DDP knows nothing.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, table: nn.Embedding | None) -> None:
        super().__init__(model, accelerator)
        self._table = None if table is None else TableExchange(table)
        if table is not None and self._table is not None:
            self._table.as_the_first()
            every = model.named_parameters(remove_duplicate=False)
            self._ignore([name for name, parameter in every if parameter is table.weight])
        self.wrapped = accelerator.prepare_model(model)

    def _ignore(self, names: list[str]) -> None:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, names)

    def finish(self, meanwhile: Meanwhile = idle) -> None:
        if self._table is not None:
            facts = torch.tensor(self._table.facts(), device=self.accelerator.device)
            self._table.meet(torch.stack(from_all(facts)).tolist())

    def close(self) -> None:
        if self._table is not None:
            # What DDP left alone here, it would leave alone in another training too.
            self._ignore([])
            self._table.table.weight._ddp_ignored = False  # type: ignore[attr-defined]
