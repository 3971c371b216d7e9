"""Turns names into classes. Built-in and third-party plug-ins take the same road: entry points, or "module:Class"."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from .errors import InputError, did_you_mean, nearest

GROUPS = {"student": "kdtoolkit.students", "teacher": "kdtoolkit.teachers"}


@dataclass(frozen=True)
class Plugin:
    """One registered plug-in, as its metadata describe it; nothing is imported to make this."""

    kind: str
    name: str
    target: str
    distribution: str
    version: str
    entry_point: EntryPoint

    def load(self) -> type:
        """Imports the class; what fails inside the plug-in is named after the plug-in."""
        try:
            loaded = self.entry_point.load()
        except Exception as error:
            raise InputError(
                f"{self.kind} '{self.name}'",
                f"its class {self.target} of {self.distribution} {self.version} cannot be imported "
                f"({type(error).__name__}: {error})",
                f"repair or uninstall {self.distribution}",
            ) from error
        return _checked(self.kind, self.name, loaded)


@functools.cache
def installed(kind: str) -> Mapping[str, Plugin]:
    """All registered plug-ins of a kind ("student" or "teacher") by name, from metadata alone."""
    found: dict[str, Plugin] = {}
    for point in sorted(entry_points(group=GROUPS[kind]), key=lambda point: point.name):
        distribution = point.dist
        name = distribution.metadata["Name"] if distribution else "unknown"
        version = distribution.version if distribution else "unknown"
        plugin_ = Plugin(kind, point.name, point.value, name, version, point)
        # The toolkit's own names cannot be taken over by whatever else is installed.
        if point.name not in found or name == "kdtoolkit":
            found[point.name] = plugin_
    return found


def plugin(kind: str, name: str) -> type:
    """The class called `name`: a registered name, or "module:Class" / "path/to/file.py:Class" as it is.

    Raises InputError if there is none, with the nearest name.
    """
    if name in installed(kind):
        return installed(kind)[name].load()
    if ":" in name:
        return _checked(kind, name, import_object(name, f"{kind} '{name}'"))
    raise InputError(f"{kind}.name", f"no {kind} is called '{name}'", did_you_mean(name, installed(kind)))


def import_object(name: str, place: str) -> Any:
    """The object "module:attribute" names; the module may be a file, and the current folder is searched."""
    module_name, _, attribute = name.rpartition(":")
    try:
        module = import_module(module_name)
    except Exception as error:
        raise InputError(
            place,
            f"module '{module_name}' cannot be imported ({type(error).__name__}: {error})",
            "give an installed module, a module in this folder, or a path to a .py file",
        ) from error
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            near = nearest(part, (n for n in dir(target) if not n.startswith("_")))
            raise InputError(
                place, f"'{module_name}' has no '{attribute}'", f"did you mean '{near}'?" if near else None
            )
        target = getattr(target, part)
    return target


def import_module(name: str) -> Any:
    """Imports a module by dotted name or by the path of a .py file."""
    if name.endswith(".py") or "/" in name:
        path = Path(name).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        unique = f"kdtoolkit_user_{path.stem}_{abs(hash(str(path))):x}"
        if unique in sys.modules:
            return sys.modules[unique]
        spec = importlib.util.spec_from_file_location(unique, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[unique]
            raise
        return module
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def source_of(module: Any) -> str:
    """The text of the module's file; its name where it has none (a compiled module)."""
    file = getattr(module, "__file__", None)
    if file and file.endswith(".py"):
        return Path(file).read_text(encoding="utf-8")
    return str(getattr(module, "__name__", ""))


def options(cls: type) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of a plug-in's constructor: its recipe keys."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def option_problems(kind: str, name: str, cls: type, given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, message) for each option in `given` that the constructor does not take, or takes and was not given."""
    known = options(cls)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(cls).parameters.values()):
        return []
    problems = [
        (key, f"the {kind} '{name}' has no option '{key}'; {did_you_mean(key, known)}")
        for key in given
        if key not in known
    ]
    problems += [
        (key, f"the {kind} '{name}' needs a value for '{key}'")
        for key, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and key not in given
    ]
    return problems


def _checked(kind: str, name: str, loaded: Any) -> type:
    base = _base(kind)
    if not (inspect.isclass(loaded) and issubclass(loaded, base)):
        raise InputError(f"{kind} '{name}'", f"{loaded!r} is no subclass of kdtoolkit.{base.__name__}")
    return loaded


def _base(kind: str) -> type:
    if kind == "student":
        from .student import Student

        return Student
    from .teacher import Teacher

    return Teacher
