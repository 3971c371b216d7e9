"""`heads:` of a teacher that is trained on several tasks together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ...errors import InputError
from ...tasks import Task
from ..document import KeyPath, Problem
from ..messages import problems_of
from ..names import resolve_teacher
from ..schema import Heads, Recipe
from .heads import head_name, idle_options, place_of_name, unfit, unknown_tasks

REFUSED = {
    "pair": "compares two texts that were read apart, and the teacher reads them as one sequence; use 'auto' or 'san'",
    "biattention": "attends between two texts that were read apart, and the teacher reads them as one sequence; "
    "use 'auto' or 'san'",
    "ranking": "compares the candidates of a query, and the teacher is trained on rows one by one; use 'auto' or 'san'",
}
"""Heads that a teacher cannot have: the end of a sentence, with the way out."""


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with the heads of the teachers, as far as the recipe alone tells."""
    try:
        tasks = recipe.task_list()
    except InputError:  # a name that cannot be one, which the check of `tasks:` reports
        return
    for problem in of_teachers(recipe, tasks):
        yield problem
    for place, section in _sections(recipe):
        heads, _ = parsed(section)
        for problem in (*unknown_tasks(heads, names), *idle_options(heads, names)) if heads is not None else ():
            yield Problem((*place, *problem.path), problem.message)


def of_teachers(recipe: Recipe, tasks: Sequence[Task]) -> Iterator[Problem]:
    """Heads that cannot be read, or that a task cannot have. tasks: the recipe's, as far as they are known."""
    for place, section in _sections(recipe):
        heads, wrong = parsed(section)
        found = wrong if heads is None else [p for task in tasks for p in of_task(heads, task)]
        for problem in found:
            yield Problem((*place, *problem.path), problem.message)


def parsed(section: Mapping[str, Any]) -> tuple[Heads | None, list[Problem]]:
    """The section with its keys and types checked, or what is wrong with them, by paths within it."""
    try:
        return Heads.model_validate(section), []
    except ValidationError as error:
        errors = [{**found, "loc": ("heads", *found["loc"])} for found in error.errors(include_url=False)]
        wrong = problems_of(errors, {"heads": section})
        return None, [Problem(problem.path[1:], problem.message) for problem in wrong]


def of_task(heads: Heads, task: Task) -> Iterator[Problem]:
    """Why a teacher cannot have the head of a task, by a path within the section. task: see `heads.unfit`."""
    options = heads.of(task.name)
    name = head_name(task.with_(head="auto"), options)
    cause = REFUSED.get(name) or unfit(task.with_(head="auto"), options)
    if cause is not None:
        yield Problem(place_of_name(heads, task.name), f"task '{task.name}': '{name}' {cause}")


def _sections(recipe: Recipe) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """The heads of the teachers that say some, and those of single members, by their place."""
    for number, teacher in enumerate(recipe.teachers):
        if resolve_teacher(teacher.name)[0] != "hugging_face":
            continue
        given: dict[KeyPath, Any] = {("teachers", number, "heads"): teacher.options.get("heads")}
        given |= {("teachers", number, "vary", "heads", i): v for i, v in enumerate(teacher.vary.get("heads", []))}
        for place, heads in given.items():
            if isinstance(heads, Mapping):
                yield place, heads
