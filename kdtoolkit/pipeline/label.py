"""The label stage: every teacher's outputs on every text that needs them, and arrays aligned with the rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import processes
from ..data.prepare import TaskRows
from ..data.rows import Rows
from ..errors import InputError, WorkError
from ..evaluate.latency import measure
from ..labels import Engine, LabelReport, LabelStore, default_store, label_rows, teacher_array
from ..progress import log
from ..teacher import Teacher
from .ensemble import WAY_OUT, Standing, ensemble_path, fitted, is_fitted, read_standings, score, write_standings
from .held_out import calibration_rows
from .members import members
from .run_folder import RunFolder

TEACHER_SECONDS = 20.0
"""A teacher's latency is measured for at most so long."""


def label_splits(rows: TaskRows) -> list[str]:
    """The splits whose texts a teacher answers: all but those that only serve to train it."""
    return [split for split in rows.splits if split != "teacher"]


def label(
    run: RunFolder,
    data: Mapping[str, TaskRows],
    teachers: Mapping[str, Sequence[Teacher]],
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Labels what is missing, writes data/TASK/SPLIT-teacher.npy, (rows, members, outputs) float32; returns facts.

    The files hold what each member says divided by its temperature; the store holds it as it was said.
    engine: what labels; None: the processes of this run.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    labelled = already = 0
    kinds: dict[str, list[str]] = {}
    for name, task_teachers in teachers.items():
        if not task_teachers:
            continue
        rows = data[name]
        stores = []
        for teacher in task_teachers:
            store = _store(run, teacher)
            report = _labelled(teacher, [rows.splits[split] for split in label_splits(rows)], store, engine)
            teacher.close()  # one teacher's weights in memory at a time, whatever their number
            labelled, already = labelled + report.labelled, already + report.already
            stores.append(store)
        kinds[name] = [teacher.kind for teacher in task_teachers]
        with processes.first_then_all():
            if processes.is_first():
                standings = _fitted(run, rows, stores)
                temperatures = [standing.temperature or 1.0 for standing in standings if standing.kept]
                for split in label_splits(rows):
                    teacher_array(rows.splits[split], stores, teacher_path(run, name, split), temperatures=temperatures)
                write_standings(run, name, standings)
    if labelled:
        log.info("labelled %d texts (%d were in the store)", labelled, already)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "rows": labelled,
        "already": already,
        "kinds": kinds,
        "model": teacher_model(run, data, teachers) if processes.is_first() else {},
    }


def held_out_score(run: RunFolder, teacher: Teacher, rows: TaskRows) -> float:
    """The metric of a teacher on the rows that are held out of train; what it says there is stored like any answer."""
    store, held_out = _store(run, teacher), calibration_rows(rows, run.recipe)
    if held_out is None:
        raise InputError(f"task '{rows.task.name}'", "has no held-out rows to choose a teacher on", WAY_OUT)
    _labelled(teacher, [held_out], store)
    teacher.close()
    found = score(rows.task, _said(store, held_out), held_out.labels())
    return -np.inf if found is None else found


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
        teacher_path(run, name, split).is_file() and is_fitted(run, name)
        for name, rows in data.items()
        if run.recipe.teachers_of(name)
        for split in label_splits(rows)
    )


def teacher_model(
    run: RunFolder, data: Mapping[str, TaskRows], teachers: Mapping[str, Sequence[Teacher]]
) -> dict[str, Any]:
    """Size and speed of the teachers, for the table: each distinct one counted once; speed over the first task."""
    # A joint one is one model, whatever the number of tasks that it answers for.
    distinct = {t.source if t.joint else t.fingerprint: t for some in teachers.values() for t in some}
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


def _store(run: RunFolder, teacher: Teacher) -> LabelStore:
    return LabelStore.of(teacher, default_store(run.recipe.store) if teacher.reusable else run.path / "labels")


def _labelled(teacher: Teacher, splits: Sequence[Rows], store: LabelStore, engine: Engine | None = None) -> LabelReport:
    """Labels what is missing, the processes in turn; counts are of all of them. Returns when all is stored."""
    report = label_rows(teacher, splits, store, turns=processes.turns, sharing=processes.size(), engine=engine)
    return replace(report, labelled=int(processes.total(report.labelled)))


def _said(store: LabelStore, rows: Rows) -> np.ndarray:
    """(rows, outputs) float32, NaN where the teacher says nothing."""
    values = np.full((len(rows), store.outputs), np.nan, np.float32)
    store.read_into(values, rows.ids())
    return values


def _fitted(run: RunFolder, rows: TaskRows, stores: Sequence[LabelStore]) -> list[Standing]:
    """All members of a task, those that teach with their temperatures and weights."""
    recipe, name = run.recipe, rows.task.name
    standings = read_standings(run, name)
    listed = members(recipe, [rows.task])[name]
    if standings is None or len(standings) != len(listed):
        raise WorkError(f"{ensemble_path(run, name)}: is missing or damaged; run again with --resume")
    held_out = calibration_rows(rows, recipe)
    measured = None
    if held_out is not None and len(held_out):
        measured = np.stack([_said(store, held_out) for store in stores], 1), held_out.labels()
    sections = [member.section for member, standing in zip(listed, standings) if standing.kept]
    kept = [standing for standing in standings if standing.kept]
    done = iter(fitted(rows.task, sections, kept, measured, how=recipe.objective.ensemble))
    return [next(done) if standing.kept else standing for standing in standings]
