"""The options of a plug-in, read from its source without importing it, so that a recipe is checked without torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from ..plugins import installed

_PLAIN: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "None": None}


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a constructor. type: what pydantic can check; Any where the source says more.

    annotation, default: as the source has them; default is None where there is none.
    """

    name: str
    type: Any
    required: bool
    annotation: str = ""
    default: str | None = None


@functools.cache
def constructor_options(kind: str, name: str) -> dict[str, Option] | None:
    """The options of the plug-in `name`, or None where the source does not tell (no source, or `**options`)."""
    return options_of(installed(kind)[name].target if name in installed(kind) else name)


@functools.cache
def options_of(target: str) -> dict[str, Option] | None:
    """The options of the class "module:Class" or "path/to/file.py:Class", or None where the source does not tell."""
    module, _, class_name = target.rpartition(":")
    path = source_file(module)
    if path is None:
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    constructor = _constructor({node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}, class_name)
    if constructor is None or constructor.args.kwarg is not None:
        return None
    arguments = constructor.args
    return {
        argument.arg: Option(
            argument.arg,
            _type(argument.annotation),
            default is None,
            "" if argument.annotation is None else ast.unparse(argument.annotation),
            None if default is None else ast.unparse(default),
        )
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }


def source_file(module: str) -> Path | None:
    """The file of a module given by dotted name or by the path of a .py file; None if there is no such file."""
    if module.endswith(".py") or "/" in module:
        return Path(module) if Path(module).is_file() else None
    # Only the top-level package is asked for: find_spec of a submodule would import its parents.
    top, *rest = module.split(".")
    for folder in _folders_of(top) if rest else [Path.cwd()]:
        found = _module_in(folder, rest or [top])
        if found is not None:
            return found
    if not rest:
        spec = _spec(top)
        return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
    return None


def _folders_of(top: str) -> Iterator[Path]:
    if (Path.cwd() / top).is_dir():
        yield Path.cwd() / top
    spec = _spec(top)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield Path(folder)


def _spec(top: str) -> Any:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _module_in(folder: Path, parts: list[str]) -> Path | None:
    path = folder.joinpath(*parts)
    for candidate in (path.with_name(path.name + ".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _constructor(classes: dict[str, ast.ClassDef], name: str) -> ast.FunctionDef | None:
    node = classes.get(name)
    if node is None:
        return None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id != name:
            inherited = _constructor(classes, base.id)
            if inherited is not None:
                return inherited
    return None


def _type(annotation: ast.expr | None) -> Any:
    """The annotation as a type if it is made of int, float, str, bool, None, Literal, lists, mappings and |; else Any.

    What is in a mapping is left to the constructor.
    """
    if isinstance(annotation, ast.Constant):
        return None if annotation.value is None else Any
    if isinstance(annotation, ast.Name):
        return _PLAIN.get(annotation.id, Any)
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        sides = (_type(annotation.left), _type(annotation.right))
        return Any if Any in sides else Union[sides]  # noqa: UP007 - built at run time
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", None) == "list":
        item = _type(annotation.slice)
        return list if item is Any else list[item]  # type: ignore[valid-type]  # built at run time
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", None) in ("Mapping", "dict"):
        return dict
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", None) == "Literal":
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        values = tuple(item.value for item in items if isinstance(item, ast.Constant))
        return Literal[values] if len(values) == len(items) else Any
    return Any
