"""Joins what the teachers said to the rows of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..files import atomic_file, reserve
from .labelling import shortened
from .store import LabelStore, id_hex

if TYPE_CHECKING:
    from ..data.rows import Rows


def teacher_array(
    rows: Rows, stores: Sequence[LabelStore], path: Path | str, *, temperatures: Sequence[float] | None = None
) -> np.ndarray:
    """The values of every member for every row: (rows, members, outputs) float32, memory-mapped from `path` (.npy).

    stores: one per member of the ensemble, in order. A row that a partial member says nothing about is NaN there.
    temperatures: what each member's values are divided by; None: they stay as they are.
    The file is written atomically, one member and one part at a time, and replaces what was there.
    Raises InputError if a store is of other labels than the task, or lacks rows that its teacher must have labelled.
    """
    if not stores:
        raise ValueError("no teacher, no array: a task without a teacher has None")
    task, path = rows.task, Path(path)
    for store in stores:
        if store.outputs != task.outputs or store.labels != task.labels:
            raise InputError(
                f"{store.description}, task {task.name}",
                f"stored labels are {list(store.labels)} ({store.outputs} values a row), those of the task are "
                f"{list(task.labels)} ({task.outputs})",
                "label again for this task",
            )
    ids = rows.ids()
    with atomic_file(path) as temporary:
        shape = (len(ids), len(stores), task.outputs)
        out = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        reserve(temporary)
        out[:] = np.nan
        for member, store in enumerate(stores):
            found = store.read_into(out[:, member], ids)
            if not (store.partial or found.all()):
                row = int((~found).argmax())
                example = rows.examples(np.array([row]))[0]
                raise InputError(
                    f"{store.description}, task {task.name}",
                    f"{int((~found).sum())} of {len(ids)} rows have no stored values, such as row {row + 1}: "
                    f"{shortened(example.text)} (id {id_hex(ids[row])})",
                    "run the label stage again: it fills in what is missing",
                )
            if temperatures is not None and temperatures[member] != 1.0:
                out[:, member] /= np.float32(temperatures[member])
        out.flush()
        del out
    return np.lib.format.open_memmap(path, "r")
