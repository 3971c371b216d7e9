"""The teach stage: every task's teachers, ready to answer; those without a fitting head are fine-tuned first."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, plugins
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
from ..recipe.schema import TeacherSection
from ..tasks import Task
from ..teacher import Teacher
from ..training.randomness import derived_seed
from .label import label_splits
from .run_folder import RunFolder


@dataclass(frozen=True)
class Member:
    """One teacher of one task, by name: enough to build it again.

    number: among the teachers of the task; place: in the recipe's list of teachers.
    """

    task: str
    number: int
    place: int
    section: TeacherSection
    plugin: str
    source: str

    def build(self, task: Task, source: str | None = None) -> Teacher:
        """The teacher itself; `source` replaces the recipe's name of it (its fine-tuned folder)."""
        cls = plugins.plugin("teacher", self.plugin)
        try:
            return cls(source or self.source, task, **self.section.options)
        except (TypeError, ValueError) as error:
            raise InputError(f"teacher '{self.section.name}', task {self.task}", str(error)) from error


def members(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, list[Member]]:
    """The teachers of each task, in the recipe's order."""
    found: dict[str, list[Member]] = {}
    for task in tasks:
        found[task.name] = []
        for number, section in enumerate(recipe.teachers_of(task.name)):
            plugin, source = resolve_teacher(section.name)
            place = next(i for i, listed in enumerate(recipe.teachers) if listed is section)
            found[task.name].append(Member(task.name, number, place, section, plugin, source))
    return found


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
    if teacher.ready:
        all_answered(teacher, [rows.splits[split] for split in label_splits(rows)])
    elif not (teacher.joint or _has_labels(gold_rows(rows))):
        raise _nothing_to_learn(member, rows.task.name)
    return teacher


def ready_teachers(
    run: RunFolder, data: Mapping[str, TaskRows], built: Mapping[str, Sequence[Teacher]]
) -> dict[str, list[Teacher]]:
    """The teachers of `build_teachers`, those that were not ready fine-tuned; what is finished is found again."""
    teachers: dict[str, list[Teacher]] = {}
    for name, task_members in members(run.recipe, [rows.task for rows in data.values()]).items():
        teachers[name] = []
        for member, teacher in zip(task_members, built[name], strict=True):
            if not teacher.ready:
                folder = _folder(run, member, len(task_members), joint=teacher.joint)
                if not _finished(folder):
                    _fine_tune(run, teacher, member, data, folder)
                teacher.close()
                teacher = member.build(data[name].task, str(folder))
                if not teacher.ready:
                    raise InputError(str(folder), f"is no teacher for '{name}'", "delete the folder and resume the run")
            teachers[name].append(teacher)
    return teachers


def teacher_checkpoint(recipe: Recipe, run: RunFolder | None = None) -> str | None:
    """Folder or hub id of the first Hugging Face teacher, whose tokenizer and weights a student may share.

    Where the run has fine-tuned it, its folder for the first of its tasks.
    """
    found = members(recipe, recipe.task_list())
    for section in recipe.teachers:
        for some in found.values():
            for member in some:
                if member.section is section and member.plugin == "hugging_face":
                    folder = None if run is None else _folder(run, member, len(some), joint=False)
                    return str(folder) if folder is not None and _finished(folder) else member.source
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


def _fine_tune(run: RunFolder, teacher: Teacher, member: Member, data: Mapping[str, TaskRows], folder: Path) -> None:
    joint = teacher.joint
    names = list(data) if joint else [member.task]
    if joint and member.section.tasks is not None:
        names = [name for name in data if name in member.section.tasks]
    rows = {name: gold_rows(data[name]) for name in names}
    for name, some in rows.items():
        if not _has_labels(some):
            raise _nothing_to_learn(member, name)
    who = ("joint", member.place) if joint else (member.task, member.number)
    seed = derived_seed(run.recipe.seed, "teacher", *who)
    key = _key(teacher, member, rows, data, seed)
    shelf = default_store(run.recipe.store) / "teachers" / key
    if _finished(shelf):
        log.info("teacher of %s: found in the store (%s), not trained again", ", ".join(names), key[:12])
        with atomic_folder(folder) as temporary:
            shutil.copytree(shelf, temporary, dirs_exist_ok=True, copy_function=_link)
        return
    log.info("fine-tuning the teacher '%s' on %s", member.section.name, ", ".join(names))
    if joint:
        teacher.fine_tune_jointly({name: data[name].task for name in names}, rows, folder, seed=seed)
    else:
        teacher.fine_tune(rows[member.task], folder, seed=seed)
    with atomic_folder(shelf) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    # A hard link costs no space; across file systems, or where links are refused, a copy does.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _folder(run: RunFolder, member: Member, count: int, *, joint: bool) -> Path:
    if joint:
        return run.teacher / f"joint-{member.place}"
    folder = run.teacher / member.task
    return folder if count == 1 else folder / f"member-{member.number}"


def _finished(folder: Path) -> bool:
    # Fine-tuned folders appear under their final name by one rename, so what is there is whole.
    return (folder / "config.json").is_file()


def _key(teacher: Teacher, member: Member, rows: Mapping[str, Rows], data: Mapping[str, TaskRows], seed: int) -> str:
    digest = blake2b(digest_size=16)
    facts: dict[str, Any] = {
        "version": __version__,
        "base": teacher.fingerprint,
        "options": member.section.options,
        "tasks": [data[name].task.to_dict() for name in rows],
        "seed": seed,
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for some in rows.values():
        digest.update(np.ascontiguousarray(some.ids()).tobytes())
        digest.update(np.ascontiguousarray(some.labels()).tobytes())
    return digest.hexdigest()
