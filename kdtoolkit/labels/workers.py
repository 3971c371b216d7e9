"""Labelling by several worker processes on this machine, each with a teacher of its own."""

from __future__ import annotations

import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, WorkError
from ..teacher import Teacher
from .labelling import Labeller, Part, place_of
from .store import LabelStore

if TYPE_CHECKING:
    from ..data.rows import Rows

AHEAD = 2
"""Parts that wait for each worker, so that none waits for a part."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to label parts, wherever it runs: it travels by pickle, between processes of one run.

    make: builds the teacher. splits: rows by the paths of their files, which the worker must see. folder: the store's.
    threads: of torch, as in the process that asks: sums are in another order with another number.
    """

    make: Callable[[], Teacher]
    splits: tuple[Rows, ...]
    folder: Path
    dtype: str
    batch_rows: int
    threads: int

    @classmethod
    def of(cls, labeller: Labeller) -> Job:
        """The job of a labeller of this process. Raises InputError for a teacher that cannot be built anew."""
        import torch

        teacher = labeller.teacher
        if teacher.maker is None:
            cause = "is an object of this process, and workers build their own"
            raise InputError(place_of(teacher), cause, "name it in a recipe, or label without workers")
        from ..data.rows import Rows

        splits = tuple(Rows(rows.path.resolve(), rows.task) for rows in labeller.splits)
        folder = labeller.store.folder.resolve()
        return cls(teacher.maker, splits, folder, labeller.store.dtype, labeller.batch_rows, torch.get_num_threads())

    def labeller(self) -> Labeller:
        """The same labeller, in another process. Raises InputError if its teacher is not the one that was meant."""
        import torch

        torch.set_num_threads(self.threads)
        teacher = self.make()
        store = LabelStore.of(teacher, self.folder.parents[1], dtype=self.dtype)
        if store.folder != self.folder:
            cause = f"has other files, settings or versions on {platform.node()} than where labelling began"
            raise InputError(place_of(teacher), cause, "give every machine the same teacher and packages")
        return Labeller(teacher, self.splits, store, self.batch_rows)


class Workers:
    """An engine of `count` processes. One that dies ends the work; what is stored stays, and a restart goes on."""

    def __init__(self, count: int) -> None:
        self.count = count

    def label(self, labeller: Labeller, parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
        """Stores all parts; yields (rows, log-probabilities raised) as they are done."""
        if not parts:
            return
        job, waiting = Job.of(labeller), iter(parts)
        # Not forked: torch's threads and the tokenizers' would be copied in the middle of what they do.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(self.count, len(parts)), context, _begin, (job,)) as pool:
            running: set[Future[tuple[int, int]]] = set()
            try:
                while True:
                    while len(running) < AHEAD * self.count and (part := next(waiting, None)) is not None:
                        running.add(pool.submit(_label, part))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            except BrokenProcessPool as error:
                raise WorkError(
                    f"{place_of(labeller.teacher)}: a worker died, such as for want of memory; what it had finished is "
                    f"stored: start again, with fewer than {self.count} workers if it dies again"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


_labeller: Labeller | None = None


def _begin(job: Job) -> None:
    global _labeller
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _labeller = job.labeller()


def _label(part: Part) -> tuple[int, int]:
    assert _labeller is not None
    return labelled(_labeller, part)


def labelled(labeller: Labeller, part: Part) -> tuple[int, int]:
    """Labels a part; its rows, and the log-probabilities that were raised."""
    before = labeller.store.floored
    labeller.label(part)
    return len(part.ids), labeller.store.floored - before
