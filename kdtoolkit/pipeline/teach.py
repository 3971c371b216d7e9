"""The teach stage: every task's teachers, ready to answer; those without a fitting head are fine-tuned first."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, plugins, processes
from ..data.plan import together
from ..data.prepare import TaskRows
from ..data.rows import Rows
from ..errors import InputError
from ..files import atomic_folder
from ..labels import default_store
from ..labels.labelling import all_answered
from ..progress import log
from ..recipe import Recipe
from ..recipe.names import resolve_teacher
from ..tasks import Task
from ..teacher import Teacher
from .ensemble import Standing, chosen, read_standings, write_standings
from .label import held_out_score, label_splits
from .members import Member, members
from .run_folder import RunFolder


def option_problems(recipe: Recipe) -> list[str]:
    """What is wrong with the teachers' and the student's options, found by their constructors' signatures."""
    from ..recipe.names import resolve_student

    problems = []
    for number, section in enumerate(recipe.teachers):
        name, _ = resolve_teacher(section.name)
        for key, message in plugins.option_problems("teacher", name, plugins.plugin("teacher", name), section.options):
            problems.append(f"teachers.{number}.{key}: {message}")
    name, options = resolve_student(recipe.student)
    for key, message in plugins.option_problems("student", name, plugins.plugin("student", name), options):
        problems.append(f"student.{key}: {message}")
    return problems


def import_libraries(recipe: Recipe) -> None:
    """Imports what the recipe's teachers will need."""
    for section in recipe.teachers:
        kind: type[Teacher] = plugins.plugin("teacher", resolve_teacher(section.name)[0])
        kind.import_libraries()


def build_teachers(recipe: Recipe, data: Mapping[str, TaskRows]) -> dict[str, list[Teacher]]:
    """Builds every teacher, fine-tuned or not, before the first of them works: all problems are raised together."""
    teachers: dict[str, list[Teacher]] = {}
    with together("teachers") as attempt:
        for name, task_members in members(recipe, [rows.task for rows in data.values()]).items():
            teachers[name] = [attempt(built, member, data[name]) for member in task_members]
    return teachers


def built(member: Member, rows: TaskRows) -> Teacher:
    """One teacher, with values for all texts or with labels to be fine-tuned on; InputError if it has neither."""
    teacher = member.build(rows.task)
    if teacher.ready and member.section.members > 1:
        cause = f"is ready to teach '{rows.task.name}' as it is, so that its {member.section.members} members were one"
        trains = "head" in plugins.options(plugins.plugin("teacher", member.plugin))
        remedy = "leave members out" + (", or set `head: new` to train them" if trains else "")
        raise InputError(f"teacher '{member.section.name}'", cause, remedy)
    if teacher.foreign_labels is not None and member.section.members < member.count:
        theirs, ours = ", ".join(teacher.foreign_labels), ", ".join(rows.task.labels)
        raise InputError(
            f"teacher '{member.section.name}'",
            f"its labels are {theirs}, those of '{rows.task.name}' and of the ensemble's other members are {ours}",
            "say which is which (`label_map`), or set `head: new` to fine-tune it on the task",
        )
    if teacher.ready:
        all_answered(teacher, [rows.splits[split] for split in label_splits(rows)])
    elif not (teacher.joint or _has_labels(gold_rows(rows))):
        raise _nothing_to_learn(member, rows.task.name)
    return teacher


def ready_teachers(
    run: RunFolder, data: Mapping[str, TaskRows], built: Mapping[str, Sequence[Teacher]]
) -> dict[str, list[Teacher]]:
    """The teachers of `build_teachers` that are to teach, trained; what is finished is found again.

    First all are trained, then those that `keep` names are chosen, then those are refined that ask for it. What became
    of each is in data/TASK/ensemble.json.
    """
    listed = members(run.recipe, [rows.task for rows in data.values()])
    fresh = {name: [not teacher.ready for teacher in some] for name, some in built.items()}
    teachers = {
        name: [_trained(run, member, teacher, data) for member, teacher in zip(some, built[name], strict=True)]
        for name, some in listed.items()
    }
    figures: dict[tuple[str, int], float] = {}

    def figure(task: str, member: Member) -> float:
        if (task, member.number) not in figures:
            teacher = teachers[task][member.number]
            figures[task, member.number] = held_out_score(run, teacher, data[task])
            log.info("%s: %s has %.4f on held-out rows", task, member.name, figures[task, member.number])
        return figures[task, member.number]

    metrics = {name: rows.task.metric for name, rows in data.items()}
    kept = chosen(listed, metrics, joint=lambda m: teachers[m.task][m.number].joint, figure=figure)
    for name, some in listed.items():
        standings = []
        for member, keep in zip(some, kept[name], strict=True):
            teacher = teachers[name][member.number]
            if keep and teacher.refines:
                teachers[name][member.number] = _refined(run, member, teacher, data)
            standings.append(
                Standing(
                    name=member.section.name,
                    member=member.copy,
                    seed=member.seed(run.recipe.seed, joint=teacher.joint) if fresh[name][member.number] else None,
                    options=member.options,
                    metric=metrics[name],
                    score=figures.get((name, member.number)),
                    kept=keep,
                )
            )
        if standings and processes.is_first():
            write_standings(run, name, standings)
    return {name: [t for t, keep in zip(some, kept[name], strict=True) if keep] for name, some in teachers.items()}


def teacher_checkpoint(recipe: Recipe, run: RunFolder | None = None) -> str | None:
    """Folder or hub id of the first Hugging Face teacher, whose tokenizer and weights a student may share.

    Where the run has fine-tuned it, its folder for the first of its tasks; of several members the first that teaches.
    """
    found = members(recipe, recipe.task_list())
    for section in recipe.teachers:
        for task, some in found.items():
            own = [member for member in some if member.section is section and member.plugin == "hugging_face"]
            if not own:
                continue
            standings = None if run is None else read_standings(run, task)
            member = next((m for m in own if standings and standings[m.number].kept), own[0])
            folders = [] if run is None else [member.folder(run, joint=joint) for joint in (False, True)]
            return next((str(folder) for folder in folders if _finished(folder)), member.source)
    return None


def gold_rows(rows: TaskRows) -> Rows:
    """The rows a teacher of the task is fine-tuned on."""
    return rows.splits.get("teacher", rows.splits["train"])


def _has_labels(rows: Rows) -> bool:
    return bool(np.isfinite(rows.labels()).any())


def _nothing_to_learn(member: Member, task: str) -> InputError:
    return InputError(
        f"teacher '{member.section.name}'",
        f"has no head for '{task}' and there are no labelled rows to fine-tune it on",
        "give labels, or a teacher that was fine-tuned for the task",
    )


def _trained(run: RunFolder, member: Member, teacher: Teacher, data: Mapping[str, TaskRows]) -> Teacher:
    """The teacher, fine-tuned if it is not ready."""
    if teacher.ready:
        return teacher
    task, recipe = data[member.task].task, run.recipe
    folder = member.folder(run, joint=teacher.joint)
    if processes.from_first(lambda: not _finished(folder)):
        names = [member.task]
        if teacher.joint:
            taught = [name for name in data if member.section.tasks is None or name in member.section.tasks]
            every = teacher.learns_all
            names = [n for n in data if n in taught or (every and _has_labels(gold_rows(data[n])))]
        rows = {name: gold_rows(data[name]) for name in names}
        for name, some in rows.items():
            if not _has_labels(some):
                raise _nothing_to_learn(member, name)
        seed = member.seed(recipe.seed, joint=teacher.joint)

        def train() -> None:
            log.info("fine-tuning the teacher '%s' on %s", member.name, ", ".join(names))
            teacher.store = recipe.store
            if teacher.joint:
                tasks = {name: data[name].task for name in names}
                _train(teacher, lambda: teacher.fine_tune_jointly(tasks, rows, folder, seed=seed))
            else:
                _train(teacher, lambda: teacher.fine_tune(rows[member.task], folder, seed=seed))

        _from_store_or(run, train, _key(teacher, member, rows, data, seed), folder)
    if processes.is_first():
        teacher.clean_up(folder)
    return _opened(member, teacher, task, folder)


def _refined(run: RunFolder, member: Member, teacher: Teacher, data: Mapping[str, TaskRows]) -> Teacher:
    """A copy of a jointly trained teacher for one task alone, fine-tuned on its gold rows."""
    folder = member.folder(run, joint=False)
    if processes.from_first(lambda: not _finished(folder)):
        rows = {member.task: gold_rows(data[member.task])}
        seed = member.seed(run.recipe.seed, joint=False, refined=True)

        def train() -> None:
            log.info("refining the teacher '%s' on %s", member.name, member.task)
            _train(teacher, lambda: teacher.fine_tune(rows[member.task], folder, seed=seed))

        _from_store_or(run, train, _key(teacher, member, rows, data, seed), folder)
    return _opened(member, teacher, data[member.task].task, folder)


def _opened(member: Member, teacher: Teacher, task: Task, folder: Path) -> Teacher:
    """The trained teacher in `folder`, in place of the one that it was trained from."""
    teacher.close()
    trained = member.build(task, str(folder))
    if not trained.ready:
        raise InputError(str(folder), f"is no teacher for '{task.name}'", "delete the folder and resume the run")
    return trained


def _from_store_or(run: RunFolder, train: Callable[[], None], key: str, folder: Path) -> None:
    """Fills `folder` from the store, or by training; then the store has it too."""
    shelf = default_store(run.recipe.store) / "teachers" / key
    found = processes.from_first(lambda: _finished(shelf))
    if found:
        log.info("%s: found in the store (%s), not trained again", folder.relative_to(run.path), key[:12])
    else:
        train()
    source, target = (shelf, folder) if found else (folder, shelf)
    with processes.first_then_all():
        if processes.is_first():
            with atomic_folder(target) as temporary:
                shutil.copytree(source, temporary, dirs_exist_ok=True, copy_function=_link)


def _train(teacher: Teacher, fine_tune: Callable[[], None]) -> None:
    """Trains a teacher in every process, or in the first alone."""
    if teacher.distributed:
        fine_tune()
        return
    with processes.first_then_all():
        if processes.is_first():
            fine_tune()


def _link(source: str, target: str) -> None:
    # A hard link costs no space; across file systems, or where links are refused, a copy does.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _finished(folder: Path) -> bool:
    # Fine-tuned folders appear under their final name by one rename, so what is there is whole.
    return (folder / "config.json").is_file()


def _key(teacher: Teacher, member: Member, rows: Mapping[str, Rows], data: Mapping[str, TaskRows], seed: int) -> str:
    digest = blake2b(digest_size=16)
    facts: dict[str, Any] = {
        "version": __version__,
        "base": teacher.fingerprint,
        "options": member.options,
        "tasks": [data[name].task.to_dict() for name in rows],
        "seed": seed,
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for some in rows.values():
        digest.update(np.ascontiguousarray(some.ids()).tobytes())
        digest.update(np.ascontiguousarray(some.labels()).tobytes())
    return digest.hexdigest()
