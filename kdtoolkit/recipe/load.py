"""Reads recipes: by name or path, with overrides, reporting every problem at once; and writes them out in full."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from ..errors import InputError, InputErrors, WorkError, did_you_mean
from ..tasks import canonical_name
from . import shorthands as short
from .checks import problems_in
from .document import Document, KeyPath, Problem, read_yaml
from .messages import child, problems_of
from .overrides import parse_override, set_path
from .schema import Recipe, spelled_out
from .variants import chosen_variant

PACKAGE = "kdtoolkit_recipes"
"""Where the built-in recipes are installed; asked for by name, so that the core imports no recipe."""


def load_recipe(
    name_or_path: str | Path | None,
    *,
    overrides: Sequence[str] = (),
    shorthands: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of that name or file, with the command line's changes, checked.

    name_or_path: a built-in recipe's name or a YAML file; None: the demo, or the defaults if `shorthands` bring tasks,
    data or a teacher. shorthands: option name (see `shorthands.OPTIONS`) to value. overrides: "key.path=value", applied
    after the shorthands. Raises InputErrors with all problems, each with its line or the option it came from.
    """
    shorthands = shorthands or {}
    if name_or_path is None:
        name_or_path = short.base_recipe(shorthands)
    if name_or_path is None:
        return _checked(Document(value={}), "command line", shorthands, overrides)
    source, text = recipe_text(name_or_path)
    document = read_yaml(text)
    if document.value is None and not document.problems:
        document.problems.append(Problem((), "the file is empty; `kdtool recipes show demo` shows a recipe"))
    elif document.value is not None and not isinstance(document.value, dict):
        document.problems.append(Problem((), "expected keys and values, such as tasks: [sst2]", 1))
    return _checked(document, source, shorthands, overrides)


def recipe_from_dict(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """The recipe that a mapping describes, checked as a file would be."""
    return _checked(Document(value=copy.deepcopy(dict(values))), source, {}, ())


def recipe_text(name_or_path: str | Path) -> tuple[str, str]:
    """(name for messages, YAML text) of a built-in recipe or a file."""
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in recipe_names() and not _looks_like_file(name):
        return name, (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path).expanduser()
    try:
        return name, path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if _looks_like_file(name):
            raise InputError(name, "there is no such file", _known(path.stem)) from error
        raise InputError(f"recipe '{name}'", "there is no such recipe and no such file", _known(name)) from error
    except IsADirectoryError as error:
        remedy = f"give {name}/recipe.yaml" if (path / "recipe.yaml").is_file() else "give a YAML file"
        raise InputError(name, "is a folder, not a recipe", remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(name, f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise InputError(name, f"cannot be read ({error.strerror})") from error


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    return sorted(entry.name[:-5] for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _folder() -> Traversable:
    try:
        return files(PACKAGE)
    except (ImportError, NotADirectoryError) as error:
        raise WorkError(f"the built-in recipes ({PACKAGE}) are not installed; install kdtoolkit again") from error


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; loaded again, it is an equal recipe."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(_plain(recipe.model_dump(mode="python", by_alias=True)), stream)
    return stream.getvalue()


def _looks_like_file(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml"))


def _known(name: str) -> str:
    return f"{did_you_mean(name, recipe_names())} (`kdtool recipes` lists them)"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _checked(document: Document, source: str, shorthands: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    problems = list(document.problems)
    origins: dict[KeyPath, str] = {}
    if isinstance(document.value, dict):
        _repeated_tasks(document, problems)
        value, more = _changed(document.value, shorthands, overrides, origins)
        problems += more
        recipe, more = _validated(value)
        problems += more
        if recipe is not None and not problems:
            return recipe
    lines = [_described(problem, document, origins) for problem in problems]
    raise InputErrors(source, list(dict.fromkeys(text for _, text in sorted(lines, key=lambda line: line[0]))))


def _changed(
    value: dict[str, Any], shorthands: Mapping[str, Any], overrides: Sequence[str], origins: dict[KeyPath, str]
) -> tuple[dict[str, Any], list[Problem]]:
    value, overrides, problems = chosen_variant(value, overrides, origins)
    value, more = short.apply(value, shorthands, origins)
    problems += more
    for text in overrides:
        parsed = parse_override(text)
        if isinstance(parsed, Problem):
            origins[parsed.path] = "--set " + ".".join(map(str, parsed.path))
            problems.append(parsed)
            continue
        path, new = parsed
        origins[_canonical(path)] = "--set " + ".".join(map(str, path))
        value, cause = set_path(value, path, new)
        if cause:
            problems.append(Problem(path, cause))
    return value, problems


def _validated(value: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, and all problems: those of keys and types, then those of meaning in what is left without them."""
    value = spelled_out(value)
    cut: list[KeyPath] = []
    try:
        recipe: Recipe | None = Recipe.model_validate(value)
        problems = []
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False), value)
        recipe, cut = _without(value, [problem.path for problem in problems])
    if recipe is not None:
        for problem in problems_in(recipe):
            path = _canonical(problem.path)
            if not any(path[: len(_canonical(gone))] == _canonical(gone) for gone in cut):
                problems.append(problem)
    return recipe, problems


def _without(value: dict[str, Any], paths: Sequence[KeyPath]) -> tuple[Recipe | None, list[KeyPath]]:
    """The recipe with the wrong keys left out, so that the rest is checked too; and the paths that were left out."""
    rest = copy.deepcopy(value)
    cut: list[KeyPath] = []
    for path in paths:
        parent: Any = rest
        for part in path[:-1]:
            parent = child(parent, part)
        if isinstance(parent, dict) and path[-1] in parent:
            del parent[path[-1]]
            cut.append(path)
        else:
            rest.pop(str(path[0]), None)
            cut.append(path[:1])
    if ("tasks",) in cut:
        # Without the tasks, nothing can be said about what names them.
        rest = {key: item for key, item in rest.items() if key not in ("tasks", "data", "teachers", "objective")}
        rest["tasks"] = ["sst2"]
        cut += [("data",), ("teachers",), ("objective",)]
    try:
        return Recipe.model_validate(rest), cut
    except ValidationError:
        return None, cut


def _repeated_tasks(document: Document, problems: list[Problem]) -> None:
    """One task under two spellings would silently lose one of its sections."""
    for path in (("data",), ("objective", "tasks")):
        section: Any = document.value
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        first: dict[str, str] = {}
        for key in section if isinstance(section, dict) else ():
            name = canonical_name(str(key))
            if name in first:
                message = f"is the same task as '{first[name]}'; keep one of the two"
                problems.append(Problem((*path, str(key)), message))
            first.setdefault(name, str(key))


def _canonical(path: KeyPath) -> KeyPath:
    return tuple(canonical_name(part) if isinstance(part, str) else part for part in path)


def _described(problem: Problem, document: Document, origins: Mapping[KeyPath, str]) -> tuple[int, str]:
    """(order, text) of a problem, placed where its user wrote the value."""
    path = _canonical(problem.path)
    fitting = [made for made in origins if path[: len(made)] == made or made == problem.path]
    if not fitting and not document.written(problem.path):
        # An option made the section that the problem is about.
        fitting = [made for made in origins if made[: len(path)] == path][:1]
    if fitting:
        origin = max(fitting, key=len)
        rest = ".".join(map(str, path[len(origin) :]))
        named = origins[origin]
        if rest and named.startswith("--set "):
            named += f".{rest}"
        return 1_000_000, f"{named}: {problem.message}"
    line, shown = document.locate(problem.path)
    line = problem.line or line
    text = f"{shown}: {problem.message}" if shown else problem.message
    return (line, f"line {line}: {text}") if line else (0, text)
