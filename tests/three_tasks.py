"""A small student over three tasks of different kinds, and its training by the loop."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.data.collate import Batch
from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.recipe.schema import Balance, Objective, Optimizer, Train
from kdtoolkit.student import Student, Tokens
from kdtoolkit.tasks import Task
from kdtoolkit.training import StudentModel, fit

TASKS = [
    Task("topics", labels=("a", "b", "c"), pair=False),
    Task("score", kind="regression", pair=False),
    Task("moods", labels=("x", "y"), pair=False),
]
ROWS, PIECES = [16, 10, 6], 11
BALANCES = {
    "fixed": Balance(),
    "uncertainty": Balance(weights="uncertainty"),
    "dwa": Balance(weights="dwa", temperature=0.2),
    "pcgrad": Balance(gradients="pcgrad"),
    "uncertain pcgrad": Balance(weights="uncertainty", gradients="pcgrad"),
    "dwa pcgrad": Balance(weights="dwa", temperature=0.2, gradients="pcgrad"),
}


class Mean(Student):
    """A mean of embeddings under a layer; `idle` never takes part."""

    def __init__(self, dropout=0.0):
        super().__init__(width=5)
        self.embed, self.layer, self.idle = nn.Embedding(PIECES, 5), nn.Linear(5, 5), nn.Linear(2, 2)
        self.dropout = nn.Dropout(dropout)

    def encode(self, batch):
        return self.layer(self.dropout(self.embed(batch.ids).mean(1))).tanh()


def new_model(tasks=TASKS, dropout=0.0):
    torch.manual_seed(3)
    return StudentModel(Mean(dropout), MultiTaskHeads(tasks, 5, pairs="separate", mixed=True))


def collate(numbers, sizes=ROWS):
    """Rows whose first task is the first, and so on; some have no label, some no teacher."""
    generator = np.random.default_rng(0)
    total = sum(sizes)
    ids = torch.from_numpy(generator.integers(1, PIECES, (total, 4)))
    tasks = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    classes = torch.from_numpy(generator.integers(0, 2, total).astype(np.float32))
    labels = torch.where(tasks == 1, torch.from_numpy(generator.normal(size=total).astype(np.float32)), classes)
    labels[::5] = np.nan
    teacher = torch.from_numpy(generator.normal(size=(1, total, 3)).astype(np.float32))
    teacher[0, 1::5] = np.nan
    rows = torch.from_numpy(np.asarray(numbers, np.int64))
    chosen = ids[rows]
    tokens = Tokens(chosen, torch.ones_like(chosen, dtype=torch.bool), torch.zeros_like(chosen))
    return Batch(tokens, torch.arange(len(rows)), None, tasks[rows], labels[rows], None, teacher[:, rows])


def run(balance, folder=None, *, rows=8, accumulate=1, epochs=3.0, dropout=0.0, stop=None, optimizer=None, board=None,
        batch="mixed", tasks=TASKS, sizes=ROWS, double=False, model=None, measure=None, **train):  # fmt: skip
    plan = BatchPlan(
        sizes, [np.full(size, 4, np.int32) for size in sizes],
        batch_rows=rows, accumulate=accumulate, epochs=epochs, seed=1, batch=batch,
    )  # fmt: skip
    section = Objective(alpha=0.4, tasks={"moods": {"weight": 0.5}})
    calls = 0

    def counted(*_):
        nonlocal calls
        calls += 1
        if stop is not None and calls > stop:
            raise KeyboardInterrupt

    model = new_model(tasks, dropout) if model is None else model
    model.register_forward_pre_hook(counted)
    if double:
        model.double()
    fit(
        model, lambda numbers: collate(numbers, sizes), plan, DistillationObjective(tasks, section, steps=plan.steps),
        optimizer=optimizer or Optimizer(name="sgd", learning_rate=0.3, momentum=0.5),
        train=Train(batch_rows=rows, accumulate=accumulate, epochs=epochs, **train),
        balance=balance, seed=5, checkpoints=folder, board=board, measure=measure,
    )  # fmt: skip
    return model
