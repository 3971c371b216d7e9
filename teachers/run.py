"""A student of an earlier run as the teacher of another: teacher assistants, born-again networks, model compression."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

import kdtoolkit
from kdtoolkit import Example, InputError, Task, Teacher
from kdtoolkit.errors import did_you_mean
from kdtoolkit.feature_name import FeatureName
from kdtoolkit.labels.values import by_name
from kdtoolkit.parts import InParts
from kdtoolkit.predictor import Predictor
from kdtoolkit.shape import Shape
from kdtoolkit.student import Tokens
from kdtoolkit.teacher import Features

from .common import Common, common

BATCH_TEXTS = 256


class RunTeacher(Teacher):
    """A finished run (runs/NAME) or its student folder.

    source: the folder. source_task: the name that the run gave to this task; default: the same name.
    The run's labels may come in another order: columns are matched by name.
    Sources: Mirzadeh et al. 2020 (arXiv:1902.03393), teacher assistants; Furlanello et al. 2018 (arXiv:1805.04770),
    born-again networks.
    """

    def __init__(self, source: str, task: Task, *, source_task: str | None = None) -> None:
        super().__init__(source, task)
        place = f"teacher {source}, task {task.name}"
        self._common = _loaded(source)
        name = source_task or task.name
        if name not in self._predictor.tasks:
            known = self._predictor.tasks
            raise InputError(place, f"that run has no task '{name}'", f"{did_you_mean(name, known)} (`source_task`)")
        theirs = self._predictor.tasks[name]
        self._name = name
        if theirs.kind != task.kind:
            raise InputError(place, f"its '{name}' is a {theirs.kind} task, this one is {task.kind}")
        if bool(theirs.pair) != bool(task.pair):
            reads = {True: "pairs of texts", False: "single texts"}
            raise InputError(
                place, f"its '{name}' reads {reads[bool(theirs.pair)]}, this task {reads[bool(task.pair)]}"
            )
        columns = by_name(theirs.labels, task)
        if columns is None:
            raise InputError(
                place, f"its labels are {list(theirs.labels)}, those of this task are {list(task.labels)}",
                "name the labels alike (`labels` of the task)",
            )  # fmt: skip
        # A regression task has no names and one column.
        self._columns = columns if len(columns) else np.zeros(1, dtype=np.intp)
        self._parts: InParts | None = None

    @property
    def _predictor(self) -> Predictor:
        return self._common.model

    @property
    def fingerprint(self) -> str:
        """A hash of the student's weights, tokenizer and config, the task and the order of its labels."""
        parts = ["run", self._predictor.fingerprint, self._name, list(self.task.labels), self._columns.tolist()]
        return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """The student's outputs, (rows, outputs) float32, in the order of this task's labels."""
        if self._parts is not None:
            raise RuntimeError(f"the teacher {self.source} is sharded, and shows its features alone")
        texts = [(e.text, e.second or "") if self.task.pair else e.text for e in examples]
        return np.ascontiguousarray(self._predictor.predict_logits(texts, task=self._name)[:, self._columns])

    @property
    def shape(self) -> Shape | None:
        """That of the student; None if it has no layers to show, or reads the two texts of a pair apart."""
        student = self._predictor.model.student
        apart = bool(self.task.pair) and student.pairs == "separate"
        return student.shape if "hidden" in student.provides and not apart else None

    def features(self, examples: Sequence[Example], names: Sequence[str]) -> Features:
        """Hidden states and what else the student shows; the pieces are those of its own tokenizer."""
        from .hidden_states import joined

        needed = frozenset(FeatureName.parse(name).part for name in names)
        if lacking := needed - self._predictor.model_of(self._name).student.provides:
            raise InputError(f"teacher {self.source}", f"its student gives no {', '.join(sorted(lacking))}")
        starts = range(0, len(examples), BATCH_TEXTS)
        batches = [self._read(examples[start : start + BATCH_TEXTS]) for start in starts]
        pieces = [row[mask].numpy() for tokens in batches for row, mask in zip(tokens.ids, tokens.mask)]
        with torch.inference_mode() if self._parts is None else torch.no_grad():
            return joined(pieces, names, self._inside(batches, names, needed) if names else ())

    def _read(self, examples: Sequence[Example]) -> Tokens:
        return self._predictor.batch([(e.text, e.second) for e in examples], task=self._name).tokens

    def _inside(
        self, batches: Sequence[Tokens], names: Sequence[str], needed: frozenset[str]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Row numbers and features, batch by batch. needed: what the student has to give for them."""
        from .hidden_states import feature

        student = self._predictor.model_of(self._name).student
        student.output, call, start = needed, self._parts or student, 0
        for tokens in batches if self._parts is None else self._parts.rounds(batches):
            if tokens is None:  # others have texts left, and this process calls the student along with them
                call(self._read([Example(self.task.name, "")]))
                continue
            encoded = call(tokens)
            found = {name: feature(name, encoded, tokens.mask) for name in names}
            yield np.arange(start, start + len(tokens.ids)), found
            start += len(tokens.ids)
        student.output = frozenset()

    def shard(self) -> None:
        if self._parts is None:
            self._common = _loaded(self.source, sharded=True)
            self._parts = self._common.parts(self._predictor.model_of(self._name).student, torch.device("cpu"))

    def parameters(self) -> int | None:
        """Those of the student."""
        return self._predictor.parameters

    def bytes(self) -> int | None:
        """Size of the student's weights."""
        return self._predictor.bytes


def _loaded(source: str, *, sharded: bool = False) -> Common[Predictor]:
    """The student of that folder, in memory once for all tasks that are asked of it. sharded: it will be cut."""
    files = sorted(path for path in (Path(source), *Path(source).glob("student")) for path in path.glob("*.*"))
    seen = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return common(("student", source, *seen, sharded), lambda: kdtoolkit.load(source))
