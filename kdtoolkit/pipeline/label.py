"""The label stage: every teacher's outputs on every text that needs them, and arrays aligned with the rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.prepare import TaskRows
from ..errors import WorkError
from ..evaluate.latency import measure
from ..labels import LabelStore, default_store, label_rows, teacher_array
from ..progress import log
from ..teacher import Teacher
from .run_folder import RunFolder

TEACHER_SECONDS = 20.0
"""A teacher's latency is measured for at most so long."""


def label_splits(rows: TaskRows) -> list[str]:
    """The splits whose texts a teacher answers: all but those that only serve to train it."""
    return [split for split in rows.splits if split != "teacher"]


def label(run: RunFolder, data: Mapping[str, TaskRows], teachers: Mapping[str, Sequence[Teacher]]) -> dict[str, Any]:
    """Labels what is missing, writes data/TASK/SPLIT-teacher.npy, (rows, members, outputs) float32; returns facts."""
    started, cpu_started = time.perf_counter(), time.process_time()
    labelled = already = 0
    kinds: dict[str, list[str]] = {}
    for name, task_teachers in teachers.items():
        if not task_teachers:
            continue
        rows = data[name]
        stores = []
        for teacher in task_teachers:
            root = default_store(run.recipe.store) if teacher.reusable else run.path / "labels"
            store = LabelStore.of(teacher, root)
            report = label_rows(teacher, [rows.splits[split] for split in label_splits(rows)], store)
            teacher.close()  # one teacher's weights in memory at a time, whatever their number
            labelled, already = labelled + report.labelled, already + report.already
            stores.append(store)
        kinds[name] = [teacher.kind for teacher in task_teachers]
        for split in label_splits(rows):
            teacher_array(rows.splits[split], stores, teacher_path(run, name, split))
    if labelled:
        log.info("labelled %d texts (%d were in the store)", labelled, already)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "rows": labelled,
        "already": already,
        "kinds": kinds,
        "model": teacher_model(run, data, teachers),
    }


def teacher_path(run: RunFolder, task: str, split: str) -> Path:
    """Where the teachers' outputs for a split lie."""
    return run.data / task / f"{split}-teacher.npy"


def teacher_outputs(run: RunFolder, task: str, split: str) -> np.ndarray | None:
    """(rows, members, outputs) float32, memory-mapped, or None where the task has no teacher."""
    path = teacher_path(run, task, split)
    try:
        return np.load(path, mmap_mode="r") if path.is_file() else None
    except (OSError, ValueError, EOFError) as error:
        raise WorkError(f"{path}: is damaged ({error}); delete it and run again with --resume") from error


def is_labelled(run: RunFolder, data: Mapping[str, TaskRows]) -> bool:
    """Whether the label stage is done and what it left is still there."""
    return run.done("label") is not None and all(
        teacher_path(run, name, split).is_file()
        for name, rows in data.items()
        if run.recipe.teachers_of(name)
        for split in label_splits(rows)
    )


def teacher_model(
    run: RunFolder, data: Mapping[str, TaskRows], teachers: Mapping[str, Sequence[Teacher]]
) -> dict[str, Any]:
    """Size and speed of the teachers, for the table: each distinct one counted once; speed over the first task."""
    distinct = {t.fingerprint: t for some in teachers.values() for t in some}
    if not distinct:
        return {}
    counts = [t.parameters() for t in distinct.values()]
    sizes = [t.bytes() for t in distinct.values()]
    facts: dict[str, Any] = {
        "latency_ms": None,
        "rows_per_s": None,
        "parameters": sum(c for c in counts if c is not None) if all(c is not None for c in counts) else None,
        "bytes": sum(s for s in sizes if s is not None) if all(s is not None for s in sizes) else None,
    }
    name = next(n for n, some in teachers.items() if some)
    if facts["parameters"] is None or not run.recipe.evaluate.latency:
        return facts  # stored values and callables have no speed of their own
    if torch.cuda.is_available():
        log.info("the teacher answers on the GPU, so its speed on a CPU is not measured")
        return facts
    rows = data[name].splits.get(run.recipe.evaluate.split, data[name].splits["train"])
    examples = rows.examples(slice(0, min(len(rows), 200)))
    facts.update(measure(lambda some: [t.logits(some) for t in teachers[name]], examples, seconds=TEACHER_SECONDS))
    return facts
