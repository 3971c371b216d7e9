"""The stages of a run, in order. Each leaves files under final names and is skipped when it is done."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import processes
from ..data.prepare import TaskRows, prepare_all
from ..demo import write_suite
from ..errors import InputError
from ..evaluate import combined
from ..files import atomic_folder, cannot_write, is_full, read_json
from ..labels import Engine
from ..memory import keep_few_kernels
from ..progress import log
from ..recipe import Recipe
from ..teacher import Teacher
from .augmentation import augment, forget_other_text, mask_token, refuse_augmentation
from .ensemble import member_weights, refuse_without_rows
from .features import hidden_states_stored, refuse_terms, store_hidden_states, with_hidden_states
from .held_out import HeldOut, calibration_rows, held_out_split
from .label import is_labelled, label, teacher_outputs
from .measure import calibrate, evaluate, write_results
from .queries import note_ranked_tasks, refuse_lone_candidates
from .refusals import refuse
from .run_folder import RunFolder
from .student_data import StudentData, tokenize
from .student_stages import is_whole, train_students
from .teach import build_teachers, import_libraries, ready_teachers, teacher_checkpoint

DEMO = "demo:"


def run_stages(run: RunFolder, until: str = "report", engine: Engine | None = None) -> dict[str, Any]:
    """Runs what is left, up to and including the stage `until` (teach | label | report). engine: what labels.

    Returns results.json if the run got there, else run.json. Raises InputError and WorkError; what was finished stays.
    Of several processes all come here, and the first writes.
    """
    keep_few_kernels()
    processes.start()
    processes.see_the_same(run.path)
    if processes.from_first(lambda: _is_finished(run)):
        log.info("%s is finished; nothing to do", run.path)
        return read_json(run.results)
    with processes.first_then_all():
        if processes.is_first():
            run.lock()
    try:
        with _logged(run.log):
            torch.set_num_threads(run.recipe.train.threads or 1)
            return _run(run, until, engine)
    except InputError:
        if run.fresh and not run.state()["stages"]:
            run.take_back()  # nothing long was done: a refused run leaves nothing behind
        raise
    except OSError as error:
        if not is_full(error):
            raise
        raise cannot_write(run.path, error) from error
    finally:
        run.unlock()


def _is_finished(run: RunFolder) -> bool:
    students = [run.student] if run.done("baseline") is None else [run.student, run.gold_only]
    return run.results.is_file() and all(map(is_whole, students))


def _run(run: RunFolder, until: str, engine: Engine | None) -> dict[str, Any]:
    recipe = run.recipe
    if not processes.is_first():
        import_libraries(recipe)  # while the first prepares
    with run.stage("prepare") as facts, processes.first_then_all():
        data = prepare(recipe, run.data)
        facts["digest"] = same_data(run, data)
        facts["rows"] = sum(len(rows) for task in data.values() for rows in task.splits.values())
        for name, rows in data.items():
            for note in rows.notes:
                log.info("%s: %s", name, note)
        something_to_learn(recipe, data)
        if processes.is_first():
            forget_other_text(run)
        if run.done("augment") is not None:
            augment(recipe, data, run.data)
        labelled = is_labelled(run, data) and hidden_states_stored(run, data)
        if not labelled:
            tasks = [rows.task for rows in data.values()]
            if processes.is_first():
                refuse(recipe, tasks, run.data, teacher_source=teacher_checkpoint(recipe, run))
            built = build_teachers(recipe, data)
            if processes.is_first():
                refuse_augmentation(recipe, data, built)
                refuse_terms(recipe, data, built, run.data, teacher_source=teacher_checkpoint(recipe, run))
                if processes.size() > 1:
                    import_libraries(recipe)  # while the others still do

    if recipe.augment is not None and run.is_left("augment"):
        with run.stage("augment") as facts, processes.first_then_all():
            facts.update(augment(recipe, data, run.data))
            for name, note in facts["notes"].items():
                log.info("%s: %s", name, note)
    if not labelled:
        with run.stage("teach") as facts:
            teachers = ready_teachers(run, data, built)
            facts["rows"] = 0
        if until == "teach":
            return run.state()
        with run.stage("label") as facts:
            facts.update(label(run, data, teachers, engine))
            store_hidden_states(run, data, teachers, teacher_checkpoint(recipe, run))
        _close(teachers)
    if until in ("teach", "label"):
        return run.state()

    tokens = None
    with run.stage("tokenize") as facts, processes.first_then_all():
        tokens = with_hidden_states(run, data, _tokens(run, data), None if labelled else teachers)
        facts["rows"] = tokens.rows
        rows_held_out = HeldOut(data, recipe, tokens, run.data, _taught(run, data))
    held_out = rows_held_out if len(rows_held_out) else None
    train_students(run, tokens, held_out)
    if not processes.is_first():
        return {}  # what is left takes no time
    with run.stage("evaluate"):
        calibrate(run.student, data, recipe)
        if (run.gold_only / "config.json").is_file():
            calibrate(run.gold_only, data, recipe)
        results = evaluate(run, data)
    write_results(run, data, {**results, "stages": _with_evaluate(run, results)})
    return read_json(run.results)


def evaluate_run(run: RunFolder, split: str | None = None) -> dict[str, Any]:
    """Measures a finished student again, on `split` if given; writes nothing."""
    if run.done("distill") is None:
        raise InputError(str(run.path), "has no finished student", f"kdtool distill --resume {run.path}")
    torch.set_num_threads(run.recipe.train.threads or 1)
    data = prepare(run.recipe, run.data)
    same_data(run, data)
    for name, note in (run.done("augment") or {}).get("notes", {}).items():
        data[name].notes.append(note)
    return evaluate(run, data, split)


def prepare(recipe: Recipe, folder: Path) -> dict[str, TaskRows]:
    """Reads and checks all data into `folder`; `data.folder: "demo:"` is the bundled suite, generated there first."""
    if recipe.data.folder == DEMO:
        suite = folder.resolve() / "suite"  # the same path wherever the run is opened from
        if not suite.is_dir():
            with atomic_folder(suite) as temporary:
                write_suite(temporary)
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"folder": str(suite)})})
    data = prepare_all(recipe, folder)
    note_ranked_tasks(recipe, data)
    return data


def same_data(run: RunFolder, data: Mapping[str, TaskRows]) -> str:
    """A digest of all rows and labels; InputError if it is not the one that the run began with.

    A teacher, a tokenizer or a checkpoint of other rows would be mixed with these without a word.
    """
    digest = blake2b("".join(rows.digest() for rows in data.values()).encode(), digest_size=16).hexdigest()
    if (run.done("prepare") or {}).get("digest", digest) != digest:
        raise InputError(
            str(run.path),
            "its data are not those that it began with",
            "put the files back as they were, or start a new run with --out",
        )
    return digest


def _taught(run: RunFolder, data: Mapping[str, TaskRows]) -> dict[str, np.ndarray | None]:
    """Each task's teachers as one, on the rows that are held out."""
    found: dict[str, np.ndarray | None] = {}
    for name, rows in data.items():
        split = held_out_split(rows, run.recipe)
        outputs = None if split is None else teacher_outputs(run, name, split)
        how = run.recipe.objective.ensemble
        found[name] = None if outputs is None else combined(rows.task, outputs, member_weights(run, name), how=how)
    return found


def _tokens(run: RunFolder, data: Mapping[str, TaskRows]) -> StudentData:
    return tokenize(
        run.recipe,
        [rows.task for rows in data.values()],
        {name: rows.splits[rows.student_split] for name, rows in data.items()},
        run.data,
        teacher=lambda task: teacher_outputs(run, task, data[task].student_split),
        member_weights=lambda task: member_weights(run, task),
        teacher_source=teacher_checkpoint(run.recipe, run),
        mask=mask_token(run.recipe),
    )


def something_to_learn(recipe: Recipe, data: Mapping[str, TaskRows]) -> None:
    """Raises InputError for a task without teacher and labels, or ranked without candidates, or where there are no rows
    to select weights on, or members of an ensemble.
    """
    refuse_without_rows(recipe, data)
    if recipe.train.select is not None and all(calibration_rows(rows, recipe) is None for rows in data.values()):
        raise InputError(
            "train.select",
            "there are no rows to select on: a tenth of the gold rows of every task is less than 50, or "
            "evaluate.calibration_rows is",
            "leave train.select out, or give more labelled rows",
        )
    refuse_lone_candidates(recipe, data)
    for name, rows in data.items():
        if not recipe.teachers_of(name) and not np.isfinite(rows.splits["train"].labels()).any():
            raise InputError(f"task '{name}'", "has neither a teacher nor gold labels: there is nothing to learn from")


def _with_evaluate(run: RunFolder, results: Mapping[str, Any]) -> dict[str, Any]:
    facts = run.done("evaluate") or {}
    own = {"seconds": facts.get("seconds", 0.0), "cpu_seconds": facts.get("cpu_seconds", 0.0)}
    rows = sum(result["rows"] for result in results["tasks"].values())
    own.update(rows=rows, rows_per_s=rows / own["seconds"] if own["seconds"] else 0.0)
    return {**results["stages"], "evaluate": own}


def _close(teachers: Mapping[str, list[Teacher]]) -> None:
    for some in teachers.values():
        for teacher in some:
            teacher.close()


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Everything that is logged also goes to the run's log.txt, with the time; of several processes, the first's."""
    if not processes.is_first():
        yield
        return
    try:
        handler = _RunLog(path, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _RunLog(logging.FileHandler):
    """A line that the disk has no room for is lost; the work itself says that the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
