"""Command-line options that stand for recipe keys: --teacher, --student, --tasks, --data, --train, and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from ..tasks import canonical_name
from .document import KeyPath, Problem
from .names import resolve_teacher, student_plugin
from .schema import spelled_out

OPTIONS = ("teacher", "student", "tasks", "data", "train", "dev", "test", "seed")
FILES = ("train", "dev", "test")
DEMO = "demo"


def base_recipe(shorthands: Mapping[str, Any]) -> str | None:
    """The recipe that the options change where none is named: the demo, unless they bring tasks, data or a teacher."""
    given = {key for key, value in shorthands.items() if value not in (None, (), [], "")}
    own = given & {"teacher", "data", *FILES}
    tasks = names(shorthands["tasks"]) if "tasks" in given else []
    return None if own or not all(task.startswith(f"{DEMO}_") for task in tasks) else DEMO


def apply(
    recipe: dict[str, Any], shorthands: Mapping[str, Any], origins: dict[KeyPath, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The recipe with the options in it, and what is wrong with them. `origins` learns which option made which key."""
    given = {key: value for key, value in shorthands.items() if value not in (None, (), [], "")}
    recipe, problems = spelled_out(recipe), []
    if "tasks" in given:
        recipe = _with_tasks(recipe, names(given["tasks"]))
        origins[("tasks",)] = "--tasks"
    if any(option in given for option in FILES):
        recipe, problem = _with_files(recipe, given, origins)
        problems += [problem] if problem else []
    if "data" in given:
        recipe["data"] = {**_section(recipe, "data"), "folder": str(given["data"])}
        origins[("data", "folder")] = "--data"
    if "teacher" in given:
        recipe["teachers"] = _with_teachers(recipe.get("teachers"), names(given["teacher"], split=False))
        origins[("teachers",)] = "--teacher"
    if "student" in given:
        recipe["student"] = _with_student(_section(recipe, "student"), str(given["student"]))
        if str(given["student"]).startswith("hf:") and _section(recipe, "tokenizer").get("name") != "teacher":
            recipe.pop("tokenizer", None)  # the recipe's was for its own student; this one brings the checkpoint's
        origins[("student", "name")] = "--student"
    if "seed" in given:
        recipe["seed"] = given["seed"]
        origins[("seed",)] = "--seed"
    return recipe, problems


def names(value: Any, *, split: bool = True) -> list[str]:
    """Names from "a,b" or a sequence of them."""
    items = [value] if isinstance(value, (str, Path)) else list(value)
    parts = [part for item in items for part in (str(item).split(",") if split else [str(item)])]
    return [part.strip() for part in parts if part.strip()]


def task_of_file(path: str) -> str:
    """A task name for a user's file: reviews.csv is "reviews", reviews/train.csv too."""
    file = Path(path)
    stem = re.sub(r"\.(csv|tsv|jsonl|json|parquet|txt)$", "", file.name.removesuffix(".gz"), flags=re.IGNORECASE)
    stem = re.sub(r"[-_.]?(train|training)$", "", stem, flags=re.IGNORECASE)
    if not stem or stem.lower() in ("data", "dataset"):
        parent = file.resolve().parent.name
        stem = parent if parent.lower() not in ("data", "dataset", "tmp", "") else "task"
    name = re.sub(r"[^0-9A-Za-z_-]+", "_", stem).strip("_-") or "task"
    return canonical_name(name)


def _section(recipe: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = recipe.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _task_name(item: Any) -> str:
    return canonical_name(str(item.get("name", "") if isinstance(item, dict) else item))


def _with_tasks(recipe: dict[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    """Only the chosen tasks; what the recipe says about the others goes with them."""
    listed = recipe.get("tasks")
    before = {_task_name(item): item for item in listed} if isinstance(listed, list) else {}
    kept = {canonical_name(name) for name in chosen}
    gone = before.keys() - kept
    recipe["tasks"] = [before.get(canonical_name(name), name) for name in chosen]
    data = _section(recipe, "data")
    recipe["data"] = {key: value for key, value in data.items() if canonical_name(key) not in gone}
    for key in ("objective", "heads"):
        recipe = _without_own(recipe, key, gone)
    if isinstance(recipe.get("teachers"), list):
        recipe["teachers"] = _of_tasks(recipe["teachers"], "tasks", gone)
        recipe["teachers"] = [_without_own(member, "heads", gone) for member in recipe["teachers"]]
        # What chose among the members goes; they are then chosen by what is left.
        recipe["teachers"] = [
            _without_tasks(member, "keep_by", gone) or {**member, "keep_by": None} for member in recipe["teachers"]
        ]
    objective = _section(recipe, "objective")
    if isinstance(objective.get("terms"), list):
        recipe["objective"] = {**objective, "terms": _of_tasks(objective["terms"], "tasks", gone)}
    augment = _without_tasks(_section(recipe, "augment"), "tasks", gone)
    if isinstance(recipe.get("augment"), dict):
        recipe["augment"] = augment
    return recipe


def _without_own(item: Any, key: str, gone: Set[str]) -> Any:
    """The mapping without what the section under `key` says of single tasks that are gone, below its `tasks`."""
    section = item.get(key) if isinstance(item, dict) else None
    if not isinstance(section, dict) or not isinstance(section.get("tasks"), dict):
        return item
    left = {name: own for name, own in section["tasks"].items() if canonical_name(str(name)) not in gone}
    return {**item, key: {**section, "tasks": left}}


def _of_tasks(items: list[Any], key: str, gone: Set[str]) -> list[Any]:
    """The items, each with the tasks that are left; those of which none is left are out."""
    left = [_without_tasks(item, key, gone) for item in items]
    return [item for item in left if item is not None]


def _without_tasks(item: Any, key: str, gone: Set[str]) -> Any:
    """The mapping with the tasks that are left under `key`; None if there were some and all are gone."""
    if not isinstance(item, dict) or not isinstance(item.get(key), list) or not item[key]:
        return item
    left = [name for name in item[key] if canonical_name(str(name)) not in gone]
    return {**item, key: left} if left else None


def _with_files(
    recipe: dict[str, Any], given: Mapping[str, Any], origins: dict[KeyPath, str]
) -> tuple[dict[str, Any], Problem | None]:
    """--train, --dev and --test: files of the only task, or of an own task named after the training file."""
    option = next(option for option in FILES if option in given)
    listed: list[Any] = recipe["tasks"] if isinstance(recipe.get("tasks"), list) else []
    if len(listed) == 1:
        name = _task_name(listed[0])
    elif "tasks" in given or "train" not in given:
        origins[("data", option)] = f"--{option}"
        cause = f"a file of one task, but there are {len(listed)}" if listed else "belongs to no task"
        remedy = "name one with --tasks, or use --data FOLDER for several" if listed else "give --train or --tasks too"
        return recipe, Problem(("data", option), f"{cause}; {remedy}")
    else:
        name = task_of_file(str(given["train"]))
        recipe = _with_tasks(recipe, [name])
        origins[("tasks",)] = "--train"
    data = _section(recipe, "data")
    written = next((key for key in data if canonical_name(key) == name), name)
    section = _section(data, written)
    for option in FILES:
        if option in given:
            section[option] = str(given[option])
            origins[("data", name, option)] = f"--{option}"
    recipe["data"] = {**data, written: section}
    return recipe, None


def _with_teachers(members: Any, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """One name replaces the model of every member; several are an ensemble of their own."""
    old = [member for member in members if isinstance(member, dict)] if isinstance(members, list) else []
    if not old:
        return [{"name": name} for name in chosen]
    if len(chosen) == 1:
        return [_renamed(member, chosen[0]) for member in old]
    if len(chosen) == len(old):
        return [_renamed(member, name) for member, name in zip(old, chosen, strict=True)]
    pattern = {key: value for key, value in old[0].items() if key not in ("tasks", "weight")}
    return [_renamed(pattern, name) for name in chosen]


def _renamed(member: dict[str, Any], name: str) -> dict[str, Any]:
    # Options belong to a plug-in: those for fine-tuning a model mean nothing to a file of stored outputs.
    same = resolve_teacher(str(member.get("name", "")))[0] == resolve_teacher(name)[0]
    kept = member if same else {key: value for key, value in member.items() if key in ("tasks", "weight")}
    return {**kept, "name": name}


def _with_student(section: dict[str, Any], name: str) -> dict[str, Any]:
    same = student_plugin(str(section.get("name", "bilstm")), {})[0] == student_plugin(name, {})[0]
    kept = {key: value for key, value in section.items() if not (name.startswith("hf:") and key in ("model", "config"))}
    return {**kept, "name": name} if same else {"name": name}


__all__ = ["DEMO", "FILES", "OPTIONS", "apply", "base_recipe", "names", "task_of_file"]
