"""The objective's further terms for one training: built for the sizes of student and teachers, and put on the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from ..errors import InputError, InputErrors
from ..feature_name import FeatureName
from ..objectives import terms as known
from ..objectives.further import FurtherTerm
from ..objectives.terms import Term
from ..recipe import Recipe
from ..recipe.schema import TermSection
from ..shape import Shape
from ..student import Student
from ..tasks import Task
from ..training import StudentModel

ANOTHER_STUDENT = "take a student that gives them (transformer gives all), or another term"


def further_terms(
    recipe: Recipe,
    student: Student,
    tasks: Sequence[Task],
    shapes: Mapping[str, Shape | None],
    *,
    only: int | None = None,
) -> list[FurtherTerm]:
    """The recipe's terms; their parameters are drawn from torch's global generator.

    shapes: of each task's teacher, None where it has no hidden states. only: the position of the one task that is
    trained on; terms of other tasks are left out.
    Raises InputErrors for all terms that student and teachers cannot serve.
    """
    found, problems = [], []
    for number, section in enumerate(recipe.objective.terms):
        chosen = [i for i, task in enumerate(tasks) if _has(recipe, section, task) and only in (None, i)]
        if not chosen:
            continue
        theirs = [shapes.get(tasks[i].name) for i in chosen]
        teacher = next((shape for shape in theirs if shape is not None), None)
        try:
            term = _build(section, number, student, [tasks[i] for i in chosen], theirs, teacher)
        except InputError as error:
            problems.append(str(error))
            continue
        found.append(FurtherTerm(_label(recipe, number), term, section.weight, frozenset(chosen), teacher))
    if problems:
        raise InputErrors("recipe", problems)
    return found


@contextmanager
def attached(model: StudentModel, terms: Sequence[FurtherTerm]) -> Iterator[None]:
    """While it lasts, the terms are trained with the model, and the student shows what they read."""
    model.terms = nn.ModuleList(further.term for further in terms)
    model.student.output = frozenset[str]().union(*(further.term.student_needs for further in terms))
    try:
        yield
    finally:
        model.terms, model.student.output = nn.ModuleList(), frozenset()


def feature_names(terms: Sequence[FurtherTerm], tasks: Sequence[Task]) -> dict[str, tuple[str, ...]]:
    """By task, the features of the teacher that its terms read, sorted; tasks that need none are left out."""
    needed = {
        task.name: {name for term in terms if position in term.tasks for name in term.term.teacher_needs}
        for position, task in enumerate(tasks)
    }
    return {name: tuple(sorted(names)) for name, names in needed.items() if names}


def _has(recipe: Recipe, section: TermSection, task: Task) -> bool:
    return bool(recipe.teachers_of(task.name)) and (section.tasks is None or task.name in section.tasks)


def _label(recipe: Recipe, number: int) -> str:
    """The term's name; where it occurs several times, with its place in the recipe."""
    names = [section.name for section in recipe.objective.terms]
    return names[number] if names.count(names[number]) == 1 else f"{names[number]}_{number}"


def _build(
    section: TermSection,
    number: int,
    student: Student,
    tasks: Sequence[Task],
    theirs: Sequence[Shape | None],
    teacher: Shape | None,
) -> Term:
    place = f"objective.terms.{number} ({section.name})"
    try:
        term = known.TERMS[section.name](student.shape, teacher, **section.options)
    except (TypeError, ValueError) as error:
        raise InputError(place, str(error)) from error
    lacking = term.student_needs - student.provides
    if lacking:
        what = " and ".join(sorted(lacking))
        raise InputError(place, f"reads the student's {what}, which it does not give", ANOTHER_STUDENT)
    pairs = [task.name for task in tasks if task.pair]
    by_token = term.tokens or any(FeatureName.parse(name).token_axes for name in term.teacher_needs)
    if student.pairs != "joint" and (by_token or (term.joint and pairs)):
        cause = "compares token by token, and the student reads texts without the special tokens of a sequence"
        if pairs:
            cause = f"compares one sequence a row, and the student reads the two texts of '{pairs[0]}' apart"
        raise InputError(place, cause, "set student.pairs: joint, if it has that, or leave the term out")
    if term.teacher_needs:
        _one_teacher(place, tasks, theirs)
    return term


def _one_teacher(place: str, tasks: Sequence[Task], shapes: Sequence[Shape | None]) -> None:
    """Raises InputError unless every task has a teacher with hidden states, and all of them have the same sizes."""
    silent = [task.name for task, shape in zip(tasks, shapes) if shape is None]
    if silent:
        raise InputError(
            place,
            f"reads hidden states, and no teacher of {', '.join(silent)} has any",
            "take a Hugging Face teacher, name other tasks in the term's `tasks`, or use dkd, dist, or rkd on logits",
        )
    if len(set(shapes)) > 1:
        said = ", ".join(f"{task.name} {_sizes(shape)}" for task, shape in zip(tasks, shapes) if shape is not None)
        raise InputError(
            place,
            f"the teachers of its tasks have different sizes: {said}",
            "name the term once for each size, with its `tasks`",
        )


def _sizes(shape: Shape) -> str:
    heads = "" if shape.heads is None else f", {shape.heads} heads"
    return f"({shape.layers} layers of {shape.width}{heads})"
