"""`variants:`: named changes that come with a recipe, chosen by `variant: NAME` or `--set variant=NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import did_you_mean
from .document import KeyPath, Problem
from .overrides import parse_override, set_path

KEY = "variant"


def chosen_variant(
    recipe: dict[str, Any], overrides: Sequence[str], origins: dict[KeyPath, str]
) -> tuple[dict[str, Any], list[str], list[Problem]]:
    """The recipe with its chosen variant in it and `variants` gone; the overrides that are left; what is wrong.

    A recipe that was written out names its variant and has no `variants` any more: nothing is to be done then.
    """
    rest, asked, name = [], False, recipe.get(KEY)
    for text in overrides:
        parsed = parse_override(text)
        if isinstance(parsed, Problem) or parsed[0] != (KEY,):
            rest.append(text)
        else:
            asked, name = True, parsed[1]
    variants = recipe.get("variants") or {}
    if not isinstance(variants, dict) or not all(isinstance(changes, dict) for changes in variants.values()):
        return recipe, rest, []  # the schema says what is wrong with it
    changed = {key: value for key, value in recipe.items() if key != "variants"}
    if asked:
        origins[(KEY,)] = "--set variant"
    if not isinstance(name, str):
        return {**changed, KEY: name}, rest, []  # none, or the schema says what is wrong with it
    if name not in variants:
        if not asked and not variants:
            return changed, rest, []
        remedy = did_you_mean(name, variants) if variants else "the recipe has none"
        return changed, rest, [Problem((KEY,), f"there is no variant '{name}'; {remedy}")]
    problems = []
    for key, value in variants[name].items():
        path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in str(key).split("."))
        origins[path] = f"variants.{name}.{key}"
        changed, cause = set_path(changed, path, value)
        if cause:
            problems.append(Problem(path, cause))
    changed[KEY] = name
    return changed, rest, problems


__all__ = ["chosen_variant"]
