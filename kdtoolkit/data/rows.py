"""One split of one task on disk: a memory-mapped Arrow IPC file, so that memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError, WorkError
from ..example import Example, example_id
from ..files import atomic_file
from ..tasks import Task

BATCH_ROWS = 10_000
"""Rows of a record batch: what is held in memory while reading or writing."""


class Rows:
    """The rows of one split, read from the disk as they are asked for; made by `write_rows`.

    Columns of the file: id (16 bytes), text, second (pair tasks only), label (null: no gold label).
    """

    def __init__(self, path: Path | str, task: Task) -> None:
        self.path, self.task = Path(path), task

    @classmethod
    def open(cls, path: Path | str, task: Task) -> Rows:
        """Opens a file of `write_rows`; `task` must be the task it was written with.

        Raises InputError if there is none, WorkError if it is damaged or of another kind of task.
        """
        rows = cls(path, task)
        if rows._batches and not rows._batches[0].schema.equals(schema(task)):
            raise WorkError(f"{path}: holds no rows of task '{task.name}'; delete it and run again with --resume")
        return rows

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        # A memory map does not travel between processes; the path does.
        return {"path": self.path, "task": self.task}

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path), "r"))
            return [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except FileNotFoundError as error:
            raise InputError(str(self.path), "does not exist") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise WorkError(f"{self.path}: is damaged ({error}); delete it and run again with --resume") from error

    @cached_property
    def _starts(self) -> np.ndarray:
        """First row of each record batch, and the number of rows: (batches + 1,) int64."""
        return np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def ids(self) -> np.ndarray:
        """(rows,) 'S16', read-only: a view of the file where it has one record batch.

        numpy drops trailing zero bytes when it makes a Python `bytes` of an element; compare and sort arrays instead.
        """
        parts = []
        for batch in self._batches:
            column = batch.column("id")
            if len(column):
                ids = np.frombuffer(column.buffers()[1], dtype="S16")
                parts.append(ids[column.offset : column.offset + len(column)])
        return _joined(parts, "S16")

    def labels(self) -> np.ndarray:
        """Gold labels, NaN where there is none: float32 (rows,), or (rows, labels) for a multilabel task."""
        width = self.task.outputs if self.task.kind == "multilabel" else None
        parts = []
        for batch in self._batches:
            column = batch.column("label")
            if width is None:
                parts.append(column.to_numpy(zero_copy_only=False).astype(np.float32))
            else:
                values = np.full((len(column), width), np.nan, dtype=np.float32)
                known = column.is_valid().to_numpy(zero_copy_only=False)
                values[known] = column.flatten().to_numpy().reshape(-1, width)  # flatten leaves nulls out
                parts.append(values)
        return _joined(parts, np.float32, width)

    def characters(self) -> np.ndarray:
        """Characters of a row, both texts together: (rows,) int32."""
        parts = []
        for batch in self._batches:
            count = pc.utf8_length(batch.column("text")).to_numpy()
            if self.task.pair:
                count = count + pc.utf8_length(batch.column("second")).to_numpy()
            parts.append(count.astype(np.int32))
        return _joined(parts, np.int32)

    def texts(self, start: int, stop: int) -> tuple[list[str], list[str] | None]:
        """Texts of the rows start..stop-1, and their second texts (None for a task of single texts)."""
        texts: list[str] = []
        seconds: list[str] | None = [] if self.task.pair else None
        # Only the batches that the range touches are asked: a split is read in many small ranges.
        first, last = np.searchsorted(self._starts, [max(start, 0), stop], side="right")
        for number in range(first - 1, min(int(last), len(self._batches))):
            batch, begin = self._batches[number], int(self._starts[number])
            part = batch.slice(max(start - begin, 0), max(min(stop, begin + batch.num_rows) - max(start, begin), 0))
            texts += part.column("text").to_pylist()
            if seconds is not None:
                seconds += part.column("second").to_pylist()
        return texts, seconds

    def examples(self, indices: np.ndarray | slice) -> list[Example]:
        """The rows of these numbers, in their order; (n,) integers or a slice."""
        chosen = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"{self.path} has {len(self)} rows")
        home = np.searchsorted(self._starts, chosen, side="right") - 1
        found: list[Example] = [Example(self.task.name, "")] * len(chosen)
        for number in np.unique(home):
            # Taken batch by batch: taking from a chunked table would join all of its chunks in memory first.
            places = np.flatnonzero(home == number)
            part = self._batches[number].take(pa.array(chosen[places] - self._starts[number]))
            seconds = part.column("second").to_pylist() if self.task.pair else [None] * len(places)
            labels = part.column("label").to_pylist()
            for place, text, second, label in zip(places, part.column("text").to_pylist(), seconds, labels):
                if label is not None and self.task.kind != "regression":
                    label = int(label) if self.task.kind == "classification" else tuple(label)
                found[place] = Example(self.task.name, text, second, label)
        return found


class RowWriter:
    """Writes rows one by one into an Arrow IPC file, a record batch at a time; `write_rows` is the atomic form."""

    def __init__(self, path: Path, task: Task) -> None:
        self.task, self.rows = task, 0
        self._schema, self._pending = schema(task), list[Example]()
        # A Python file, so that a full disk is an OSError with its number.
        self._file = path.open("wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def add(self, example: Example) -> None:
        """Appends one row."""
        self._pending.append(example)
        if len(self._pending) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows = self._pending
        columns = [
            pa.array([example_id(row.text, row.second) for row in rows], self._schema.field("id").type),
            pa.array([row.text for row in rows], pa.large_string()),
        ]
        if self.task.pair:
            columns.append(pa.array([row.second for row in rows], pa.large_string()))
        columns.append(pa.array([row.label for row in rows], self._schema.field("label").type))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self.rows += len(rows)
        self._pending = []

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._pending or not self.rows:
                    self._flush()
                self._writer.close()
        finally:
            self._file.close()


def write_rows(path: Path | str, task: Task, batches: Iterable[Sequence[Example]]) -> Rows:
    """Writes the examples of all batches to `path`, atomically; at most 10,000 rows are in memory beside a batch.

    task: with labels and `pair` known; examples of a pair task have a second text, the others have none.
    Raises WorkError or InputError if the file cannot be written.
    """
    path = Path(path)
    with atomic_file(path) as temporary:
        with RowWriter(temporary, task) as writer:
            for batch in batches:
                for example in batch:
                    writer.add(example)
    return Rows.open(path, task)


def schema(task: Task) -> pa.Schema:
    """The columns of a file of rows."""
    label = pa.list_(pa.int8(), task.outputs) if task.kind == "multilabel" else pa.float64()
    second = [pa.field("second", pa.large_string())] if task.pair else []
    text = pa.field("text", pa.large_string())
    return pa.schema([pa.field("id", pa.binary(16)), text, *second, pa.field("label", label)])


def _joined(parts: list[np.ndarray], dtype: Any, width: int | None = None) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0,) if width is None else (0, width), dtype)
