"""Rows of train that are kept out of training, measured while a student trains: for TensorBoard and `train.select`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ..data.collate import Collator, TaskArrays
from ..data.prepare import TaskRows
from ..data.rows import Rows
from ..data.tokens import tokenize_rows
from ..errors import WorkError
from ..evaluate import LOWER_IS_BETTER, agreement, scores
from ..recipe import Recipe
from ..training import SCORE
from .forward import outputs_over
from .student_data import StudentData


def held_out_split(rows: TaskRows, recipe: Recipe) -> str | None:
    """The split that is neither trained on nor reported: the calibration slice, or dev if test is reported."""
    if "calibration" in rows.splits:
        return "calibration"
    return "dev" if recipe.evaluate.split == "test" and "dev" in rows.splits else None


def calibration_rows(rows: TaskRows, recipe: Recipe) -> Rows | None:
    """The labelled rows of `held_out_split`."""
    split = held_out_split(rows, recipe)
    return None if split is None else rows.splits[split]


class HeldOut:
    """held_out(model) gives metric and agreement of each task by TensorBoard tag, and the metrics' mean as `SCORE`.

    In the mean a metric of which less is better counts negatively, for the largest `SCORE` is selected.
    taught: by task, the teachers' outputs on those rows as one teacher, (rows, outputs), or None.
    """

    def __init__(
        self,
        data: Mapping[str, TaskRows],
        recipe: Recipe,
        tokens: StudentData,
        folder: Path,
        taught: Mapping[str, np.ndarray | None],
    ) -> None:
        self._tokens, self._max_tokens, self._taught = tokens, recipe.data.max_tokens, taught
        self._arrays: dict[int, TaskArrays] = {}
        for position, task in enumerate(tokens.tasks):
            rows = calibration_rows(data[task.name], recipe)
            if rows is not None and len(rows):
                place = folder / f"tokens-{task.name}-held-out"
                pieces = tokenize_rows(rows, tokens.tokenizer, place, max_tokens=self._max_tokens)
                self._arrays[position] = TaskArrays(pieces, rows.labels(), None)

    def only(self, task: str) -> HeldOut | None:
        """The same for one task alone; None: it has no such rows."""
        kept = {n: array for n, array in self._arrays.items() if self._tokens.tasks[n].name == task}
        if not kept:
            return None
        alone = copy(self)
        alone._arrays = kept
        return alone

    def __len__(self) -> int:
        """Number of rows."""
        return sum(len(array.labels) for array in self._arrays.values())

    def __call__(self, model: Any) -> dict[str, float]:
        values: dict[str, float] = {}
        figures = []
        for position, array in self._arrays.items():
            task = self._tokens.tasks[position]
            collator = Collator(
                [task], [array], self._tokens.tokenizer.joint, pairs=model.student.pairs, max_tokens=self._max_tokens
            )
            outputs = outputs_over(model, collator, array, position)[:, : task.outputs]
            if np.isnan(outputs).any():
                raise WorkError(f"{task.name}: the student gives NaN; lower optimizer.learning_rate or set max_norm")
            figure = scores(task, outputs, np.asarray(array.labels))[task.metric]
            figures.append(-figure if task.metric in LOWER_IS_BETTER else figure)
            values[f"held_out_{task.metric}/{task.name}"] = figure
            taught = self._taught.get(task.name)
            alike = None if taught is None else agreement(task, outputs, taught)
            if alike is not None:
                values[f"held_out_agreement/{task.name}"] = alike
        if figures:
            values[SCORE] = float(np.mean(figures))
        return values
