"""Trains the models of `CASES`, in as many processes as there are, and writes their weights: train_cases.py FOLDER."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import three_tasks
import torch
from safetensors.torch import save_file

from kdtoolkit import processes
from kdtoolkit.recipe.schema import Optimizer
from kdtoolkit.training import collectives, gradient_exchange, sharding
from kdtoolkit.training.checkpoint import weights
from kdtoolkit.training.one_round import OneRound

ADAM = Optimizer(learning_rate=0.05, weight_decay=0.1)
LONG = {"epochs": 15.0, "optimizer": ADAM}
"""60 steps of 8 rows."""
SPARSE = {**LONG, "optimizer": Optimizer(learning_rate=0.05, weight_decay=0.1, embeddings="sparse")}
CASES = {
    "one task a batch": {**LONG, "balance": None, "batch": "one_task"},
    "mixed": {**LONG, "balance": None},
    "accumulated": {**LONG, "balance": None, "rows": 2, "accumulate": 4},
    "fewer rows than processes": {**LONG, "balance": None, "rows": 1, "epochs": 2.0},
    "sparse": {**SPARSE, "balance": None},
    "sparse, accumulated": {**SPARSE, "balance": None, "rows": 2, "accumulate": 4},
    "sparse, fewer rows than processes": {**SPARSE, "balance": None, "rows": 1, "epochs": 2.0},
    **{name: {**LONG, "balance": balance} for name, balance in three_tasks.BALANCES.items() if name != "fixed"},
}  # fmt: skip
OVERLAPPING = (
    "one task a batch",
    "mixed",
    "accumulated",
    "fewer rows than processes",
    "sparse",
    "uncertainty",
    "pcgrad",
)
"""Cases that are also trained by DDP, as on accelerators."""
IN_ROUNDS = ("mixed", "sparse", "sparse, fewer rows than processes")
"""Cases for which several rounds are made, or one where there is room for the rows of the table."""
BY_GLOO = ("mixed", "sparse", "sparse, fewer rows than processes")
RARE = {"sizes": [40, 30, 1], "balance": None, "batch": "one_task", "rows": 8, "epochs": 0.3, "optimizer": ADAM}
"""Three steps, of which none has a row of the last task."""
DOUBLE = ("one task a batch", "mixed", "accumulated", "fewer rows than processes",
          "sparse", "sparse, accumulated", "sparse, fewer rows than processes")  # fmt: skip


def trained(name: str, folder: Path | None = None, **changes: object) -> torch.nn.Module:
    """The model of a case after training; those of `DOUBLE` in float64."""
    options = RARE if name == "rare" else CASES[name]
    return three_tasks.run(folder=folder, double=name in DOUBLE, **{**options, **changes})


@contextlib.contextmanager
def overlapping() -> Iterator[None]:
    """Here too the processes meet within the backward pass."""
    averaging = sharding.Averaging
    sharding.OVERLAPPING["cpu"], sharding.Averaging = True, None  # which could not be called
    yield
    sharding.OVERLAPPING["cpu"], sharding.Averaging = False, averaging


@contextlib.contextmanager
def by_gloo() -> Iterator[None]:
    """The processes meet as those of several machines do."""
    real, collectives.memory_of = collectives.memory_of, lambda tensor: None
    yield
    collectives.memory_of = real


@contextlib.contextmanager
def in_rounds(rows: int | None) -> Iterator[None]:
    """On one machine too the processes meet several times a step; where one has no more than so many rows, once."""
    of = OneRound.of

    def found(*given: object) -> OneRound | None:
        at_once = of(*given)
        assert at_once is not None
        at_once.rows = rows
        return None if rows is None else at_once

    OneRound.of = found
    yield
    OneRound.of = of


def take_the_first() -> None:
    """Also what lies in memory in another order; what is one value many times stays."""
    turned = (torch.arange(6.0).view(2, 3) + 10 * processes.rank()).t()
    same = torch.ones(1, 1).expand(2, 3)
    collectives.as_the_first([turned, same])
    assert torch.equal(turned, torch.arange(6.0).view(2, 3).t()) and torch.equal(same, torch.ones(2, 3))


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    processes.start()
    for name in (*CASES, "rare"):
        save_file(weights(trained(name)), folder / f"{name}-{processes.rank()}.safetensors")
    with overlapping():
        for name in (*OVERLAPPING, "rare"):
            save_file(weights(trained(name)), folder / f"{name}, overlapping-{processes.rank()}.safetensors")
    gradient_exchange.MESSAGE, whole = 64, gradient_exchange.MESSAGE
    with in_rounds(None):
        save_file(weights(trained("mixed")), folder / f"mixed, in small messages-{processes.rank()}.safetensors")
    gradient_exchange.MESSAGE = whole
    for way, rows in {"in rounds": None, "with little room": 3}.items():
        with in_rounds(rows):
            for name in IN_ROUNDS:
                save_file(weights(trained(name)), folder / f"{name}, {way}-{processes.rank()}.safetensors")
    with by_gloo():
        for name in BY_GLOO:
            save_file(weights(trained(name)), folder / f"{name}, by gloo-{processes.rank()}.safetensors")
    take_the_first()
    # A run that is stopped half-way, and goes on with another number of processes.
    for name in ("mixed", "sparse"):
        with contextlib.suppress(KeyboardInterrupt):
            trained(name, folder / f"stopped {name}", stop=30, checkpoint_every_steps=10)
    # One that stops and goes on with as many processes, beside one that does not stop.
    whole = trained("sparse", folder / "whole", checkpoint_every_steps=10)
    with contextlib.suppress(KeyboardInterrupt):
        trained("sparse", folder / "again", stop=35, checkpoint_every_steps=10)
    resumed = trained("sparse", folder / "again", checkpoint_every_steps=10)
    dense = trained("mixed", model=trained("sparse"))
    for name, model in (("whole", whole), ("resumed", resumed), ("dense after sparse", dense)):
        save_file(weights(model), folder / f"{name}-{processes.rank()}.safetensors")
    processes.wait()
    processes.leave(0)


if __name__ == "__main__":
    main()
