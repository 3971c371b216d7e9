"""`--set key.path=value`: any recipe key from the command line."""

from __future__ import annotations

from typing import Any

from .document import KeyPath, Problem, read_yaml, same_key
from .schema import spelled_out


def parse_override(text: str) -> tuple[KeyPath, Any] | Problem:
    """(path, value) of "key.path=value"; the value is YAML, and numbers in the path count the items of lists from 0."""
    key, separator, written = text.partition("=")
    key = key.strip()
    if not separator or not key or not all(key.split(".")):
        return Problem((key or text,), "expected key.path=value, such as --set student.width=200")
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    document = read_yaml(written)
    if document.problems:
        message = document.problems[0].message
        return Problem(path, f"{message}; quote the value if it is text: --set '{key}=\"...\"'")
    return path, document.value


def set_path(recipe: dict[str, Any], path: KeyPath, value: Any) -> tuple[dict[str, Any], str | None]:
    """The recipe with `value` at `path`, and what is wrong if there is no such place. The recipe given is not changed.

    Keys that a recipe may have are made on the way; whether the schema knows them is checked with all the rest.
    """
    root = spelled_out(recipe)
    here: Any = root
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        where = ".".join(map(str, path[:depth])) or "the recipe"
        if isinstance(here, dict):
            key: Any = next((key for key in here if same_key(key, part)), str(part))
        elif isinstance(here, list):
            if not isinstance(part, int):
                return recipe, f"{where} is a list; give the number of an item, such as {where}.0.{part}"
            if part >= len(here):
                return recipe, f"{where} has {_count(len(here))}, counted from 0"
            key = part
        else:
            return recipe, f"{where} is a single value, so it has no '{part}'"
        if last:
            here[key] = value
            return root, None
        child = here.get(key) if isinstance(here, dict) else here[key]
        if child is None:
            child = [] if isinstance(path[depth + 1], int) else {}
        elif isinstance(child, dict):
            child = dict(child)
        elif isinstance(child, list):
            child = list(child)
        here[key] = child
        here = child
    return root, None


def _count(items: int) -> str:
    return "no items" if not items else "1 item" if items == 1 else f"{items} items"
