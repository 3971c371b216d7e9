"""The training loop. It reads from top to bottom; teachers, students and baselines are all trained by it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .. import processes
from ..ahead import ahead
from ..errors import InputError, WorkError
from ..memory import is_out_of_memory, most_that_fits
from ..progress import track
from ..recipe.schema import Balance, Train
from ..recipe.schema import Optimizer as OptimizerSection
from . import checkpoint
from .accelerator import build_accelerator
from .balancing import Balancing
from .best import Best
from .board import Board
from .compilation import compiled
from .embeddings import frozen_or_sparse
from .lazy_adamw import LazyAdamW
from .meter import Meter
from .optimizer import build_optimizer, learning_rate_factor, learning_rates, set_learning_rate
from .randomness import reseed
from .sharding import shared
from .upcoming import LOT, Upcoming

if TYPE_CHECKING:
    from ..data.batch_plan import BatchPlan
    from ..data.collate import Batch
    from ..heads import HeadOutputs
    from ..objectives import DistillationObjective, ObjectiveResult, RowFacts

PREFETCH = {"cpu": 0, "cuda": 2}
"""Batches that a thread makes ahead; on a CPU it takes what it gives."""
SHARED = "all machines of a run need one shared file system"
SCORE = "held_out/score"
"""The tag of the figure that `train.select` maximises."""


@dataclass(frozen=True)
class FitReport:
    """What a call of `fit` did. rows: row visits; first_step: where it resumed (0: from the start)."""

    steps: int
    first_step: int
    rows: int
    seconds: float
    cpu_seconds: float
    best_step: int | None = None


def fit(
    model: nn.Module,
    collate: Callable[[np.ndarray], Batch],
    plan: BatchPlan,
    objective: DistillationObjective,
    *,
    optimizer: OptimizerSection,
    train: Train,
    balance: Balance | None = None,
    seed: int,
    checkpoints: Path | None,
    board: Board | None = None,
    description: str = "training",
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    together: bool = False,
) -> FitReport:
    """Trains `model` in place for `plan.steps` optimizer steps.

    Resumes from the newest checkpoint in `checkpoints` and then gives, bit for bit, the weights of a run that never
    stopped (same threads, same number of processes). Whatever is random in a step depends on (seed, step, micro-step,
    rank) alone. measure: figures on held-out rows by TensorBoard tag, asked for ten times a run; with `train.select`,
    as often as it says, and the weights with the highest `SCORE` are kept. balance: of the tasks' losses and gradients;
    None: their sum. `optimizer.layer_decay` needs a model with `depths()` (see `depths_of`).
    Of several processes all call this at the same place, and the first writes. The global batches are the same for any
    number of them, and what no process used in a step stays untouched by it. together: whether `collate` has to be
    called by all of them at once, as where a teacher is sharded; then no batch is made ahead.
    Raises WorkError when the loss is not finite.
    """
    if train.select is not None and measure is None:
        raise InputError("train.select", "there are no held-out rows to select on", "raise evaluate.calibration_rows")
    processes.start()
    accelerator = build_accelerator()
    threads_before = torch.get_num_threads()
    device, rank, world_size = accelerator.device, accelerator.process_index, accelerator.num_processes
    if device.type == "cpu":
        torch.set_num_threads(train.threads or 1)
    balancing = Balancing(balance or Balance(), objective.tasks, model, accelerator, plan.steps_per_epoch)
    table = frozen_or_sparse(
        model, optimizer, device=device.type, compiled=train.compile != "none",
        projected=balancing.section.gradients == "pcgrad", sharded=world_size > 1 and train.sharding != "none",
    )  # fmt: skip
    sharing = shared(model, accelerator, train, balance, table)
    wrapped = sharing.wrapped
    tuned = build_optimizer(model, optimizer, table)  # of sharded parameters, over the parts that are here
    state = checkpoint.restore(checkpoints, model, tuned, sharing.own) if checkpoints else None
    first_step = state["step"] if state else 0
    if processes.from_first(lambda: first_step) != first_step:
        raise WorkError(f"{checkpoints}: this process finds another checkpoint there than the first; {SHARED}")
    best = Best(checkpoints, state)
    balancing.load(state)
    balancing.prepare(wrapped, seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    board = board if board is not None and processes.is_first() else Board(None)
    board.resume_at(first_step)
    meter = Meter(objective.tasks, [further.label for further in objective.terms])
    measure_every = train.select.every_steps if train.select else max(plan.steps // 10, 1)
    started, cpu_started, rows_seen = time.perf_counter(), time.process_time(), 0

    def made(step: int, rows: np.ndarray) -> tuple[Batch, RowFacts | None]:
        """A batch, and what the objective knows of it; not on a GPU, where both can be on their way at once."""
        batch = collate(rows)
        if device.type == "cpu":
            return batch, objective.facts(batch, step)
        return batch.pinned() if device.type == "cuda" else batch, None

    def forward(
        module: nn.Module, given: tuple[Batch, RowFacts | None], step: int
    ) -> tuple[ObjectiveResult, HeadOutputs]:
        """The objective of a batch, nats, summed over its rows, and what it was computed from."""
        batch, facts = given
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            heads: HeadOutputs = module(batch)
        if heads.outputs.dtype != torch.float64:
            heads = heads._replace(outputs=heads.outputs.float())
        return objective(heads, batch, step, by_task=balancing.by_task, facts=facts), heads

    def fitting(rows: np.ndarray, step: int) -> int | None:
        """Of rows for which there is no memory, how many there is some for, over all processes; None: not for one.

        0: that cannot be tried, for the processes would have to try it together.
        """
        if together or not sharing.is_whole:
            return 0

        def tried(count: int) -> None:
            forward(model, made(step, rows[:count]), step)[0].loss.backward()

        found = most_that_fits(len(rows) // 2, tried)
        return None if found is None else found * world_size

    wrapped.train()
    # This rank's micro-batches of each global window: once for the steps, and once for the batches that are made ahead.
    steps = range(first_step, plan.steps)
    windows, further = itertools.tee(plan.window(step, rank, world_size) for step in steps)
    # What is made of the rows to come is a function of step and rows alone.
    coming = ((step, rows) for step, window in zip(steps, further) for rows in window.read)
    by = train.prefetch if train.prefetch is not None else PREFETCH[device.type]
    by = 0 if together else by  # processes that meet in two threads at once may wait for each other
    lot = LOT if device.type == "cpu" and not by and not together else 1
    with (
        track(description, len(steps), "steps") as advance,
        contextlib.closing(
            Upcoming(ahead(lambda of: made(*of), coming, by=by), lambda of: of[0].size, lot=lot)
        ) as batches,
        compiled(model, train.compile),
    ):
        for step, window in zip(steps, windows):
            balancing.start(step)
            last = len(window.batches) - 1
            for micro, rows in enumerate(window.read):
                reseed(seed, step, micro, rank)  # so that a resumed step is the same step
                # A rank without a row takes part with one that counts nothing: the processes meet in a backward pass.
                counts = len(window.batches[micro]) > 0
                fitted = True
                try:
                    with balancing.forward(last=micro == last):
                        result, heads = forward(wrapped, next(batches), step)
                    # The same gradient however the window was cut, and over however many processes.
                    balancing.backward(result, heads, world_size / window.planned_rows if counts else 0.0)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    fitted = False
                if not fitted:  # here the error is gone, and with it what it kept in memory
                    raise WorkError(_too_large(description, step, train, fitting(rows, step)))
                if counts:
                    meter.add(result)
            balancing.finish(step)
            sharing.finish(batches.ahead)
            if optimizer.max_norm is not None:
                meter.gradient_norm = sharing.clip(parameters, optimizer.max_norm)
            factor = learning_rate_factor(step, plan.steps, optimizer)
            set_learning_rate(tuned, factor)
            tuned.step()
            tuned.zero_grad(set_to_none=True)
            rows_seen += window.planned_rows
            advance(1)
            checkpoint_due = checkpoints is not None and _due(step, train.checkpoint_every_steps, plan.steps)
            if checkpoint_due or _due(step, train.log_every_steps, plan.steps):
                values = meter.take(accelerator)
                if not values.pop("finite"):
                    raise WorkError(_not_finite(description, step, checkpoints))
                rates = learning_rates(tuned, optimizer.learning_rate * factor)
                board.scalars({**values, **rates, **objective.values(step), **balancing.values()}, step + 1)
            if measure is not None and _due(step, measure_every, plan.steps):
                sharing.settle(tuned)
                wrapped.eval()
                with sharing.whole():
                    figures = processes.from_first(lambda: measure(model))
                    if train.select is not None:
                        best.offer(figures[SCORE], step + 1, model)
                wrapped.train()
                board.scalars(figures, step + 1)
            if checkpoint_due and checkpoints is not None:
                sharing.settle(tuned)
                with sharing.whole(tuned):
                    if processes.is_first():
                        checkpoint.save(checkpoints, step + 1, model, tuned, best.state() | balancing.state())
                        best.prune()
                board.flush()
    sharing.settle(tuned)
    if isinstance(tuned, LazyAdamW):
        tuned.close()
    wrapped.eval()
    sharing.close()
    processes.wait()  # for the best weights, which the first writes
    best.restore(model)
    balancing.close()
    # What comes after, such as a teacher's answers, must not depend on whether this was run or found finished.
    torch.set_num_threads(threads_before)
    return FitReport(
        steps=plan.steps,
        first_step=first_step,
        rows=rows_seen,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        best_step=best.step,
    )


def _due(step: int, every: int | None, steps: int) -> bool:
    return every is not None and ((step + 1) % every == 0 or step + 1 == steps)


def _too_large(description: str, step: int, train: Train, fits: int | None) -> str:
    """fits: rows of a micro-batch, over all processes; None: not one row a process; 0: not known."""
    text = f"{description}: out of memory at step {step + 1}, with {train.batch_rows} rows a batch"
    if fits == 0:
        return f"{text}; divide train.batch_rows by what you multiply train.accumulate by, and the updates are the same"
    if fits is None:
        return f"{text}, and one row does not fit either; lower data.max_tokens or take a smaller model"
    rows = max(count for count in range(1, fits + 1) if train.batch_rows % count == 0)
    more = train.accumulate * train.batch_rows // rows
    return f"{text}; {fits} fit: with train.batch_rows={rows} and train.accumulate={more} the updates are the same"


def _not_finite(description: str, step: int, checkpoints: Path | None) -> str:
    text = f"{description}: the loss is not finite near step {step + 1}; lower optimizer.learning_rate or set max_norm"
    return text + (f" (the last good state is in {checkpoints})" if checkpoints else "")
