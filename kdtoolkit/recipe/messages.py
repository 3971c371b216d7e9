"""Pydantic's errors as a path of recipe keys and a sentence with cause and way out."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from ..errors import did_you_mean, nearest
from .document import KeyPath, Problem
from .schema import Data, Recipe, TaskData

_KINDS = {"int": "a whole number", "float": "a number", "string": "text", "bool": "true or false"}


def problems_of(errors: Iterable[Mapping[str, Any]], value: Any) -> list[Problem]:
    """One problem for each thing wrong. value: the mapping that was validated, short forms spelled out."""
    found: list[Problem] = []
    for error in errors:
        path, either = _path(error["loc"], value)
        if path is None:
            continue
        message = sentence(error, path, schedule=either == "float")
        if not any(problem.path == path and problem.message == message for problem in found):
            found.append(Problem(path, message))
    return found


def sentence(error: Mapping[str, Any], path: KeyPath, *, schedule: bool = False) -> str:
    """What is wrong, for a reader who does not know pydantic."""
    kind, received, limits = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "missing":
        return _missing(path)
    if kind == "extra_forbidden":
        return f"there is no such key; {did_you_mean(str(path[-1]), keys_at(path[:-1]))}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", limits["expected"])
        return f"{shown(received)} is unknown; {_choice(str(received), choices)}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return _range(kind, received, limits)
    if kind == "too_short":
        return "is empty; at least one is needed"
    if kind == "finite_number":
        return f"{shown(received)} is no finite number"
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind == "none_required":
        return "is not supported by this version; leave it null"
    if kind == "int_from_float":
        return f"expected a whole number, received {shown(received)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return _no_section(path, received)
    if kind in ("list_type", "tuple_type"):
        return f"expected a list, received {shown(received)}"
    if kind == "too_long":
        return f"expected {limits.get('max_length')} items, received {limits.get('actual_length')}"
    family = kind.split("_")[0]
    if family in _KINDS:
        expected = _KINDS[family] + (" or a schedule such as {from: 0.0, to: 1.0}" if schedule else "")
        return f"expected {expected}, received {shown(received)}"
    return str(error["msg"])


def shown(value: Any) -> str:
    """A value as YAML would have it, cut short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def keys_at(path: KeyPath) -> list[str]:
    """The keys that the section at `path` knows."""
    annotation: Any = Recipe
    for part in path:
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            continue
        if isinstance(part, int):
            continue
        model = _model(annotation)
        if model is None:
            return []
        if model is Data and part not in ("folder", "max_tokens"):
            annotation = TaskData
            continue
        fields = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
        if part not in fields:
            return []
        annotation = fields[part]
    if get_origin(annotation) is dict:
        return []
    model = _model(annotation)
    names = [info.alias or name for name, info in model.model_fields.items()] if model else []
    return [name for name in names if not (model is Data and name == "tasks")]


def has(value: Any, part: str | int) -> bool:
    """Whether a mapping has the key, or a list the item."""
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def child(value: Any, part: str | int) -> Any:
    """What is there, or None."""
    return value[part] if has(value, part) else None


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        for argument in get_args(annotation):
            found = _model(argument)
            if found is not None:
                return found
    return None


def _path(location: tuple[str | int, ...], value: Any) -> tuple[KeyPath | None, str | None]:
    """The path of recipe keys, without pydantic's names for the branches of a union, and the branch that was taken.

    A path of None: the error is about a branch that the value does not want (a number is no bad schedule).
    """
    path: list[str | int] = []
    current, branch = value, None
    for part in location:
        if has(current, part):
            current = child(current, part)
        elif isinstance(part, str) and path and _is_branch(part):
            wants_section = isinstance(current, dict)
            if wants_section != (part not in ("str", "float")):
                return None, None
            branch = part
            continue
        elif path == ["data"] and part == "tasks":
            continue
        else:
            current = None
        path.append(part)
    return tuple(path), branch


def _is_branch(part: str) -> bool:
    return part in ("str", "float") or part.endswith(("Schedule", "TaskSection", "Schedule]", "TaskSection]"))


def _missing(path: KeyPath) -> str:
    if path == ("tasks",):
        return "is missing; --tasks or --train says what to learn, or --recipe names a recipe (see `kdtool recipes`)"
    return "is missing"


def _choice(received: str, choices: list[str]) -> str:
    near = nearest(received, choices)
    others = "one of: " + ", ".join(choices)
    return f"did you mean '{near}'? ({others})" if near and len(choices) > 2 else others


def _range(kind: str, received: Any, limits: Mapping[str, Any]) -> str:
    bound = next(iter(limits.values()))
    if kind == "greater_than":
        return f"{shown(received)} is not positive" if bound == 0 else f"{shown(received)} is not above {bound:g}"
    if kind == "greater_than_equal":
        return f"{shown(received)} is negative" if bound == 0 else f"{shown(received)} is below {bound:g}"
    return f"{shown(received)} is {'not below' if kind == 'less_than' else 'over'} {bound:g}"


def _no_section(path: KeyPath, received: Any) -> str:
    if len(path) == 2 and path[0] == "data" and not isinstance(received, dict):
        near = nearest(str(path[1]), keys_at(("data",)))
        hint = f"did you mean '{near}'?" if near else "known: " + ", ".join(keys_at(("data",)))
        return f"there is no such key, and a task of this name would need keys of its own; {hint}"
    keys = keys_at(path)
    example = f" with {', '.join(keys[:4])}" if keys else ""
    return f"expected keys and values{example}, received {shown(received)}"
