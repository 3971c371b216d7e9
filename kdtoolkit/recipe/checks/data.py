"""`tasks:` and `data:`."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import InputError, did_you_mean, nearest
from ...tasks import GLUE, Task, canonical_name
from ..document import KeyPath, Problem
from ..schema import Recipe, TaskSection


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with tasks and data."""
    yield from _tasks(recipe, names)
    yield from _data(recipe, names)


def _tasks(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    for number, (item, name) in enumerate(zip(recipe.tasks, names, strict=True)):
        path: KeyPath = ("tasks", number) if isinstance(item, str) else ("tasks", number, "name")
        if name in names[:number]:
            yield Problem(path, f"task '{name}' is listed twice; name each task once")
            continue
        if isinstance(item, str):
            try:
                Task(name)
            except InputError as error:
                yield Problem(path, f"'{name}': {error.cause}")
                continue
        if name not in GLUE and recipe.data.folder is None and not recipe.data.task(name).has_source:
            yield Problem(path, _unknown_task(name, item))


def _unknown_task(name: str, item: str | TaskSection) -> str:
    near = nearest(name, GLUE) if isinstance(item, str) else None
    files = f"{name}/train.csv (.tsv, .jsonl, .parquet)"
    own = f"a task of your own needs data.{name}.train or .hub, or data.folder with {files}"
    if near:
        return f"no task is called '{name}'; did you mean '{near}'? ({own})"
    return f"'{name}' is not built in ({', '.join(GLUE)}) and has no data; {own}"


def single_tasks(recipe: Recipe, names: list[str]) -> set[str]:
    """Names of the tasks whose rows are known to be single texts before any data are read."""
    return {name for item, name in zip(recipe.tasks, names, strict=True) if _is_single(item)}


def _is_single(item: str | TaskSection) -> bool:
    text = GLUE[canonical_name(item)].text if isinstance(item, str) and canonical_name(item) in GLUE else ()
    return len(text if isinstance(item, str) else item.text) == 1


def _data(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    singles = single_tasks(recipe, names)
    for name, section in recipe.data.tasks.items():
        if name not in names:
            choices = [*names, "folder", "max_tokens"]
            yield Problem(("data", name), f"'{name}' is no task of this recipe; {did_you_mean(name, choices)}")
        if section.transfer_rows is not None and section.gold_rows is None:
            message = "means nothing without gold_rows: the rows after the first gold_rows lose their labels"
            yield Problem(("data", name, "transfer_rows"), message)
        if section.text is not None and not 1 <= len(section.text) <= 2:
            yield Problem(("data", name, "text"), f"{len(section.text)} text columns; one or two are supported")
        if section.both_orders and name in singles:
            yield Problem(("data", name, "both_orders"), f"the rows of '{name}' are single texts; leave it out")
