"""Batches of the labelled rows that a checkpoint is fine-tuned on, of one task or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from kdtoolkit.data.collate import Batch

from .sequences import SequenceFile, padded


class GoldRows(NamedTuple):
    """sequences: of all rows of a task. labels: (rows,) or, multilabel, (rows, outputs) float32, NaN: none."""

    sequences: SequenceFile
    labels: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        """Numbers of the rows that have a label, int64."""
        return labelled_rows(self.labels)


def labelled_rows(labels: np.ndarray) -> np.ndarray:
    """Numbers of the rows that have a label, int64. labels: (rows,) or (rows, outputs), NaN: none."""
    return np.flatnonzero(np.isfinite(labels if labels.ndim == 1 else labels[:, 0]))


class GoldBatches:
    """batches(rows) makes the batch of those rows; the labelled rows are numbered, those of the first task first."""

    def __init__(self, tasks: Sequence[GoldRows], pad_id: int) -> None:
        self._tasks, self._pad_id = list(tasks), pad_id
        self._labelled = [task.labelled for task in self._tasks]
        self._ends = np.cumsum([0, *map(len, self._labelled)])
        self._width = max((task.labels.shape[1] for task in self._tasks if task.labels.ndim == 2), default=0)

    @property
    def lengths(self) -> list[np.ndarray]:
        """Of each task, the tokens of each labelled row, (rows,) int32."""
        return [task.sequences.lengths[rows] for task, rows in zip(self._tasks, self._labelled)]

    def __call__(self, rows: np.ndarray) -> Batch:
        tasks = np.searchsorted(self._ends, rows, side="right") - 1
        labels = np.full(len(rows), np.nan, np.float32)
        targets = np.full((len(rows), self._width), np.nan, np.float32)
        sequences = []
        for place, (number, row) in enumerate(zip(tasks.tolist(), rows.tolist())):
            task = self._tasks[number]
            own = self._labelled[number][row - self._ends[number]]
            sequences.append(task.sequences[own])
            if task.labels.ndim == 1:
                labels[place] = task.labels[own]
            else:
                targets[place] = 0.0
                targets[place, : task.labels.shape[1]] = task.labels[own]
        return Batch(
            tokens=padded(sequences, self._pad_id),
            first=torch.arange(len(rows)),
            second=None,
            tasks=torch.from_numpy(tasks.astype(np.int64)),
            labels=torch.from_numpy(labels),
            targets=torch.from_numpy(targets) if self._width else None,
            teacher=None,
        )


def scale(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a regression's labels; 1 where they are all equal."""
    deviation = float(values.std(dtype=np.float64))
    return float(values.mean(dtype=np.float64)), deviation if deviation > 1e-6 else 1.0
