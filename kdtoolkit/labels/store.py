"""The label store: a teacher's values for text, kept as Parquet parts that any program can read or write.

    <root>/<teacher fingerprint>/<task>/manifest.json
    <root>/<teacher fingerprint>/<task>/part-*.parquet     id: fixed 16 bytes, values: fixed-size list of floats

A part is written atomically and is never changed. Joins are sorted 16-byte arrays, so that a million rows stay small.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError, WorkError
from ..files import atomic_file, read_json, write_json
from ..tasks import Task
from ..teacher import OutputKind, Teacher
from .values import floored, problem

SCHEMA = 1
PART_REMEDY = "delete this file and run again: only its rows are labelled again"
DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


def default_store(path: str | Path | None = None) -> Path:
    """The folder of stores: `path` (the recipe's `store`), else $KDTOOLKIT_STORE, else ~/.cache/kdtoolkit."""
    chosen = path or os.environ.get("KDTOOLKIT_STORE") or Path("~/.cache/kdtoolkit")
    return Path(chosen).expanduser()


class LabelStore:
    """The values that one teacher gave for texts of one task.

    root: folder of stores; teacher: its fingerprint; task: canonical task name.
    kind: logits | logprobs | values; outputs: number of values a row; labels: label names in column order.
    dtype: "float32" or "float16", of the files; what is read is float32.
    partial: rows may be NaN throughout: the teacher says nothing about them.
    description: the teacher as the user named it, for messages and the manifest.
    Raises InputError if there is a store for another kind, count or order of labels.
    """

    def __init__(
        self,
        root: Path | str,
        teacher: str,
        task: str,
        *,
        kind: OutputKind,
        outputs: int,
        labels: Sequence[str] = (),
        dtype: str = "float32",
        partial: bool = False,
        description: str = "",
    ) -> None:
        if dtype not in DTYPES:
            raise InputError("label store", f"dtype '{dtype}' is unknown", "float32 or float16")
        self.folder = Path(root) / teacher / task
        self.teacher, self.task, self.kind, self.outputs = teacher, task, kind, outputs
        self.labels, self.dtype, self.partial = tuple(labels), dtype, partial
        self.description = description or f"teacher {teacher[:12]}"
        self.floored = 0
        """Log-probabilities raised to log 1e-7 by `write` of this object."""
        if (self.folder / "manifest.json").exists():
            self._agree(read_json(self.folder / "manifest.json"))

    @classmethod
    def of(cls, teacher: Teacher, root: Path | str, *, dtype: str = "float32") -> LabelStore:
        """The store of a teacher's values for its task."""
        task: Task = teacher.task
        return cls(
            root,
            teacher.fingerprint,
            task.name,
            kind=teacher.kind,
            outputs=task.outputs,
            labels=task.labels,
            dtype=dtype,
            partial=teacher.partial,
            description=teacher.source,
        )

    @classmethod
    def open(cls, folder: Path | str) -> LabelStore:
        """The store in a task's folder, as its manifest describes it."""
        folder = Path(folder)
        fields = _manifest(folder)
        names = ("kind", "outputs", "labels", "dtype", "partial", "description")
        store = cls.__new__(cls)
        store.folder, store.floored = folder, 0
        store.teacher, store.task = fields["teacher"], fields["task"]
        for name in names:
            setattr(store, name, fields[name])
        store.labels = tuple(fields["labels"])
        return store

    def manifest(self) -> dict[str, Any]:
        """What manifest.json says."""
        return {
            "schema": SCHEMA, "teacher": self.teacher, "task": self.task, "kind": self.kind, "outputs": self.outputs,
            "labels": list(self.labels), "dtype": self.dtype, "partial": self.partial, "description": self.description,
        }  # fmt: skip

    def parts(self) -> list[Path]:
        """The part files, by name."""
        return sorted(self.folder.glob("part-*.parquet"))

    def ids(self) -> np.ndarray:
        """The ids held, sorted, each once: (n,) S16. Raises WorkError if a part is damaged."""
        found = [self._table(part, ["id"]) for part in self.parts()]
        if not found:
            return np.empty(0, "S16")
        return np.unique(np.concatenate([ids_of(table.column("id")) for table in found]))

    def missing(self, ids: np.ndarray) -> np.ndarray:
        """Which of `ids`, (n,) S16, are not held: (n,) bool."""
        held = self.ids()
        place = np.searchsorted(held, ids)
        place[place == len(held)] = 0
        return np.ones(len(ids), bool) if not len(held) else held[place] != ids

    def write(self, name: str, ids: np.ndarray, values: np.ndarray) -> Path:
        """Writes part-`name`.parquet, atomically, and the manifest before the first part.

        ids: (rows,) S16; values: (rows, outputs). Raises InputError for NaN (unless `partial`), +inf, a wrong shape.
        """
        values = np.asarray(values)
        if values.shape != (len(ids), self.outputs):
            raise InputError(
                self._place(), f"{values.shape} values for {len(ids)} rows of {self.outputs} outputs", None
            )
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes inf, and is refused below
            stored, below = floored(values.astype(self.dtype), self.kind)
        wrong = problem(stored, self.kind, partial=self.partial)
        if wrong:
            count, row, cause = wrong
            where = f"in {count} of {len(ids)} rows, the first with id {id_hex(ids[row])}"
            raise InputError(self._place(), f"{cause} {where}", "nothing of this part was stored; mend the teacher")
        manifest = self.folder / "manifest.json"
        if not manifest.exists():
            write_json(manifest, self.manifest())
        part = self.folder / f"part-{name}.parquet"
        with atomic_file(part) as temporary:
            write_part(temporary, ids, stored)
        self.floored += below
        return part

    def scan(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(ids (rows,) S16, values (rows, outputs) float32) of one part after another."""
        for part in self.parts():
            table = self._table(part, ["id", "values"])
            try:
                values = lists_of(table.column("values"), self.outputs)
            except ValueError as error:
                raise WorkError(f"{part}: {error}; {PART_REMEDY}") from error
            yield ids_of(table.column("id")), floored(values, self.kind)[0]

    def read_into(self, out: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Fills the rows of `out`, (n, outputs), whose id is held, and returns which they are: (n,) bool.

        ids: (n,) S16, in any order and with repeats. One part is in memory at a time.
        """
        order = np.argsort(ids, kind="stable")
        in_order = ids[order]
        found = np.zeros(len(ids), bool)
        for part_ids, values in self.scan():
            first = np.searchsorted(in_order, part_ids, "left")
            count = np.searchsorted(in_order, part_ids, "right") - first
            source = np.repeat(np.arange(len(part_ids)), count)
            within = np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count)
            rows = order[first[source] + within]
            out[rows] = values[source]
            found[rows] = True
        return found

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The values of `ids`, (n, outputs) float32. Raises InputError if some are not held."""
        out = np.full((len(ids), self.outputs), np.nan, np.float32)
        found = self.read_into(out, ids)
        if not found.all():
            example = id_hex(ids[int((~found).argmax())])
            raise InputError(
                self._place(), f"{int((~found).sum())} of {len(ids)} ids have no values, such as {example}",
                "run the label stage again: it fills in what is missing",
            )  # fmt: skip
        return out

    def _agree(self, theirs: dict[str, Any]) -> None:
        """Raises InputError if the manifest on the disk describes other columns than these."""
        ours = self.manifest()
        if theirs.get("schema") != SCHEMA:
            raise InputError(
                str(self.folder), f"label store of schema {theirs.get('schema')}; this is {SCHEMA}", "delete the folder"
            )
        for key in ("kind", "outputs", "labels", "dtype", "partial"):
            if theirs.get(key) != ours[key]:
                raise InputError(
                    str(self.folder),
                    f"holds values with {key} {theirs.get(key)!r}, and {self.description} gives {ours[key]!r}",
                    "delete the folder if it is not wanted, or name the labels alike",
                )

    def _place(self) -> str:
        return f"{self.description}, task {self.task}"

    def _table(self, part: Path, columns: list[str]) -> pa.Table:
        return read_part(part, columns, PART_REMEDY)


def write_part(path: Path, ids: np.ndarray, values: np.ndarray) -> None:
    """Writes one part: the same bytes for the same ids (rows,) S16 and values (rows, outputs) float32 or float16."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
    table = pa.table({"id": id_array(ids), "values": lists})
    # Floats and hashes do not compress; checksums make a damaged page an error instead of a wrong value.
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)


def read_part(part: Path, columns: list[str], remedy: str) -> pa.Table:
    """Columns of a part; a damaged file is named, with what to do."""
    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            absent = [name for name in columns if name not in file.schema_arrow.names]
            if absent:
                raise KeyError(f"it has no column {' and '.join(absent)}")
            return file.read(columns=columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise WorkError(f"{part}: is damaged ({error}); {remedy}") from error


def id_array(ids: np.ndarray) -> pa.Array:
    """Arrow's view of ids (rows,) S16, without the trailing zero bytes that numpy drops from single items."""
    data = np.ascontiguousarray(ids, dtype="S16")
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(data), [None, pa.py_buffer(data)])


def ids_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """(rows,) S16 of a column of 16-byte ids. Raises ValueError for anything else, or a null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if array.null_count:
        raise ValueError("an id is empty")
    try:
        array = array.cast(pa.binary(16))
    except pa.ArrowException as error:
        raise ValueError(f"ids are not 16 bytes each ({error})") from error
    data = array.buffers()[1]
    if data is None:
        return np.empty(0, "S16")
    return np.frombuffer(data, "S16", count=len(array) + array.offset)[array.offset :]


def lists_of(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """(rows, width) float32 of a column of lists of numbers. Raises ValueError if a list is of another length."""
    if column.null_count:
        raise ValueError("a row has no values")
    parts = []
    for chunk in column.chunks:
        if not pa.types.is_fixed_size_list(chunk.type):
            lengths = np.diff(np.asarray(chunk.offsets))
            if (lengths != width).any():
                raise ValueError(f"a row has {lengths[lengths != width][0]} values where {width} belong")
        elif chunk.type.list_size != width:
            raise ValueError(f"rows have {chunk.type.list_size} values where {width} belong")
        flat = chunk.flatten()
        if flat.null_count:
            raise ValueError("a value is empty")
        parts.append(flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width))
    return np.concatenate(parts) if parts else np.empty((0, width), np.float32)


def id_hex(identifier: bytes) -> str:
    """32 hex digits of an id as numpy gives it, trailing zero bytes and all."""
    return bytes(identifier).ljust(16, b"\0").hex()


def _manifest(folder: Path) -> dict[str, Any]:
    fields = read_json(folder / "manifest.json")
    needed = {"teacher": "", "task": folder.name, "labels": [], "dtype": "float32", "partial": False, "description": ""}
    fields = {**needed, **fields}
    absent = [key for key in ("kind", "outputs") if key not in fields]
    if absent:
        raise InputError(str(folder / "manifest.json"), f"lacks {' and '.join(absent)}")
    fields["description"] = fields["description"] or str(folder)
    return fields
