"""`objective:`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import TypeAdapter, ValidationError

from ...errors import did_you_mean
from ...schedule import Schedule, Value, extremes
from ...tasks import Task
from ..document import KeyPath, Problem
from ..messages import sentence
from ..schema import ObjectiveOptions, Recipe, TermSection
from ..terms import KNOWN_TERMS, KnownTerm

TEMPERATURE = "1 to 8 are usual"
FEW_ROWS = 4
"""Rows of a task in a batch below which there is little to relate to each other."""


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with the objective."""
    yield from _weights(recipe.objective, ("objective",))
    for task, section in recipe.objective.tasks.items():
        if task not in names:
            message = f"'{task}' is no task of this recipe; {did_you_mean(task, names)}"
            yield Problem(("objective", "tasks", task), message)
        yield from _weights(section, ("objective", "tasks", task))
    if recipe.objective.terms and not recipe.teachers:
        yield Problem(
            ("objective", "terms"), "there is no teacher to learn from; name one under teachers, or leave it out"
        )
    for number, term in enumerate(recipe.objective.terms):
        yield from _term(recipe, term, names, ("objective", "terms", number))


def warnings(recipe: Recipe, tasks: Sequence[Task]) -> list[str]:
    """What the objective asks for and does not get, or gets only in part.

    tasks: resolved, with their label names. For `kdtool check`; what is impossible is a Problem instead.
    """
    said = []
    for number, term in enumerate(recipe.objective.terms):
        known = KNOWN_TERMS.get(term.name)
        place = f"objective.terms.{number} ({term.name})"
        if extremes(term.weight)[1] == 0:
            said.append(f"{place}: its weight is 0 throughout, so it teaches nothing")
        if known is None:
            continue
        for task in tasks:
            if task.name in _tasks(recipe, term, [task.name]):
                said += [f"{place}: {text}" for text in _degenerate(recipe, term, known, task)]
        if known.batch and recipe.sampler.batch == "mixed" and recipe.train.batch_rows < FEW_ROWS * len(tasks):
            said.append(
                f"{place}: it relates the rows of a task in a batch to each other, and a mixed batch of "
                f"{recipe.train.batch_rows} rows holds few of each of {len(tasks)} tasks; raise train.batch_rows, or "
                f"set sampler.batch: one_task"
            )
    return said


def _degenerate(recipe: Recipe, term: TermSection, known: KnownTerm, task: Task) -> Iterator[str]:
    two = task.kind == "classification" and len(task.labels) == 2
    if term.name == "dkd" and two:
        yield (
            f"{task.name} has two classes: the non-target part is 0, and what is left is plain distillation (kl) times "
            f"the option target"
        )
    if term.name == "dist" and two and term.options.get("columns", 1.0) == 0:
        yield f"{task.name} has two classes: the correlation of a row is 1 or -1, so with columns: 0 it teaches nothing"
    elif term.name == "dist" and two and term.options.get("rows", 1.0) != 0:
        yield f"{task.name} has two classes: the correlation of a row is 1 or -1 and teaches nothing; the columns do"
    if known.labels and _has_unlabelled(recipe, task.name):
        yield f"{task.name}: it needs the gold class, so rows without a label are left out of it"


def _has_unlabelled(recipe: Recipe, task: str) -> bool:
    """Whether the recipe itself says that some rows of train have no label."""
    data, augment = recipe.data.task(task), recipe.augment
    augmented = augment is not None and (augment.tasks is None or task in augment.tasks)
    return data.gold_rows is not None or data.transfer is not None or augmented


def _tasks(recipe: Recipe, term: TermSection, names: Sequence[str]) -> list[str]:
    """Those of the tasks that have the term."""
    return [name for name in names if recipe.teachers_of(name) and (term.tasks is None or name in term.tasks)]


def _term(recipe: Recipe, term: TermSection, names: list[str], path: KeyPath) -> Iterator[Problem]:
    if extremes(term.weight)[0] < 0:
        yield _out_of_range((*path, "weight"), term.weight, "is negative; 0 leaves the term out", above=-1e-300)
    if term.tasks == []:
        yield Problem((*path, "tasks"), "is empty; leave it out for all tasks that have a teacher")
    for place, task in enumerate(term.tasks or ()):
        if task not in names:
            message = f"'{task}' is no task of this recipe; {did_you_mean(task, names)}"
            yield Problem((*path, "tasks", place), message)
        elif recipe.teachers and not recipe.teachers_of(task):
            yield Problem((*path, "tasks", place), f"'{task}' has no teacher, and a term learns from one; leave it out")
    known = KNOWN_TERMS.get(term.name)
    if known is None:
        message = f"no term is called '{term.name}'; {did_you_mean(term.name, KNOWN_TERMS)}"
        yield Problem((*path, "name"), f"{message} (`kdtool explain objective` lists them)")
        return
    yield from _options(term, known, path)
    if known.classes:
        yield from _classes(recipe, term, path)


def _options(term: TermSection, known: KnownTerm, path: KeyPath) -> Iterator[Problem]:
    options = known.options()
    for key, value in term.options.items():
        if key not in options:
            message = (
                f"the term '{term.name}' has no option '{key}'; {did_you_mean(key, [*options, 'weight', 'tasks'])}"
            )
            yield Problem((*path, key), message)
            continue
        try:
            TypeAdapter(options[key].type).validate_python(value, strict=True)
        except ValidationError as error:
            # A union reports every branch; the first says what is expected.
            yield Problem((*path, key), sentence(error.errors(include_url=False)[0], ("option",)))


def _classes(recipe: Recipe, term: TermSection, path: KeyPath) -> Iterator[Problem]:
    """A softmax over classes is no part of regression and multilabel tasks."""
    kinds = {task.name: task.kind for task in recipe.task_list()}
    asked = _tasks(recipe, term, list(kinds))
    wrong = [name for name in asked if kinds[name] != "classification"]
    if not wrong:
        return
    right = [name for name in asked if name not in wrong]
    way_out = f"set tasks: [{', '.join(right)}]" if right else "use another term, or the soft loss alone"
    what = ", ".join(f"'{name}' ({kinds[name]})" for name in wrong)
    yield Problem((*path, "tasks"), f"'{term.name}' compares probabilities of classes, not {what}; {way_out}")


def _weights(section: ObjectiveOptions, path: KeyPath) -> Iterator[Problem]:
    if section.temperature is not None and extremes(section.temperature)[0] <= 0:
        yield _out_of_range((*path, "temperature"), section.temperature, f"is not positive; {TEMPERATURE}", above=0)
    if section.alpha is not None and not 0 <= extremes(section.alpha)[0] <= extremes(section.alpha)[1] <= 1:
        message = "is not between 0 (teacher only) and 1 (labels only)"
        yield _out_of_range((*path, "alpha"), section.alpha, message, above=-1e-300)
    if section.weight is not None and extremes(section.weight)[0] < 0:
        yield _out_of_range((*path, "weight"), section.weight, "is negative; 0 leaves the task out", above=-1e-300)
    elif section.weight is not None and extremes(section.weight)[1] == 0 and len(path) == 1:
        yield Problem((*path, "weight"), "is 0 for every task, so nothing would be learned")


def _out_of_range(path: KeyPath, value: Value, message: str, *, above: float) -> Problem:
    if isinstance(value, Schedule):
        end = "from" if value.from_ <= above or (value.to > above and value.from_ > value.to) else "to"
        return Problem((*path, end), f"{value.from_ if end == 'from' else value.to:g} {message}")
    return Problem(path, f"{value:g} {message}")
