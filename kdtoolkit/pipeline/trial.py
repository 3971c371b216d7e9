"""A few steps of a training, watched from outside: what a token and an update cost, and what is held in memory.

Any training with an optimizer of torch can be watched, a student's or a teacher's, for torch itself says when a model
is called and when an optimizer works.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..progress import log

SECONDS = 4.0
"""After so many seconds of steps no further one is begun."""
HEAVY = 50_000_000
"""Parameters from which on a few rows have to do, for a step of all that a recipe wants takes minutes on a CPU."""
FEW_ROWS, FEW_STEPS = 8, 2
_SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Trial:
    """What the watched steps took.

    token_seconds: forward and backward pass of a token, that of the padding beside it included; update_seconds: the
    optimizer's part of a step. row_tokens: tokens of a row; batch_rows: rows of a forward pass.
    parameters: how many are trained; weights, gradients, state: bytes of them, of their gradients, of the optimizer's
    memory; rest: bytes that were held besides at the worst moment: activations, above all.
    """

    token_seconds: float
    update_seconds: float
    row_tokens: float
    batch_rows: float
    parameters: int
    weights: int
    gradients: int
    state: int
    rest: int


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
        self._memory = _Memory()

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
        self._memory.stop()
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
            rest=max(0, self._memory.most - weights - state),
        )

    def _called(self, module: Any, inputs: tuple[Any, ...]) -> None:
        if self._began is None:
            self._memory.start()
            self._began = _now()
        tokens = getattr(inputs[0], "tokens", None) if inputs else None
        if tokens is not None:
            self._tokens += int(tokens.mask.sum())
            self._rows += len(inputs[0].tasks)
            self._calls += 1

    def _updating(self, optimizer: Any, arguments: Any, options: Any) -> None:
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


class _Memory:
    """The most memory that was held, beyond what there was when the first step began: of the GPU, else of the process.

    The weights were there already; libraries and files that a training loads before it are so left out.
    """

    def __init__(self) -> None:
        self.most = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is not None:
            return
        self._before = _held()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            if torch.cuda.is_available():
                self.most = torch.cuda.max_memory_allocated() - self._before

    def _look(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            self.most = max(self.most, _held() - self._before)


def held_by_process() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell (it is not Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _held() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else held_by_process()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
