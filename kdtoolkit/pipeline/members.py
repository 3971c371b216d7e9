"""The teachers of each task, one by one: a section of the recipe with `members: 3` stands for three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import plugins
from ..errors import InputError
from ..recipe import Recipe
from ..recipe.names import resolve_teacher
from ..recipe.schema import TeacherSection
from ..tasks import Task
from ..teacher import Teacher
from ..training.randomness import derived_seed
from .run_folder import RunFolder


@dataclass(frozen=True)
class Maker:
    """Builds a teacher of a plug-in; also in another process, where a relative path would mean something else."""

    plugin: str
    source: str
    task: Task
    options: dict[str, Any]

    def __call__(self) -> Teacher:
        return plugins.plugin("teacher", self.plugin)(self.source, self.task, **self.options)

    def __getstate__(self) -> dict[str, Any]:
        path, colon, function = self.source.rpartition(":") if not Path(self.source).exists() else (self.source, "", "")
        known = f"{Path(path).resolve()}{colon}{function}" if path and Path(path).exists() else self.source
        return {**self.__dict__, "source": known}


@dataclass(frozen=True)
class Member:
    """One teacher of one task, by name: enough to build it again.

    number: among the `count` teachers of the task; place: of its section in the recipe's list of teachers; turn: of
    that section among those that teach the task; copy: which of the section's own members it is. All from 0.
    name: the section's, with its number among the task's teachers of that name, from 1, where there are several.
    """

    task: str
    number: int
    count: int
    place: int
    turn: int
    copy: int
    section: TeacherSection
    plugin: str
    source: str
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The section's, with what `vary` gives this member."""
        varied = {key: values[self.copy % len(values)] for key, values in self.section.vary.items()}
        return {**self.section.options, **varied}

    def build(self, task: Task, source: str | None = None) -> Teacher:
        """The teacher itself; `source` replaces the recipe's name of it (its fine-tuned folder)."""
        maker = Maker(self.plugin, source or self.source, task, self.options)
        try:
            teacher = maker()
        except (TypeError, ValueError) as error:
            raise InputError(f"teacher '{self.section.name}', task {self.task}", str(error)) from error
        teacher.maker = maker
        return teacher

    def seed(self, seed: int, *, joint: bool, refined: bool = False) -> int:
        """The seed of its training, derived from the recipe's; one for all tasks of a joint one."""
        who: tuple[int | str, ...] = ("joint", self.place) if joint else (self.task, self.turn)
        if refined:
            who = (*who, "refined")
        return derived_seed(seed, "teacher", *who, *(("member", self.copy) if self.copy else ()))

    def folder(self, run: RunFolder, *, joint: bool) -> Path:
        """Where it is, once it is trained; the same for all tasks of a joint one."""
        if joint:
            return run.teacher / (f"joint-{self.place}" + (f"-member-{self.copy}" if self.section.members > 1 else ""))
        folder = run.teacher / self.task
        return folder if self.count == 1 else folder / f"member-{self.number}"


def members(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, list[Member]]:
    """The teachers of each task, in the recipe's order."""
    found: dict[str, list[Member]] = {}
    for task in tasks:
        sections = recipe.teachers_of(task.name)
        names = numbered([section.name for section in sections for _ in range(section.members)])
        found[task.name] = []
        for turn, section in enumerate(sections):
            plugin, source = resolve_teacher(section.name)
            place = next(i for i, listed in enumerate(recipe.teachers) if listed is section)
            for copy in range(section.members):
                number, count = len(found[task.name]), len(names)
                found[task.name].append(
                    Member(task.name, number, count, place, turn, copy, section, plugin, source, names[number])
                )
    return found


def numbered(names: Sequence[str]) -> list[str]:
    """The names, each once: one that occurs several times has its number among its like, from 1."""
    return [
        f"{name}#{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
