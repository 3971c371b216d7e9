"""The recipe inside a teacher that is distilled itself (`name: distilled`). Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from ..errors import InputError
from .document import Problem, read_yaml
from .load import _validated, recipe_text
from .schema import Recipe, TaskSection
from .shorthands import apply
from .variants import chosen_variant

OUTER = ("tasks", "seed", "store", "variant", "variants")
"""What the recipe around it says."""
KEPT = {"data": ("max_tokens",), "evaluate": ("calibration_rows",)}
"""The sections of which only these keys mean something: the rows are those of the recipe around it."""
_open: ContextVar[tuple[str, ...]] = ContextVar("_open", default=())
"""Names of the recipes that are being looked at, the outermost first."""


def nested_problems(recipe: Any, tasks: Sequence[str | TaskSection]) -> Iterator[Problem]:
    """What is wrong with a nested recipe, by paths of keys within it.

    recipe: a mapping of recipe keys, or a recipe's name or file. tasks: those of the recipe around it that it teaches.
    """
    if not isinstance(recipe, (str, Mapping)):
        yield Problem((), f"expected the keys of a recipe, or a recipe's name, received {recipe!r}")
        return
    if isinstance(recipe, Mapping):
        yield from _outer_keys(recipe)
    try:
        values = _values(recipe, [task if isinstance(task, str) else task.name for task in tasks])
    except InputError as error:
        yield Problem((), str(error))
        return
    if recipe in _open.get():
        yield Problem((), f"'{recipe}' has a teacher that is made by '{recipe}' itself, which never ends; name another")
        return
    before = _open.set((*_open.get(), *([recipe] if isinstance(recipe, str) else [])))
    problems = _validated(_complete(values, list(tasks), seed=0, folder="."))[1]
    _open.reset(before)
    yield from problems


def nested_recipe(
    recipe: str | Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    folder: str = ".",
    store: str | None = None,
) -> Recipe:
    """The whole recipe: those tasks, with the rows in `folder`, and nothing measured that nobody reads.

    tasks: sections of `tasks:`. store: of the recipe around it. `nested_problems` says what is wrong with its meaning;
    here only keys and types are checked (pydantic's ValidationError), so that it can be had for some of the tasks that
    it names.
    """
    values = _complete(_values(recipe, [task["name"] for task in tasks]), list(tasks), seed=seed, folder=folder)
    return Recipe.model_validate({**values, "store": store})


def _outer_keys(recipe: Mapping[str, Any]) -> Iterator[Problem]:
    for key in OUTER:
        if key in recipe:
            yield Problem((key,), "is what the recipe around this one says; leave it out")
    for section, kept in KEPT.items():
        said = recipe.get(section)
        for key in said if isinstance(said, Mapping) else ():
            if key not in kept:
                remedy = f"leave it out; of '{section}' this recipe can say {', '.join(kept)}"
                yield Problem(
                    (section, key), f"means nothing within a teacher, which gets the rows of its run; {remedy}"
                )


def _values(recipe: str | Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """The mapping without what the recipe around it says; of a recipe that stands alone that is passed over."""
    values: Any = recipe
    if isinstance(recipe, str):
        source, text = recipe_text(recipe)
        document = read_yaml(text)
        if document.problems or not isinstance(document.value, dict):
            raise InputError(source, "is no recipe", f"kdtool check {source} says why")
        values, _, problems = chosen_variant(document.value, (), {})
        if problems:
            raise InputError(source, problems[0].message)
        values, _ = apply(values, {"tasks": tasks}, {})
    values = {key: value for key, value in values.items() if key not in OUTER}
    for section, kept in KEPT.items():
        if isinstance(values.get(section), Mapping):
            values[section] = {key: value for key, value in values[section].items() if key in kept}
    return values


def _complete(values: dict[str, Any], tasks: list[Any], *, seed: int, folder: str) -> dict[str, Any]:
    data, evaluate = (values.get(section) or {} for section in KEPT)
    unmeasured = {"split": "dev", "baseline": False, "bootstrap": 0, "latency": False}
    return {
        **values,
        "tasks": [task.model_dump() if isinstance(task, TaskSection) else task for task in tasks],
        "seed": seed,
        "data": {**data, "folder": folder} if isinstance(data, Mapping) else data,
        "evaluate": {**evaluate, **unmeasured} if isinstance(evaluate, Mapping) else evaluate,
    }
