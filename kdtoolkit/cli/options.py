"""The options that say what a run is: a recipe, and shorthands for its keys. Shared by several commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..recipe import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])

_RECIPE_OPTIONS = (
    click.option(
        "--recipe", "recipe", metavar="NAME|FILE",
        help="A built-in recipe (`kdtool recipes`) or a YAML file. Without it: the demo, or the defaults if the "
        "options below bring tasks, data or a teacher.",
    ),
    click.option(
        "--teacher", "-t", "teacher", multiple=True, metavar="TEACHER",
        help="An alias (bert-large), a folder, a hub id, a file of stored outputs, or python:module:function. "
        "Several times: an ensemble.",
    ),
    click.option(
        "--student", "-s", "student", metavar="STUDENT", help="bilstm, transformer, hf:NAME, or my_file.py:TinyLSTM."
    ),
    click.option("--tasks", "tasks", metavar="A,B", help="Names of GLUE tasks, or of tasks in the data folder."),
    click.option(
        "--data", "data", metavar="FOLDER",
        help="A folder with TASK/train.csv, TASK/dev.csv and so on (or .tsv, .jsonl, .parquet, also .gz). Without it, "
        "GLUE tasks come from the Hugging Face hub.",
    ),
    click.option("--train", "train", metavar="FILE", help="Training file of a task of your own, named after the file."),
    click.option("--dev", "dev", metavar="FILE", help="Its dev file; without one, a tenth of train is held out."),
    click.option("--test", "test", metavar="FILE", help="Its test file."),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE",
        help="Any recipe key: --set student.width=200 --set teachers.0.epochs=1.",
    ),
    click.option("--seed", "seed", type=click.IntRange(min=0), metavar="N", help="Seed of everything random."),
)  # fmt: skip
SHORTHANDS = ("teacher", "student", "tasks", "data", "train", "dev", "test", "seed")


def recipe_options(command: Command) -> Command:
    """Adds the options that `chosen_recipe` reads."""
    for option in reversed(_RECIPE_OPTIONS):
        command = option(command)
    return command


def chosen_recipe(given: dict[str, Any], base: str | Path | None = None) -> Recipe:
    """The recipe that the options describe, checked; `base` is used where no --recipe is given."""
    from ..recipe.load import load_recipe

    shorthands = {name: given[name] for name in SHORTHANDS if given.get(name) not in (None, ())}
    return load_recipe(given.get("recipe") or base, overrides=given["overrides"], shorthands=shorthands)


def says_something(given: dict[str, Any]) -> bool:
    """Whether any option that describes a recipe was used."""
    return any(given.get(name) not in (None, ()) for name in ("recipe", "overrides", *SHORTHANDS))


def run_name(given: dict[str, Any]) -> str:
    """The name of a new run's folder: the recipe's, the data's, or the tasks'."""
    from ..recipe import shorthands as short

    if given.get("recipe"):
        return Path(given["recipe"]).stem
    base = short.base_recipe({name: given.get(name) for name in SHORTHANDS})
    if base is not None:
        return base
    if given.get("train"):
        return short.task_of_file(given["train"])
    tasks = short.names(given["tasks"]) if given.get("tasks") else []
    return "-".join(tasks) if 0 < len(tasks) <= 3 else "run"


def print_json(value: Any) -> None:
    """A value for programs, on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))
