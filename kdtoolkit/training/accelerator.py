"""Where a training runs, and with whom."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from .. import processes


def build_accelerator() -> Accelerator:
    """accelerate's, of all processes of the run, or of this one where it works alone."""
    # Heads of tasks that a step has no rows of get no gradient, and so no step.
    idle = DistributedDataParallelKwargs(find_unused_parameters=True)
    kind = _Alone if processes.works_alone() else Accelerator
    return kind(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[idle])


class _Alone(Accelerator):
    """Of a process among others that trains by itself: accelerate's own would meet them."""

    @property
    def num_processes(self) -> int:
        return 1

    @property
    def process_index(self) -> int:
        return 0

    @property
    def is_main_process(self) -> bool:
        return True

    def reduce(self, tensor: Any, *options: Any, **named: Any) -> Any:
        return tensor
