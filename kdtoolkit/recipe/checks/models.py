"""`teachers:`, `student:` and `tokenizer:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...errors import did_you_mean
from ...plugins import installed
from ...schedule import extremes
from ..document import KeyPath, Problem
from ..messages import sentence
from ..names import resolve_student, resolve_teacher, student_plugin
from ..pretrained import OPTIONS, TEACHER, checkpoint_of, is_own
from ..schema import Recipe, TeacherSection
from ..signature import constructor_options, source_file


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with teachers, student and tokenizer."""
    yield from _teachers(recipe, names)
    yield from _student(recipe)
    yield from _tokenizer(recipe)


def _teachers(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    gold_only = extremes(recipe.objective.alpha)[0] >= 1 and not recipe.objective.terms
    if not recipe.teachers and not gold_only:
        message = "no teacher is given; name one with --teacher, or set objective.alpha: 1.0 to train on labels only"
        yield Problem(("teachers",), message)
    for number, section in enumerate(recipe.teachers):
        path: KeyPath = ("teachers", number)
        for place, task in enumerate(section.tasks or ()):
            if task not in names:
                message = f"'{task}' is no task of this recipe; {did_you_mean(task, names)}"
                yield Problem((*path, "tasks", place), message)
        if section.tasks == []:
            yield Problem((*path, "tasks"), "is empty; leave it out for all tasks")
        plugin, source = resolve_teacher(section.name)
        if not section.name.strip():
            yield Problem((*path, "name"), "is empty")
        elif plugin == "python" and ":" not in source:
            yield Problem((*path, "name"), f"'{section.name}' is not python:module:function")
        else:
            yield from _plugin("teacher", plugin, section.name, section.options, path)
            yield from _averaged(recipe, section, path)
            yield from _nested(recipe, section, plugin, path)


def _nested(recipe: Recipe, section: TeacherSection, plugin: str, path: KeyPath) -> Iterator[Problem]:
    """What is wrong with the recipe of a teacher that is distilled itself."""
    if plugin != "distilled" or "recipe" not in section.options:
        return
    from ..nested import nested_problems  # which loads recipes, and so needs these checks

    taught = [
        item
        for item, task in zip(recipe.tasks, recipe.task_list(), strict=True)
        if section.tasks is None or task.name in section.tasks
    ]
    for problem in nested_problems(section.options["recipe"], taught):
        yield Problem((*path, "recipe", *problem.path), problem.message)


def _averaged(recipe: Recipe, section: TeacherSection, path: KeyPath) -> Iterator[Problem]:
    """An average of several models' probabilities is no softmax of logits that another temperature could divide."""
    if section.options.get("averaged") is not True:
        return
    for task in recipe.task_list():
        taught = task.kind != "regression" and (section.tasks is None or task.name in section.tasks)
        if taught and extremes(recipe.objective.of(task.name)["temperature"]) != (1, 1):
            own = task.name in recipe.objective.tasks and recipe.objective.tasks[task.name].temperature is not None
            key = f"objective.tasks.{task.name}.temperature" if own else "objective.temperature"
            message = f"averaged probabilities can be used at temperature 1 only; set {key}: 1 (task '{task.name}')"
            yield Problem((*path, "averaged"), message)


def _student(recipe: Recipe) -> Iterator[Problem]:
    name, options = student_plugin(recipe.student.name, recipe.student.options)
    if name == "hf" and not options.get("model") and not options.get("config"):
        yield Problem(("student", "name"), "hf: names no model; write hf:NAME, such as hf:prajjwal1/bert-tiny")
    elif checkpoint_of(recipe.student) == TEACHER and not _models(recipe):
        option = next(name for name in OPTIONS if options.get(name))
        message = f"'{TEACHER}' is the first teacher that is a Hugging Face model, and there is none; name a checkpoint"
        yield Problem(("student", "name" if option == "model" else option), message)
    else:
        yield from _plugin("student", name, recipe.student.name, options, ("student",))


def _plugin(kind: str, plugin: str, name: str, given: dict[str, Any], path: KeyPath) -> Iterator[Problem]:
    """Whether there is a plug-in of this name, and whether it takes the options, as far as its source tells."""
    if plugin not in installed(kind):
        module, colon, _ = plugin.rpartition(":")
        if not colon:
            message = f"no {kind} is called '{name}'; {did_you_mean(name, installed(kind))}"
            yield Problem((*path, "name"), message)
            return
        if (module.endswith(".py") or "/" in module) and source_file(module) is None:
            yield Problem((*path, "name"), f"there is no file {module}; give an existing .py file or a module's name")
            return
    known = constructor_options(kind, plugin)
    if known is None:
        return
    for key, value in given.items():
        if key not in known:
            message = f"the {kind} '{name}' has no option '{key}'; {did_you_mean(key, known)}"
            yield Problem((*path, key), message)
            continue
        try:
            TypeAdapter(known[key].type).validate_python(value)
        except ValidationError as error:
            yield Problem((*path, key), _mistyped(error))
    for key, option in known.items():
        if option.required and key not in given:
            yield Problem((*path, key), f"the {kind} '{name}' needs a value for '{key}'")


def _mistyped(error: ValidationError) -> str:
    # A union reports every branch; the first says what is expected.
    return sentence(error.errors(include_url=False)[0], ("option",))


def _tokenizer(recipe: Recipe) -> Iterator[Problem]:
    section = recipe.tokenizer
    if section.vectors is not None and section.name == "sentencepiece":
        yield Problem(("tokenizer", "vectors"), "sentencepiece has no pretrained vectors; use the tokenizer words")
    if section.vectors is not None and section.name == "teacher" and section.vectors not in ("copy", "project"):
        yield Problem(("tokenizer", "vectors"), f"'{section.vectors}' is unknown; one of: copy, project")
    checkpoint, needed = checkpoint_of(recipe.student), resolve_student(recipe.student)[0] == "hf"
    if section.name == "teacher" and section.source is None and not _models(recipe) and checkpoint != TEACHER:
        message = "is needed: no teacher is a Hugging Face model whose tokenizer could be taken"
        yield Problem(("tokenizer", "source"), message)
    if checkpoint is not None and needed and not is_own(section, checkpoint):
        key = "source" if section.name == "teacher" else "name"
        message = (
            f"'{section.source or section.name}' is not the tokenizer of '{checkpoint}', whose weights the student "
            f"starts from; leave `tokenizer` out, or set student.pretrained: false to start from nothing"
        )
        yield Problem(("tokenizer", key), message)


def _models(recipe: Recipe) -> list[TeacherSection]:
    return [teacher for teacher in recipe.teachers if resolve_teacher(teacher.name)[0] == "hugging_face"]
