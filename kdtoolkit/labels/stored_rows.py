"""Reads files of teacher outputs, remembering where each row came from, so that a wrong one can be named."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..data.readers import Source, open_source
from ..errors import InputError
from ..files import read_json
from ..tasks import Task
from .columns import Layout, RowProblem, Says, find_layout, of_task
from .values import by_name

CHUNK_ROWS = 10_000
SAMPLE_ROWS = 100
"""Rows from which the layout of a file is told."""


@dataclass(frozen=True)
class StoredRows:
    """ids (rows,) S16; values (rows, outputs) float32 in the order of the task's labels, as they are in the files.

    says: what the files say that the values are. sources: the files; source, line: (rows,) where each row is.
    """

    ids: np.ndarray
    values: np.ndarray
    says: Says
    sources: Sequence[Source]
    source: np.ndarray
    line: np.ndarray

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return self.sources[self.source[row]].where(int(self.line[row]))


def read_stored_rows(
    files: Sequence[Path],
    task: Task,
    *,
    says: Says = "auto",
    column: str | None = None,
    labels: Sequence[str] | None = None,
    id: str | None = None,
    text: Sequence[str] = (),
) -> StoredRows:
    """The rows of a task in some files of one kind; the options are those of `find_layout`.

    Raises InputError with file and row for what is no id, text, label name or number.
    """
    sources = [open_source(file) for file in files]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    said: Says = says
    for number, (file, source) in enumerate(zip(files, sources)):
        known_labels, known_kind = _beside(file)
        sample = next(_chunks(source, source.columns, SAMPLE_ROWS))[0]
        if not sample[source.columns[0]]:
            raise InputError(str(file), "has no rows")
        layout = find_layout(
            sample, task, str(file), says=known_kind if says == "auto" else says, column=column,
            labels=known_labels if labels is None else labels, id=id, text=text,
        )  # fmt: skip
        if number and layout.says != said:
            raise InputError(str(file), f"holds {layout.says}, and {files[0]} holds {said}", "say which with `values`")
        said = layout.says
        found += [(*rows, np.full(len(rows[0]), number, np.int16)) for rows in _rows(source, layout, task)]
    ids, values, line, source_of = (np.concatenate(arrays) for arrays in zip(*found))
    if not len(ids):
        raise InputError(str(files[0]), f"no row is of task '{task.name}'", "check the column `task`")
    return StoredRows(ids, values, said, sources, source_of, line)


def _rows(source: Source, layout: Layout, task: Task) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    order = by_name(layout.names, task)
    columns = [*layout.needed, *(["task"] if "task" in source.columns and "task" not in layout.needed else [])]
    for chunk, lines in _chunks(source, columns, CHUNK_ROWS):
        mine = of_task(chunk, task)
        if mine is not None:
            chunk = {name: list(itertools.compress(column, mine)) for name, column in chunk.items()}
            lines = lines[mine]
        try:
            ids, values = layout.ids(chunk), layout.values(chunk)
        except RowProblem as error:
            raise InputError(source.where(int(lines[error.row])), error.cause, error.remedy) from error
        yield ids, values[:, order] if order is not None and len(order) else values, lines


def _chunks(source: Source, columns: Sequence[str], rows: int) -> Iterator[tuple[dict[str, list[Any]], np.ndarray]]:
    """(column name -> values, line numbers) of so many records after another; at least one chunk, if an empty one."""
    records = source.records(columns)
    for first in itertools.count():
        batch = list(itertools.islice(records, rows))
        if first and not batch:
            return
        chunk = {name: [values[i] for _, values in batch] for i, name in enumerate(columns)}
        yield chunk, np.array([number for number, _ in batch], dtype=np.int64)


def _beside(file: Path) -> tuple[list[str] | None, Says]:
    """Label names and kind that Parquet metadata or a manifest beside a part of a label store give."""
    manifest = file.with_name("manifest.json")
    if file.name.startswith("part-") and manifest.is_file():
        fields = read_json(manifest)
        kinds: dict[str, Says] = {"logits": "logits", "logprobs": "logprobs", "probabilities": "probabilities"}
        return fields.get("labels") or None, kinds.get(fields.get("kind", ""), "auto")
    if file.suffix == ".parquet":
        labels = (pq.read_schema(file).metadata or {}).get(b"labels")
        return None if labels is None else _names(labels.decode(), file), "auto"
    return None, "auto"


def _names(text: str, file: Path) -> list[str]:
    try:
        names = json.loads(text) if text.startswith("[") else [name.strip() for name in text.split(",")]
    except ValueError as error:
        raise InputError(str(file), f"its metadata key `labels` is no list of names: {text!r}") from error
    return [str(name) for name in names]
