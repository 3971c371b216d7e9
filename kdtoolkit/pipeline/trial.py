"""A few steps of a training, watched from outside: what a token and an update cost, and what is held in memory.

Any training with an optimizer of torch can be watched, a student's or a teacher's, for torch itself says when a model
is called and when an optimizer works.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..progress import log

SECONDS = 4.0
"""After so many seconds of steps no further one is begun."""
HEAVY = 50_000_000
"""Parameters from which on a few rows have to do, for a step of all that a recipe wants takes minutes on a CPU."""
FEW_ROWS, FEW_STEPS = 8, 2


@dataclass(frozen=True)
class Trial:
    """What the watched steps took.

    token_seconds: forward and backward pass of a token, that of the padding beside it included; update_seconds: the
    optimizer's part of a step. row_tokens: tokens of a row; batch_rows: rows of a forward pass.
    parameters: how many are trained; weights, gradients, state: bytes of them, of their gradients, of the optimizer's
    memory; token_activations: bytes that the forward pass of a token, or of padding, keeps for the backward pass.
    """

    token_seconds: float
    update_seconds: float
    row_tokens: float
    batch_rows: float
    parameters: int
    weights: int
    gradients: int
    state: int
    token_activations: float


class _Enough(Exception):
    """Ends the watched training: what was to be seen was seen."""


class Watch:
    """Counts and times the steps taken while it is open, and ends it after so many; `trial()` is their cost."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._began: float | None = None
        self._halfway = 0.0
        self._tokens = self._rows = self._calls = 0
        self._taken: list[tuple[float, float, int, int, int]] = []
        self._sizes: tuple[int, int, int] | None = None
        self._activations = _Activations()

    def __enter__(self) -> Watch:
        self._hooks: list[Any] = [
            register_module_forward_pre_hook(self._called),
            register_optimizer_step_pre_hook(self._updating),
            register_optimizer_step_post_hook(self._updated),
        ]
        self._threads, self._level = torch.get_num_threads(), log.level
        log.setLevel(logging.WARNING)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._activations.stop()
        log.setLevel(self._level)
        torch.set_num_threads(self._threads)  # a training that is cut short does not put them back
        for hook in self._hooks:
            hook.remove()
        return kind is _Enough

    def trial(self) -> Trial | None:
        """None: no step was taken, or none of a model that is called with a batch."""
        # The first step also makes room for what the others find there.
        steps = [step for step in (self._taken[1:] or self._taken) if step[2]]
        if not steps or self._sizes is None:
            return None
        passes, updates, tokens, rows, calls = (sum(column) for column in zip(*steps))
        parameters, weights, state = self._sizes
        return Trial(
            token_seconds=passes / tokens,
            update_seconds=updates / len(steps),
            row_tokens=tokens / rows,
            batch_rows=rows / calls,
            parameters=parameters,
            weights=weights,
            gradients=weights,
            state=state,
            token_activations=self._activations.of_a_token(),
        )

    def _called(self, module: Any, inputs: tuple[Any, ...]) -> None:
        if self._began is None:
            self._began = _now()
        tokens = getattr(inputs[0], "tokens", None) if inputs else None
        if tokens is not None:
            self._activations.start(tokens.mask.numel())
            self._tokens += int(tokens.mask.sum())
            self._rows += len(inputs[0].tasks)
            self._calls += 1

    def _updating(self, optimizer: Any, arguments: Any, options: Any) -> None:
        self._activations.stop()
        self._halfway = _now()

    def _updated(self, optimizer: Any, arguments: Any, options: Any) -> None:
        now = _now()
        began = self._halfway if self._began is None else self._began
        self._taken.append((self._halfway - began, now - self._halfway, self._tokens, self._rows, self._calls))
        self._tokens = self._rows = self._calls = 0
        self._began = None
        if self._sizes is None:
            self._sizes = _sizes(optimizer)
        spent = sum(step[0] + step[1] for step in self._taken)
        if len(self._taken) >= self.steps or spent > SECONDS:
            raise _Enough


def _sizes(optimizer: Any) -> tuple[int, int, int]:
    """Parameters, their bytes, and bytes of the optimizer's memory."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = [
        value.numel() * value.element_size()
        for parameter in parameters
        for value in optimizer.state.get(parameter, {}).values()
        if isinstance(value, torch.Tensor)
    ]
    return sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters), sum(state)


class _Activations:
    """Counts what torch keeps of one forward pass for its backward pass. Parameters are not kept, they are there."""

    def __init__(self) -> None:
        self._tokens = self._bytes = 0
        self._seen: set[int] = set()
        self._hooks: saved_tensors_hooks | None = None

    def start(self, tokens: int) -> None:
        """Counts until `start` or `stop` is called again, unless there was such a pass. tokens: with the padding."""
        self.stop()
        if self._tokens:
            return
        self._tokens = tokens
        self._hooks = saved_tensors_hooks(self._pack, lambda kept: kept)
        self._hooks.__enter__()

    def stop(self) -> None:
        """Counts no more."""
        if self._hooks is not None:
            self._hooks.__exit__()
            self._hooks = None

    def of_a_token(self) -> float:
        """Bytes; 0 if there was no pass."""
        return self._bytes / max(self._tokens, 1)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # Views share what they show. An address is only used again after its tensor is gone, which a kept one is not.
        if not _is_weight(tensor) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._bytes += storage.nbytes()
        return tensor.detach()


def _is_weight(tensor: torch.Tensor) -> bool:
    """Whether it is a parameter, or a view of one, as a transposed one is."""
    return isinstance(tensor, torch.nn.Parameter) or isinstance(tensor._base, torch.nn.Parameter)


def held_by_process() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell (it is not Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
