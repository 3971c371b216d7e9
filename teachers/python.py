"""Any Python callable as a teacher: a model served elsewhere, a rule, an LLM that labels."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from kdtoolkit import Example, InputError, Task, Teacher, WorkError
from kdtoolkit.labels.values import by_name, from_probabilities, probability_problem, problem
from kdtoolkit.plugins import import_module, import_object, source_of
from kdtoolkit.teacher import OutputKind


class PythonTeacher(Teacher):
    """A callable `list[str] -> array (rows, outputs)`, or `list[tuple[str, str]]` for a task of pairs.

    source: "module:function" or "path/to/file.py:function"; a function, a partial, an object with `__call__`, or a
        class of such objects that is built without arguments.
    outputs: what it gives: "logits" (regression: the number itself) or "probabilities" (multilabel: one per label).
    version: anything that changes when its outputs do; default: the attribute `version` of the callable or its module.
        Without one, labels live in the run folder only, and are checked when they are used again.
    partial: it may give a row of NaN: nothing to say.
    Columns are in the order of the task's labels, or of the attribute `labels` of the callable.
    """

    def __init__(
        self,
        source: str,
        task: Task,
        *,
        outputs: Literal["logits", "probabilities"] = "logits",
        version: str | int | float | None = None,
        partial: bool = False,
    ) -> None:
        super().__init__(source, task)
        self._place = f"teacher python:{source}, task {task.name}"
        if outputs not in ("logits", "probabilities"):
            raise InputError(self._place, f"outputs '{outputs}' is unknown", "logits or probabilities")
        if outputs == "probabilities" and task.kind == "regression":
            raise InputError(self._place, "a regression task has no probabilities", "leave `outputs` out")
        if ":" not in source:
            raise InputError(self._place, f"'{source}' names no function", "write module:function")
        self._outputs, self._partial = outputs, partial
        target = import_object(source, self._place)
        self._call = self._callable(target)
        module = import_module(source.rpartition(":")[0])
        given = (version, getattr(target, "version", None), getattr(module, "version", None))
        self._version = next((str(v) for v in given if isinstance(v, str | int | float)), None)
        self._columns = self._column_order(getattr(self._call, "labels", getattr(target, "labels", None)))
        self._fingerprint = _hash(
            source_of(module), source.rpartition(":")[2], self._version, outputs, partial, task.to_dict()["labels"],
            None if self._columns is None else self._columns.tolist(),
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """A hash of the module's source, the version, the options and the label names."""
        return self._fingerprint

    @property
    def kind(self) -> OutputKind:
        """logprobs if a classification gives probabilities; else values (regression) or logits."""
        if self._outputs == "probabilities" and self.task.kind == "classification":
            return "logprobs"
        return super().kind

    @property
    def reusable(self) -> bool:
        """Only with a version: the source of one module does not say which weights it loads."""
        return self._version is not None

    @property
    def partial(self) -> bool:
        """As the option says."""
        return self._partial

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """What the callable gives, checked: (rows, outputs) float32.

        Raises WorkError if it raises, InputError if its result is no array of that shape, or NaN, or no probabilities.
        """
        if not examples:  # most callables cannot tell the width of nothing
            return np.empty((0, self.task.outputs), np.float32)
        texts = [e.text if not self.task.pair else (e.text, e.second or "") for e in examples]
        try:
            result = self._call(texts)
        except Exception as error:
            where = f"{type(error).__name__}: {error}"
            raise WorkError(f"{self._place}: it failed on a batch of {len(texts)} texts ({where})") from error
        values = self._array(result, len(texts))
        if self._columns is not None:
            values = values[:, self._columns]
        if self._outputs == "probabilities":
            sums = self.task.kind == "classification"
            self._refuse(probability_problem(values, sums=sums, partial=self._partial), examples)
            return from_probabilities(values, self.task)
        self._refuse(problem(values, self.kind, partial=self._partial), examples)
        return values

    def _array(self, result: Any, rows: int) -> np.ndarray:
        if hasattr(result, "detach"):  # a torch tensor, perhaps in bfloat16, perhaps on a GPU
            result = result.detach().float().cpu()
        try:
            values = np.asarray(result, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(self._place, f"its result is no array of numbers ({error})") from error
        if values.shape == (rows,) and self.task.outputs == 1:
            values = values[:, None]
        if values.shape != (rows, self.task.outputs):
            columns = ", ".join(self.task.labels) or "the value"
            raise InputError(
                self._place,
                f"its result has shape {values.shape} where {(rows, self.task.outputs)} belongs",
                f"one row a text, one column each for: {columns}",
            )
        return values

    def _refuse(self, wrong: tuple[int, int, str] | None, examples: Sequence[Example]) -> None:
        if wrong is None:
            return
        count, row, cause = wrong
        example = examples[row]
        raise InputError(
            self._place,
            f"{cause} in {count} of {len(examples)} rows, the first for {example.text[:60]!r} (id {example.id.hex()})",
            None
            if self._partial or "NaN" not in cause
            else "a row that is NaN throughout is fine with `partial: true`",
        )

    def _callable(self, target: Any) -> Callable[[list[Any]], Any]:
        if inspect.isclass(target):
            if issubclass(target, Teacher):
                raise InputError(self._place, "is a Teacher class, not a function", f"name it '{self.source}'")
            try:
                target = target()
            except Exception as error:
                raise InputError(
                    self._place, f"cannot be built without arguments ({type(error).__name__}: {error})"
                ) from error
        if not callable(target):
            raise InputError(self._place, f"is a {type(target).__name__}, which cannot be called")
        return target

    def _column_order(self, names: Any) -> np.ndarray | None:
        if names is None or not self.task.labels:
            return None
        names = [str(name) for name in names]
        order = by_name(names, self.task)
        if order is None:
            raise InputError(
                self._place,
                f"its labels are {names}, those of the task are {list(self.task.labels)}",
                "name them alike",
            )
        return order


def _hash(*parts: Any) -> str:
    return blake2b(json.dumps(["python", *parts]).encode(), digest_size=16).hexdigest()
