"""`heads:`."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import InputError, did_you_mean
from ...tasks import Task
from ..document import KeyPath, Problem
from ..schema import HeadOptions, Heads, Recipe

OPTIONS = {
    "auto": frozenset({"dropout", "hidden"}),
    "linear": frozenset({"dropout", "hidden"}),
    "pair": frozenset({"dropout", "hidden"}),
    "biattention": frozenset({"dropout", "hidden", "width", "shared"}),
    "san": frozenset({"dropout", "width", "steps", "step_dropout"}),
    "ranking": frozenset({"dropout", "hidden", "gamma", "positive"}),
}
"""What each head reads beside its name."""

GROUP_KINDS = ("ce", "kl")
"""Soft losses that are defined over the candidates of a query."""


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with `heads:`, as far as the recipe alone tells; see `heads.refusal` for what needs the student."""
    for problem in unknown_tasks(recipe.heads, names):
        yield Problem(("heads", *problem.path), problem.message)
    try:
        tasks = recipe.task_list()
    except InputError:  # a name that cannot be one, which the check of `tasks:` reports
        return
    for task in tasks:
        options = recipe.heads.of(task.name)
        if (cause := unfit(task, options)) is not None:
            message = f"task '{task.name}': '{head_name(task, options)}' {cause}"
            yield Problem(("heads", *place_of_name(recipe.heads, task.name)), message)
        elif options.name == "ranking":
            yield from _kind(recipe, task.name)
    for problem in idle_options(recipe.heads, names):
        yield Problem(("heads", *problem.path), problem.message)
    yield from _widths(recipe.heads, names)


def head_name(task: Task, options: HeadOptions) -> str:
    """The head of a task: the recipe's `heads:`, or for "auto" what the task itself says."""
    return task.head if options.name in (None, "auto") else str(options.name)


def unfit(task: Task, options: HeadOptions) -> str | None:
    """Why the task cannot have its head, and the way out: the end of a sentence; None if it can, or is not known yet.

    task: with `pair` None and `labels` empty as long as its data are not read.
    """
    name = head_name(task, options)
    known = bool(task.labels)
    auto = f"set heads.tasks.{task.name}.name: auto"
    if name == "pair" and task.pair is False:
        return "compares two texts, and the task has one; use 'auto' or 'linear'"
    if name == "san" and task.pair is False:
        return f"reasons from one text to another, and the task has one; {auto}"
    if name == "san" and task.kind != "classification":
        return f"averages probabilities of classes, and the task is {task.kind}; {auto}"
    if name != "ranking":
        return None
    if task.pair is False:
        return f"ranks second texts that share a first one, and the task has one text; {auto}"
    if task.kind != "classification" or (known and len(task.labels) != 2):
        has = f"has {len(task.labels)}" if task.kind == "classification" else f"is {task.kind}"
        return f"needs two labels, relevant and not, and the task {has}; {auto}"
    if known and options.positive is not None and options.positive not in task.labels:
        return f"has no positive label '{options.positive}'; {did_you_mean(options.positive, task.labels)}"
    return None


def place_of_name(heads: Heads, task: str) -> KeyPath:
    """Where in the section the head of a task is named."""
    own = heads.tasks.get(task)
    return ("name",) if own is None or own.name is None else ("tasks", task, "name")


def unknown_tasks(heads: Heads, tasks: list[str]) -> Iterator[Problem]:
    """Names below `tasks:` that are none of the recipe's. Paths within the section."""
    for name in heads.tasks:
        if name not in tasks:
            yield Problem(("tasks", name), f"'{name}' is no task of this recipe; {did_you_mean(name, tasks)}")


def _kind(recipe: Recipe, task: str) -> Iterator[Problem]:
    kind = recipe.objective.of(task)["kind"]
    if kind not in GROUP_KINDS and recipe.teachers_of(task):
        own = recipe.objective.tasks.get(task)
        named = own is not None and own.kind is not None
        path: KeyPath = ("objective", "tasks", task, "kind") if named else ("objective", "kind")
        message = f"'{kind}' is not defined over the candidates of a query, which the head of '{task}' ranks"
        yield Problem(path, f"{message}; set objective.tasks.{task}.kind: ce")


def idle_options(heads: Heads, tasks: list[str]) -> Iterator[Problem]:
    """Options that no head reads; one that is at its default does no harm, and variants may leave it behind.

    Paths within the section.
    """
    default = Heads()
    used = {task: OPTIONS[str(heads.of(task).name)] for task in tasks}
    for option in HeadOptions.model_fields:
        if option == "name":
            continue
        readers = " or ".join(name for name, options in OPTIONS.items() if option in options)
        if getattr(heads, option) != getattr(default, option) and not any(option in known for known in used.values()):
            yield Problem((option,), f"no task has a head that reads it; leave it out, or use {readers}")
        for task in tasks:
            own = heads.tasks.get(task)
            given = None if own is None else getattr(own, option)
            if given not in (None, getattr(default, option)) and option not in used[task]:
                message = f"the head '{heads.of(task).name}' does not read it; leave it out, or use {readers}"
                yield Problem(("tasks", task, option), message)


def _widths(heads: Heads, tasks: list[str]) -> Iterator[Problem]:
    """Tasks that share one bi-attention and want it of different widths."""
    sharing = [t for t in tasks if heads.of(t).name == "biattention" and heads.of(t).shared]
    for task in sharing:
        if heads.of(task).width != heads.of(sharing[0]).width:
            message = f"differs from that of '{sharing[0]}', which shares the bi-attention; set shared: false for one"
            own = task if heads.tasks.get(task, HeadOptions()).width is not None else sharing[0]
            yield Problem(("heads", "tasks", own, "width"), message)
