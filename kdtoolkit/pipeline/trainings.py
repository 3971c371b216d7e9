"""Which trainings do not need one another, and who of several processes carries out which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .. import processes
from ..progress import duration, log
from ..recipe.schema import Train
from ..training import FitReport

FEW_ROWS = 32
"""Of a batch, for each process: with fewer, much of a step is not shared (BENCHMARKS.md, "Two processes")."""


@dataclass(frozen=True)
class Training:
    """One training, with the file that it leaves. It needs nothing of those that it stands beside.

    name: as the log says it. rows: how many it reads an epoch, for the order.
    """

    name: str
    rows: int
    run: Callable[[], FitReport]


@dataclass(frozen=True)
class Trainings:
    """Those of one student's folder, and what is to be written there when all are carried out."""

    each: list[Training]
    finish: Callable[[Sequence[FitReport]], FitReport]

    def carry_out(self, train: Train) -> FitReport:
        """All of them, and the rest; their reports as one."""
        return self.finish(carry_out(self.each, train))


def carry_out(trainings: Sequence[Training], train: Train) -> list[FitReport]:
    """Runs them all and returns their reports, in all processes.

    One after the other, each by all processes; or each by one process alone, where `apart` says so. Then the weights
    are those of a single process, to the bit.
    """
    if not apart(train, len(trainings)):
        _say_shared(trainings, train)
        return [training.run() for training in trainings]
    # The longest first, so that at the end none waits long for another.
    order = sorted(range(len(trainings)), key=lambda place: -trainings[place].rows)
    log.info("%s: each by one process alone", ", ".join(trainings[place].name for place in order))
    found = processes.shared_out([partial(_done, trainings[place], processes.rank()) for place in order])
    reports = {place: FitReport(**report) for place, (_, report) in zip(order, found)}
    if processes.is_first():
        for place, (rank, _) in zip(order, found):
            report = reports[place]
            if rank != 0 and report.rows:
                log.info("%s: done by process %d: %s steps, %s", trainings[place].name, rank,
                         f"{report.steps - report.first_step:,}", duration(report.seconds))  # fmt: skip
    return [reports[place] for place in range(len(trainings))]


def apart(train: Train, count: int) -> bool:
    """Whether several processes carry out so many trainings side by side, each of them alone.

    `train.parallel` decides. auto: where there is one for each at least, and none is sharded.
    """
    if processes.size() == 1 or count == 0 or "fsdp" in (train.sharding, train.teacher_sharding):
        return False
    return train.parallel == "trainings" or (train.parallel == "auto" and count >= processes.size())


def _say_shared(trainings: Sequence[Training], train: Train) -> None:
    """That all processes share each step, and whether there is much of it to share."""
    if trainings and processes.size() > 1:
        rows, names = train.batch_rows // processes.size(), ", ".join(training.name for training in trainings)
        apart = train.parallel == "auto" and len(trainings) > 1
        ways = "start fewer, or set train.parallel=trainings" if apart else "or start fewer"
        few = f"; so few gain little over one process: raise train.batch_rows, {ways}" if rows < FEW_ROWS else ""
        log.info("%s: each step by %d processes, of %d rows a batch each%s", names, processes.size(), rows, few)


def _done(training: Training, rank: int) -> list[Any]:
    """Which process has carried it out, and the report, as JSON has it."""
    return [rank, asdict(training.run())]


def all_of(reports: Sequence[FitReport]) -> FitReport:
    """Several reports as one: their sums."""
    return FitReport(
        steps=sum(report.steps for report in reports),
        first_step=sum(report.first_step for report in reports),
        rows=sum(report.rows for report in reports),
        seconds=sum(report.seconds for report in reports),
        cpu_seconds=sum(report.cpu_seconds for report in reports),
    )
