"""What is to be read for a task: its files are open and its columns known, and no row has been read yet."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, InputErrors
from ..recipe.schema import Recipe, TaskData
from ..tasks import Task
from .hub import hub_name, hub_splits
from .layout import Split, find_columns, local_splits, open_files, split_names
from .readers import Source

FORMAT = 1
"""Of the prepared folder; a folder of another format is prepared again."""


@dataclass
class Inputs:
    """Where the data of a task are.

    files: of each split; from_hub: the splits without a file come from the hub; state: path, size and time of each
    file, plain values that change whenever the files do.
    """

    task: Task
    recipe: Recipe
    section: TaskData
    files: dict[str, list[Path]]
    from_hub: bool
    state: dict[str, Any]

    @property
    def missing(self) -> bool:
        """Whether a file that the recipe names is not there."""
        return not all(path.exists() for paths in self.files.values() for path in paths)


@dataclass
class Plan:
    """A task, with columns and `pair` known, and its splits, open."""

    task: Task
    inputs: Inputs
    splits: dict[str, Split]
    notes: list[str]


@contextlib.contextmanager
def together(source: str = "data") -> Iterator[Callable[..., Any]]:
    """Yields `attempt(function, ...)`, which keeps an InputError for the end, where all of them are raised as one."""
    errors: list[InputError] = []

    def attempt(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except InputError as error:
            errors.append(error)
            return None

    yield attempt
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputErrors(source, [p for e in errors for p in (e.problems if isinstance(e, InputErrors) else [str(e)])])


def find_inputs(task: Task, recipe: Recipe) -> Inputs:
    """The files of a task, as the recipe says. Raises InputError if the recipe's folder has none for it."""
    section = recipe.data.task(task.name)
    folder = Path(recipe.data.folder).expanduser() if recipe.data.folder else None
    if section.transfer_rows is not None and section.gold_rows is None:
        raise InputError(f"data.{task.name}.transfer_rows", "says nothing without gold_rows", "give gold_rows as well")
    files = local_splits(task, section, folder, only_task=len(recipe.tasks) == 1)
    from_hub = section.train is None and (folder is None or section.hub is not None)
    if not from_hub and "train" not in files:
        raise InputError(
            f"data.folder {folder}", f"has no train file for task '{task.name}'", f"name it with data.{task.name}.train"
        )
    # A hub data set is frozen once it has been prepared, so that a run can be resumed without the hub.
    hub = {"hub": list(hub_name(task, section.hub))} if from_hub else {}
    state = hub | {split: [_state(path) for path in paths] for split, paths in files.items()}
    return Inputs(task, recipe, section, files, from_hub, state)


def open_inputs(inputs: Inputs) -> Plan:
    """Opens all files and finds their columns. Raises InputError, or InputErrors with the problems of all files."""
    task, section = inputs.task, inputs.section
    sources: dict[str, list[Source]] = {}
    if inputs.from_hub:
        on_hub = hub_splits(task, section.hub)
        for split, names in split_names(task).items():
            if found := [on_hub[name] for name in names if name in on_hub]:
                sources[split] = found[:1]
        if "train" not in sources:
            raise InputError(f"task '{task.name}'", f"its hub data set has no train split: {', '.join(on_hub)}")
    with together() as attempt:
        sources |= {split: attempt(open_files, task, section, paths) for split, paths in inputs.files.items()}
    notes = [note for parts in sources.values() for source in parts for note in source.notes]
    columns = {"train": find_columns(task, section, sources["train"][0], pair=task.pair)}
    train = columns["train"]
    task = task.with_(text=train.text, label=train.label, pair=len(train.text) == 2)
    with together() as attempt:
        for split, parts in sources.items():
            if split != "train":
                labelled = split not in ("transfer", "test")
                columns[split] = attempt(
                    find_columns, inputs.task, section, parts[0], pair=task.pair, labelled=labelled
                )
    if train.guessed:
        notes.append(f"columns of train: text from {' and '.join(train.text)}, label from {train.label or 'no column'}")
    notes += [f"there is no {split} split" for split in task.splits if split not in sources]
    splits = {split: Split(split, parts, columns[split]) for split, parts in sources.items()}
    return Plan(task, inputs, splits, notes)


def asked_for(task: Task, recipe: Recipe) -> str:
    """Hex digits that change with whatever the recipe says about the rows of a task."""
    asked = {
        "format": FORMAT,
        "task": task.to_dict(),
        "folder": recipe.data.folder,
        "data": recipe.data.task(task.name).model_dump(),
        "seed": recipe.seed,
        "split": recipe.evaluate.split,
        "calibration_rows": recipe.evaluate.calibration_rows,
    }
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


def _state(path: Path) -> list[Any]:
    stat = path.stat() if path.exists() else None
    return [str(path.resolve()), stat and stat.st_size, stat and stat.st_mtime_ns]
