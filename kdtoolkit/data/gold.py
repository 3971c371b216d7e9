"""Turns what stands in a label column into gold labels: class numbers, numbers, or tuples of 0 and 1.

Classes are reconciled by name. An integer is a class name if the task has one like it, else a position in the task's
list of names (or, where the file keeps its own names for its integers, in that list).

No gold label: an empty cell, null, NaN, "-" or -1 where no class is called so, and -1 in GLUE's regression task.
Multilabel cells: a list of names, "name|name", or a list with one 0 or 1 a label; [] and "|" are the empty set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import nearest
from ..example import Label
from ..tasks import GLUE, Task

MOST_CLASSES = 10_000
"""More different labels than this in a file are taken for a mistake, not for classes."""

_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


class GoldReader:
    """Reads the cells of one label column for one task, whose label names are known.

    stored_names: the names that the file itself keeps for its integers, if it does.
    found: the task's names were found in the data, so an unknown one has not been seen in train.
    """

    def __init__(self, task: Task, stored_names: Sequence[str] | None = None, *, found: bool = False) -> None:
        self.task, self.stored_names, self.found = task, stored_names, found
        self._numbers = {name: number for number, name in enumerate(task.labels)}
        folded = {_folded(name): number for name, number in self._numbers.items()}
        if len(folded) == len(self._numbers):
            # "Not Entailment" is not_entailment, unless two names of the task differ in just that way.
            self._numbers = {**folded, **self._numbers}
        self._by_position = not all(_WHOLE.fullmatch(name) for name in task.labels)
        self._known: dict[tuple[type, Any], int | None] = {}

    def __call__(self, cell: Any) -> Label | None:
        """The gold label of a cell, or None. Raises ValueError with the cause if the cell is no label of the task."""
        if self.task.kind == "regression":
            value = number_of(cell)
            return None if value == -1 and self.task.name in GLUE else value
        if self.task.kind == "classification":
            return self._class_number(cell)
        names = parts(cell)
        if names is None:
            return None
        if is_indicator(names, len(self.task.labels)):
            return tuple(int(name) for name in names)
        chosen = {self._class_number(name) for name in names}
        return tuple(int(number in chosen) for number in range(len(self.task.labels)))

    def _class_number(self, cell: Any) -> int | None:
        key = (cell.__class__, cell)
        try:
            return self._known[key]
        except TypeError as error:
            raise ValueError(f"label {cell!r} is no single label") from error
        except KeyError:
            # A column of wrong cells must not fill the memory: an unknown one raises and is not kept.
            number = self._known[key] = self._found_number(cell)
            return number

    def _found_number(self, cell: Any) -> int | None:
        name = name_of(cell)
        if name is None:
            return None
        whole = _WHOLE.fullmatch(name) is not None
        stored = self.stored_names if self.stored_names and whole and not isinstance(cell, str) else ()
        if whole and 0 <= int(name) < len(stored):
            name, whole = stored[int(name)], False
        number = self._numbers.get(name, self._numbers.get(_folded(name)))
        if number is not None:
            return number
        if name in ("-", "-1"):
            return None
        if whole and self._by_position and 0 <= int(name) < len(self.task.labels):
            return int(name)
        near = nearest(name, self.task.labels)
        shown = ", ".join(self.task.labels[:12]) + (", ..." if len(self.task.labels) > 12 else "")
        raise ValueError(
            f"label '{name}' {'does not occur in train' if self.found else 'is no label of the task'}; "
            + (f"did you mean '{near}'?" if near else f"known: {shown}")
        )


class LabelNames:
    """Collects the label names of a task of the user's own from its training rows."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._cells: dict[tuple[type, Any], None] = {}
        self._lists: set[tuple[str, ...]] = set()

    def see(self, cell: Any, stored_names: Sequence[str] | None = None) -> None:
        """Takes note of a cell. Raises ValueError if it is no label, or if there are too many different ones."""
        if self.task.kind == "multilabel":
            names = parts(cell)
            if names is not None:
                self._lists.add(tuple(names))
        else:
            if isinstance(cell, int) and not isinstance(cell, bool) and stored_names and 0 <= cell < len(stored_names):
                cell = stored_names[cell]
            try:
                self._cells[cell.__class__, cell] = None
            except TypeError as error:
                raise ValueError(f"label {cell!r} is no single label") from error
        if len(self._cells) > MOST_CLASSES:
            raise ValueError(f"there are more than {MOST_CLASSES} different labels; is the task of kind regression?")

    def names(self) -> tuple[str, ...]:
        """The names in class order: sorted, whole numbers by value. Raises ValueError if they cannot be classes."""
        if self.task.kind == "multilabel":
            widths = {len(names) for names in self._lists}
            if len(widths) == 1 and min(widths) > 1 and all(is_indicator(n, len(n)) for n in self._lists):
                return tuple(str(number) for number in range(widths.pop()))
            return in_order({name for names in self._lists for name in names})
        found = {name_of(cell) for _, cell in self._cells} - {None}
        names = {name for name in found if name is not None}
        if "+" not in names:
            names.discard("-")
        if any(_is_fraction(name) for name in names) and all(_is_fraction(n) or _WHOLE.fullmatch(n) for n in names):
            raise ValueError(f"its labels are numbers such as {min(n for n in names if _is_fraction(n))}; "
                             "say `kind: regression` of this task in the recipe")  # fmt: skip
        return in_order(names)


def name_of(cell: Any) -> str | None:
    """The class name that a cell says, or None if it is empty; 1, 1.0, "1" and "1.0" are all "1"."""
    if cell is None:
        return None
    if isinstance(cell, str):
        name = cell.strip()
        return str(int(float(name))) if "." in name and _WHOLE.fullmatch(name) else name or None
    if isinstance(cell, float):
        return None if math.isnan(cell) else str(int(cell)) if cell.is_integer() else repr(cell)
    if isinstance(cell, int):  # True and False keep their names
        return str(cell)
    raise ValueError(f"label {cell!r} is no single label")


def number_of(cell: Any) -> float | None:
    """The number that a cell of a regression task says, or None if it is empty. Raises ValueError if it is none."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, str) and cell.strip() in ("", "-"):
        return None
    try:
        value = float(cell) if not isinstance(cell, bool) else math.nan
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"label {cell!r} is not a number")
    return value


def parts(cell: Any) -> list[str] | None:
    """The names in a multilabel cell, or None if it is empty."""
    if isinstance(cell, (list, tuple)):
        names = [name_of(item) for item in cell]
        if None in names:
            raise ValueError(f"label {cell!r} holds an empty name")
        return [name for name in names if name is not None]
    name = name_of(cell)
    if name is None or name == "-":
        return None
    return [part.strip() for part in name.split("|") if part.strip()]


def is_indicator(names: Sequence[str], width: int) -> bool:
    """Whether these are one 0 or 1 for each of `width` labels, not names of labels."""
    return len(names) == width and width > 0 and all(name in ("0", "1") for name in names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted; by value if all are whole numbers."""
    listed = sorted(names)
    return tuple(sorted(listed, key=int) if all(_WHOLE.fullmatch(name) for name in listed) else listed)


def _is_fraction(name: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.\d+", name) is not None


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())
