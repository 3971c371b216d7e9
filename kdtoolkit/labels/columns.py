"""Finds ids and values among the columns of a file of teacher outputs that someone else wrote.

Layouts: one column per label; one column of lists or of mappings by label name; the top label and its score; for
regression one column of numbers. Label names are matched by name, never by position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..data.layout import OFFICIAL, TEXTS
from ..errors import InputError
from ..example import example_id
from ..tasks import Task, canonical_name
from .values import by_name, fold_name

Says = Literal["auto", "logits", "probabilities", "logprobs", "label_score"]
Form = Literal["wide", "list", "mapping", "top", "number"]
Columns = Mapping[str, Sequence[Any]]

LISTS: dict[str, Says] = {
    "values": "auto", "logits": "logits", "probabilities": "probabilities", "probability": "probabilities",
    "probs": "probabilities", "logprobs": "logprobs", "log_probabilities": "logprobs",
}  # fmt: skip
PREFIXES: dict[str, Says] = {
    "": "auto", "logit_": "logits", "logprob_": "logprobs", "prob_": "probabilities", "p_": "probabilities",
    "probability_": "probabilities",
}  # fmt: skip
TOP_LABELS = ("label", "prediction", "predicted_label")
SCORES = ("score", "confidence", "probability")
NUMBERS = ("values", "value", "prediction", "score")


class RowProblem(ValueError):
    """row: number within the chunk, from 0; the caller knows the file."""

    def __init__(self, row: int, cause: str, remedy: str | None = None) -> None:
        super().__init__(cause)
        self.row, self.cause, self.remedy = row, cause, remedy


@dataclass(frozen=True)
class Layout:
    """Where ids and values are.

    id: column of ids, or None: computed from the `text` columns.
    form: "wide" (a column per label), "list", "mapping" (by label name), "top" (label, score), "number" (regression).
    columns: the columns of that form; names: label names in the order of the values, empty for regression.
    says: what the file itself says that the values are. sibling: a column that repeats the names in every row.
    """

    id: str | None
    text: tuple[str, ...]
    form: Form
    columns: tuple[str, ...]
    names: tuple[str, ...]
    says: Says
    sibling: str | None = None

    @property
    def needed(self) -> list[str]:
        """The columns that `ids` and `values` read."""
        sibling = () if self.sibling is None else (self.sibling,)
        return list(dict.fromkeys((*self.text, *self.columns, *sibling, *(() if self.id is None else (self.id,)))))

    def ids(self, chunk: Columns) -> np.ndarray:
        """(rows,) S16. Raises RowProblem."""
        if self.id is None:
            texts = [chunk[name] for name in self.text]
            for name, column in zip(self.text, texts):
                empty = next((row for row, text in enumerate(column) if not isinstance(text, str)), None)
                if empty is not None:
                    raise RowProblem(empty, f"column '{name}' holds {column[empty]!r} where a text belongs")
            return np.array([example_id(*row) for row in zip(*texts)], "S16")
        return np.array([_id(value, row) for row, value in enumerate(chunk[self.id])], "S16")

    def values(self, chunk: Columns) -> np.ndarray:
        """(rows, outputs) float32 in the order of `names`; rows without any value are NaN. Raises RowProblem."""
        if self.form in ("wide", "number"):
            return np.stack([_numbers(chunk[name], name) for name in self.columns], axis=1)
        if self.form == "top":
            return self._top(chunk)
        width = max(len(self.names), 1)
        for row, value in enumerate(chunk[self.sibling] if self.sibling else ()):
            named = _parsed(value)
            if named is None or tuple(map(str, named)) != self.names:
                raise RowProblem(row, f"column '{self.sibling}' holds {named}, and {list(self.names)} in the first row")
        rows: list[Any] = []
        for row, value in enumerate(chunk[self.columns[0]]):
            value = _parsed(value)
            if value is not None and self.form == "mapping":
                value = self._ordered(value, row)
            if value is None:
                value = [None] * width
            elif not isinstance(value, list | tuple | np.ndarray) or len(value) != width:
                found = f"{len(value)} values" if isinstance(value, list | tuple | np.ndarray) else f"{value!r}"
                raise RowProblem(row, f"column '{self.columns[0]}' holds {found} where a list of {width} belongs")
            rows.append(value)
        flat = _numbers([number for values in rows for number in values], self.columns[0], per_row=width)
        return flat.reshape(len(rows), width)

    def _ordered(self, value: Any, row: int) -> list[Any]:
        if not isinstance(value, Mapping) or set(value) != set(self.names):
            found = sorted(map(str, value)) if isinstance(value, Mapping) else repr(value)
            raise RowProblem(row, f"column '{self.columns[0]}' has labels {found} where {sorted(self.names)} belong")
        return [value[name] for name in self.names]

    def _top(self, chunk: Columns) -> np.ndarray:
        label, score = self.columns
        places = {fold_name(name): i for i, name in enumerate(self.names)}
        scores = _numbers(chunk[score], score)
        top = np.zeros(len(scores), np.intp)
        for row, name in enumerate(chunk[label]):
            if name in (None, ""):
                scores[row] = np.nan
                continue
            place = places.get(fold_name(str(name)))
            if place is None:
                raise RowProblem(row, f"label {name!r} is none of {list(self.names)}", "name the labels alike")
            top[row] = place
        rest = (1 - scores) / max(len(self.names) - 1, 1)
        out = np.repeat(rest[:, None], len(self.names), axis=1)
        out[np.arange(len(out)), top] = scores
        return out


def find_layout(
    chunk: Columns,
    task: Task,
    place: str,
    *,
    says: Says = "auto",
    column: str | None = None,
    labels: Sequence[str] | None = None,
    id: str | None = None,
    text: Sequence[str] = (),
) -> Layout:
    """The layout of a file, from its first rows and the user's options.

    column: of lists, mappings or numbers; labels: names in the order of a list; id, text: columns. Raises InputError.
    """
    for name in (column, id, *text):
        if name is not None and name not in chunk:
            raise InputError(place, f"there is no column '{name}'", f"its columns: {', '.join(chunk)}")
    id_column, texts = _identity(chunk, task, place, id, text)
    layout = _form(chunk, task, place, says, column, labels)
    names = layout.names
    if task.labels and by_name(names, task) is None:
        raise InputError(
            place, f"its labels are {list(names)} ({len(names)}), those of task {task.name} are {list(task.labels)} "
            f"({len(task.labels)})", "name the labels alike, in the file or with the option `labels`",
        )  # fmt: skip
    return replace(layout, id=id_column, text=texts, says=layout.says if says == "auto" else says)


def of_task(chunk: Columns, task: Task) -> np.ndarray | None:
    """Which rows are of the task, by the column "task"; None if there is no such column."""
    if "task" not in chunk:
        return None
    return np.array([canonical_name(str(name)) == task.name for name in chunk["task"]], dtype=bool)


def _identity(
    chunk: Columns, task: Task, place: str, id: str | None, text: Sequence[str]
) -> tuple[str | None, tuple[str, ...]]:
    if id is not None:
        return id, ()
    if text:
        return None, tuple(text)
    if "id" in chunk and _looks_like_ids(chunk["id"]):
        return "id", ()
    columns = {name.casefold(): name for name in chunk}
    official = OFFICIAL[task.name][0] if task.name in OFFICIAL else ()
    for names in (task.text, official, *(names for names in TEXTS if len(names) == 1 + bool(task.pair))):
        if names and all(name.casefold() in columns for name in names):
            return None, tuple(columns[name.casefold()] for name in names)
    raise InputError(
        place,
        f"neither an `id` column (16 bytes or 32 hex digits) nor the text of the task was found among {list(chunk)}",
        "name the text columns with the option `text`",
    )


def _form(
    chunk: Columns, task: Task, place: str, says: Says, column: str | None, labels: Sequence[str] | None
) -> Layout:
    """The layout without its ids."""
    if task.kind == "regression":
        name = column or next((n for n in NUMBERS if n in chunk), None)
        if name is None:
            raise InputError(
                place, f"no column of numbers among {list(chunk)}", f"name it `column`, or {' or '.join(NUMBERS)}"
            )
        form: Form = "list" if isinstance(_first(chunk[name]), list | tuple) else "number"
        return Layout(None, (), form, (name,), (), "logits")
    if says != "label_score":
        wide = _wide(chunk, task, place, labels) if column is None else None
        if wide is not None:
            return wide
        name = column or next((n for n in LISTS if isinstance(_first(chunk.get(n, ())), list | tuple | Mapping)), None)
        if name is not None:
            return _listed(chunk, place, name, labels)
    top = next((n for n in TOP_LABELS if n in chunk), None)
    score = next((n for n in SCORES if n in chunk), None)
    if says in ("auto", "label_score") and top and score and task.kind == "classification":
        return Layout(None, (), "top", (top, score), tuple(task.labels), "label_score")
    raise InputError(
        place,
        f"no values for labels {list(task.labels)} among the columns {list(chunk)}",
        "give one column per label, a column `probabilities` or `logits` of lists, or `label` and `score`",
    )


def _wide(chunk: Columns, task: Task, place: str, labels: Sequence[str] | None) -> Layout | None:
    wanted = {fold_name(name): name for name in task.labels}
    for prefix, says in PREFIXES.items():
        theirs = {name.removeprefix(prefix): name for name in chunk if name.startswith(prefix)}
        matched = {fold_name(label): label for label in theirs if fold_name(label) in wanted}
        # One column that is called like a label ("neutral") may be anything; two, or all, are label columns.
        if len(matched) < min(2, len(wanted)):
            continue
        absent = [name for folded, name in wanted.items() if folded not in matched]
        others = [n for n in theirs if n not in matched.values() and (prefix or _fractional(_first(chunk[n])))]
        others = [n for n in others if n not in (*SCORES, *LISTS, "id", "weight", "entropy")]
        if absent or (others and labels is None):
            found = [*matched.values(), *others]
            raise InputError(
                place, f"its label columns are {found} ({len(found)}), the labels of task {task.name} are "
                f"{list(task.labels)} ({len(task.labels)})",
                "name the labels alike" if absent else f"if {others} are no labels, say `labels: {list(task.labels)}`",
            )  # fmt: skip
        names = tuple(matched.values())
        return Layout(None, (), "wide", tuple(theirs[name] for name in names), names, says)
    return None


def _listed(chunk: Columns, place: str, name: str, labels: Sequence[str] | None) -> Layout:
    first = _first(chunk[name])
    says = LISTS.get(name, "auto")
    if isinstance(first, Mapping):
        return Layout(None, (), "mapping", (name,), tuple(map(str, first)), says)
    sibling = None
    if labels is None:
        sibling = next((n for n in ("labels", "label_names") if isinstance(_first(chunk.get(n, ())), list)), None)
        labels = None if sibling is None else _first(chunk[sibling])
    if labels is None:
        width = len(first) if isinstance(first, list | tuple) else "some"
        raise InputError(
            place,
            f"column '{name}' holds lists of {width} values and nothing says which label each one is for",
            "say so with the option `labels: [...]`, a column `labels`, or the Parquet metadata key `labels`",
        )
    return Layout(None, (), "list", (name,), tuple(map(str, labels)), says, sibling)


def _numbers(column: Sequence[Any], name: str, per_row: int = 1) -> np.ndarray:
    """(len(column),) float32; nothing is NaN. Raises RowProblem for what is no number."""
    try:
        return np.array([np.nan if v is None or v == "" else v for v in column], dtype=np.float32)
    except (TypeError, ValueError):
        for i, value in enumerate(column):
            try:
                float(np.nan if value is None or value == "" else value)
            except (TypeError, ValueError) as error:
                raise RowProblem(i // per_row, f"column '{name}' holds {value!r} where a number belongs") from error
        raise


def _id(value: Any, row: int) -> bytes:
    if isinstance(value, bytes) and len(value) == 16:
        return value
    if isinstance(value, str) and len(value) == 32:
        try:
            return bytes.fromhex(value)
        except ValueError:
            pass
    raise RowProblem(row, f"id {value!r} is neither 16 bytes nor 32 hex digits", "leave `id` out and give the texts")


def _looks_like_ids(column: Sequence[Any]) -> bool:
    try:
        return len(column) > 0 and len(_id(column[0], 0)) == 16
    except RowProblem:
        return False


def _parsed(value: Any) -> Any:
    """A list or mapping that a CSV cell holds as JSON; anything else as it is; an empty cell is None."""
    if isinstance(value, str):
        if value[:1] in ("[", "{"):
            try:
                return json.loads(value)
            except ValueError:
                return value
        return value or None
    return value


def _first(column: Sequence[Any]) -> Any:
    return next((parsed for parsed in map(_parsed, column) if parsed is not None), None)


def _fractional(value: Any) -> bool:
    """Whether a cell looks like a model's output: a number with a fraction."""
    if isinstance(value, str):
        try:
            return "." in value and np.isfinite(float(value))
        except ValueError:
            return False
    return isinstance(value, float)
