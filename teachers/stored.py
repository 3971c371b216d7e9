"""Teacher outputs that are in a file already: from any model, any program, or an LLM that labelled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from kdtoolkit import Example, InputError, Task, Teacher
from kdtoolkit.data.readers import format_of
from kdtoolkit.errors import did_you_mean
from kdtoolkit.labels.columns import Says
from kdtoolkit.labels.store import LabelStore, id_hex
from kdtoolkit.labels.stored_rows import StoredRows, read_stored_rows
from kdtoolkit.labels.values import by_name, from_probabilities, guess, probability_problem, problem
from kdtoolkit.tasks import canonical_name
from kdtoolkit.teacher import OutputKind

SAYS = ("auto", "logits", "probabilities", "logprobs", "label_score")
AGREE = 1e-4


class StoredTeacher(Teacher):
    """Values read from Parquet, JSONL, CSV or TSV (also gzipped), from a folder of them, or from a label store.

    source: a file; a folder with one file per task (sst2.jsonl), with Parquet parts, or of a label store.
    values: "logits", "probabilities", "logprobs", "label_score" (the top label; what is left of its score's 1 goes to
        the other labels in equal parts), or "auto": told by the columns' names, else by the numbers.
    column: a column of lists, of mappings by label name, or (regression) of numbers; default: found.
    labels: label names in the order of the lists, where the file does not say.
    id, text: columns of ids (16 bytes or 32 hex digits) or of the texts, whose ids are computed; default: found.
    averaged: the values are an average of several models' probabilities. Those of one model say its logits up to a
        constant, so any temperature gives what the model itself would give; an average of several has lost the members'
        logits, so a recipe with another temperature than 1 is refused.
    partial: texts that the file lacks have no teacher; otherwise they are an error.
    A column `task` says of which task a row is. Labels are matched to the task's by name, in any order.
    Memory: 16 bytes and `outputs` floats a row. Raises InputError with file and row for what cannot be right.
    """

    def __init__(
        self,
        source: str,
        task: Task,
        *,
        values: Says = "auto",
        column: str | None = None,
        labels: Sequence[str] | None = None,
        id: str | None = None,
        text: str | Sequence[str] | None = None,
        averaged: bool = False,
        partial: bool = False,
    ) -> None:
        super().__init__(source, task)
        self._place = f"teacher {source}, task {task.name}"
        if values not in SAYS:
            raise InputError(self._place, f"values '{values}' is unknown", did_you_mean(values, SAYS))
        self._partial = partial
        texts = [text] if isinstance(text, str) else list(text or ())
        options: dict[str, Any] = {"says": values, "column": column, "labels": labels, "id": id, "text": texts}
        files = _files(Path(source).expanduser(), task, self._place)
        self._fingerprint = _fingerprint(files, [options, partial, task.name, task.kind, list(task.labels)])
        if files[0].name == "manifest.json":
            self._ids, self._values, self._kind = self._from_store(LabelStore.open(files[0].parent))
        else:
            self._ids, self._values, self._kind = self._from_rows(read_stored_rows(files, task, **options))

    @property
    def fingerprint(self) -> str:
        """A hash of the files' contents, the options and the label names."""
        return self._fingerprint

    @property
    def kind(self) -> OutputKind:
        """logprobs if the file holds probabilities of a classification."""
        return self._kind

    @property
    def partial(self) -> bool:
        """As the option says."""
        return self._partial

    def answers(self, ids: np.ndarray) -> np.ndarray:
        """Which ids, (n,) S16, the file has: (n,) bool."""
        return self._ids[self._places(ids)] == ids

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """The values of the examples, (rows, outputs) float32. Raises InputError if some lack, unless `partial`."""
        ids = np.array([example.id for example in examples], "S16")
        held = self.answers(ids)
        if not (held.all() or self._partial):
            lost = examples[int((~held).argmax())]
            raise InputError(
                self._place, f"has no values for {int((~held).sum())} of {len(ids)} texts, such as {lost.text[:60]!r} "
                f"(id {lost.id.hex()})", "add them, or set `partial: true`",
            )  # fmt: skip
        out = np.full((len(ids), self.task.outputs), np.nan, np.float32)
        out[held] = self._values[self._places(ids[held])]
        return out

    def _places(self, ids: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)

    def _from_store(self, store: LabelStore) -> tuple[np.ndarray, np.ndarray, OutputKind]:
        columns = by_name(store.labels, self.task)
        kinds = {"regression": {"values"}, "classification": {"logits", "logprobs"}, "multilabel": {"logits"}}
        if columns is None or store.outputs != self.task.outputs or store.kind not in kinds[self.task.kind]:
            raise InputError(
                self._place, f"it stores {store.kind} for labels {list(store.labels)} ({store.outputs} a row); the "
                f"labels of this {self.task.kind} task are {list(self.task.labels)} ({self.task.outputs})",
                "name the labels alike",
            )  # fmt: skip
        parts = list(store.scan())
        if not parts:
            raise InputError(str(store.folder), "holds no parts", "label first")
        ids, first = np.unique(np.concatenate([ids for ids, _ in parts]), return_index=True)
        values = np.concatenate([values for _, values in parts])[first]
        values = values[:, columns] if len(columns) else values
        self._refuse(problem(values, store.kind, partial=self._partial), lambda row: f"id {id_hex(ids[row])}")
        return ids, values, store.kind

    def _from_rows(self, rows: StoredRows) -> tuple[np.ndarray, np.ndarray, OutputKind]:
        task, values = self.task, rows.values
        says = "values" if task.kind == "regression" else guess(values, task) if rows.says == "auto" else rows.says
        kind: OutputKind = "values" if says == "values" else "logprobs" if says == "logprobs" else "logits"
        if says in ("probabilities", "label_score"):
            sums = task.kind == "classification"
            told = "; if these are logits, say `values: logits`"
            self._refuse(probability_problem(values, sums=sums, partial=self._partial), rows.where, told)
            values = from_probabilities(values, task)
            kind = "logprobs" if sums else "logits"
        elif says == "logprobs" and task.kind == "multilabel":
            self._refuse(problem(values, "logprobs", partial=self._partial), rows.where)
            values, kind = from_probabilities(np.exp(values), task), "logits"
        else:
            self._refuse(problem(values, kind, partial=self._partial), rows.where)
        order = np.argsort(rows.ids, kind="stable")
        ids, values = rows.ids[order], values[order]
        again = np.flatnonzero(ids[1:] == ids[:-1])
        close = np.isclose(values[again], values[again + 1], rtol=AGREE, atol=AGREE, equal_nan=True).all(1)
        if not close.all():
            row = again[~close][0]
            raise InputError(
                rows.where(order[row + 1]),
                f"the same text as in {rows.where(order[row])} has other values",
                f"keep one of the two ({int((~close).sum())} such rows)",
            )
        once = np.ones(len(ids), bool)
        once[again + 1] = False
        return ids[once], values[once], kind

    def _refuse(self, wrong: tuple[int, int, str] | None, where: Callable[[int], str], remedy: str = "") -> None:
        if wrong is not None:
            count, row, cause = wrong
            more = f", and {count - 1} more" if count > 1 else ""
            lacks = (
                "; rows without values are fine with `partial: true`" if "NaN" in cause and not self._partial else ""
            )
            raise InputError(where(row), f"{cause} (task {self.task.name}{more}){lacks}{remedy}")


def _files(path: Path, task: Task, place: str) -> list[Path]:
    """The files to read; that of a label store is its manifest, with its parts after it."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(place, f"{path} does not exist", "give a file, or a folder of files")
    for folder in (path, path / task.name):
        if (folder / "manifest.json").is_file():
            return [folder / "manifest.json", *sorted(folder.glob("part-*.parquet"))]
    inside = [f for f in sorted(path.iterdir()) if f.is_file() and f.name[0] not in "._" and format_of(f)]
    own = [f for f in inside if canonical_name(f.name.partition(".")[0]) == task.name]
    if len(own) > 1:
        raise InputError(place, f"{path} holds {' and '.join(f.name for f in own)}", "name the file")
    parts = [f for f in inside if f.name.startswith("part")]
    if not (own or parts):
        names = ", ".join(sorted(f.name for f in path.iterdir())[:20]) or "nothing"
        raise InputError(place, f"{path} holds no file for this task", f"it holds {names}")
    return own or parts


def _fingerprint(files: Sequence[Path], options: Any) -> str:
    digest = blake2b(json.dumps(["stored", 1, options]).encode(), digest_size=16)
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
