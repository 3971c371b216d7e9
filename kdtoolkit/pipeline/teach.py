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

from .. import plugins
from ..data.prepare import TaskRows
from ..data.rows import Rows
from ..errors import InputError, InputErrors
from ..files import atomic_folder
from ..labels import default_store
from ..progress import log
from ..recipe import Recipe
from ..recipe.names import resolve_teacher
from ..recipe.schema import TeacherSection
from ..tasks import Task
from ..teacher import Teacher
from ..training.randomness import derived_seed
from .run_folder import RunFolder


@dataclass(frozen=True)
class Member:
    """One teacher of one task, by name: enough to build it again."""

    task: str
    number: int
    section: TeacherSection
    plugin: str
    source: str

    def build(self, task: Task, source: str | None = None) -> Teacher:
        """The teacher itself; `source` replaces the recipe's name of it (its fine-tuned folder)."""
        cls = plugins.plugin("teacher", self.plugin)
        return cls(source or self.source, task, **self.section.options)


def members(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, list[Member]]:
    """The teachers of each task, in the recipe's order."""
    found: dict[str, list[Member]] = {}
    for task in tasks:
        found[task.name] = []
        for number, section in enumerate(recipe.teachers_of(task.name)):
            plugin, source = resolve_teacher(section.name)
            found[task.name].append(Member(task.name, number, section, plugin, source))
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


def ready_teachers(run: RunFolder, data: Mapping[str, TaskRows]) -> dict[str, list[Teacher]]:
    """Builds every teacher and fine-tunes those that are not ready; what is finished is found again."""
    problems = option_problems(run.recipe)
    if problems:
        raise InputErrors("recipe", problems)
    found = members(run.recipe, [rows.task for rows in data.values()])
    teachers: dict[str, list[Teacher]] = {}
    for name, task_members in found.items():
        teachers[name] = []
        for member in task_members:
            teacher = member.build(data[name].task)
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


def gold_rows(rows: TaskRows) -> Rows:
    """The rows a teacher of the task is fine-tuned on."""
    return rows.splits.get("teacher", rows.splits["train"])


def _fine_tune(run: RunFolder, teacher: Teacher, member: Member, data: Mapping[str, TaskRows], folder: Path) -> None:
    joint = teacher.joint
    names = list(data) if joint else [member.task]
    if joint and member.section.tasks is not None:
        names = [name for name in data if name in member.section.tasks]
    rows = {name: gold_rows(data[name]) for name in names}
    for name, some in rows.items():
        if not np.isfinite(some.labels()).any():
            raise InputError(
                f"teacher '{member.section.name}'",
                f"has no head for '{name}' and there are no labelled rows to fine-tune it on",
                "give labels, or a teacher that was fine-tuned for the task",
            )
    seed = derived_seed(run.recipe.seed, "teacher", "joint" if joint else member.task, member.number)
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
        return run.teacher / f"joint-{member.number}"
    folder = run.teacher / member.task
    return folder if count == 1 else folder / f"member-{member.number}"


def _finished(folder: Path) -> bool:
    # Fine-tuned folders appear under their final name by one rename, so what is there is whole.
    return (folder / "config.json").is_file()


def _key(teacher: Teacher, member: Member, rows: Mapping[str, Rows], data: Mapping[str, TaskRows], seed: int) -> str:
    digest = blake2b(digest_size=16)
    facts: dict[str, Any] = {
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
