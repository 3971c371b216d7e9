"""Why a head cannot be put on a student."""

from __future__ import annotations

from ..errors import did_you_mean
from ..recipe.checks.heads import OPTIONS, head_name, unfit
from ..recipe.schema import Heads
from ..student import Student
from ..tasks import Task

READ_STATES = frozenset({"biattention", "san"})
"""Heads that read every token."""


def refusal(task: Task, student: Student | type[Student], heads: Heads | None = None) -> str | None:
    """Why the head that `heads`, or else `task`, asks for cannot be put on `student`; None if it can.

    student: a class or an instance. heads: the recipe's section.
    """
    heads = Heads() if heads is None else heads
    name = head_name(task, heads.of(task.name))
    if name in READ_STATES and "states" not in student.provides:
        return (
            f"{_place(task, name)} reads every token, and the student gives no states of tokens; set "
            f"heads.tasks.{task.name}.name: auto, or use another student"
        )
    return head_problem(task, heads, student.pairs)


def head_problem(task: Task, heads: Heads, pairs: str) -> str | None:
    """As `refusal`, for any student that reads two texts that way ("joint" or "separate")."""
    options = heads.of(task.name)
    name = head_name(task, options)
    place = _place(task, name)
    if name not in OPTIONS:
        return f"{place} is unknown; {did_you_mean(name, OPTIONS)}"
    if (cause := unfit(task, options)) is not None:
        return f"{place} {cause}"
    if name == "pair" and pairs == "joint":
        return f"{place} compares two texts, and the student reads them as one sequence; use 'auto' or 'linear'"
    if name == "linear" and task.pair and pairs == "separate":
        return f"{place} reads one text, and the student reads the two texts of a pair apart; use 'auto' or 'pair'"
    return None


def _place(task: Task, name: str) -> str:
    return f"task '{task.name}': head '{name}'"
