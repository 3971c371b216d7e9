"""Predicts with a trained student: text in, labels with calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from .data.collate import Batch, Collator
from .errors import InputError, did_you_mean
from .student_folder import WEIGHTS, StudentConfig, load_student, read_config, weights_file
from .tasks import Task
from .training import StudentModel

Text = str | tuple[str, str] | Mapping[str, str]

SORTED_TEXTS = 4096
"""Rows that are sorted by length together, so many that most lengths fill a batch of their own."""
BATCH_TOKENS = 2048
"""Padded tokens of a forward pass, at most, but for a longer text; twice as many of pairs that are read apart."""
FEW_ROWS = 16
"""Rows of one length that are worth a forward pass without padding; fewer share one with those of other lengths."""


@dataclass(frozen=True)
class Prediction:
    """label: the likeliest label's name; a number for regression; a list of names for multilabel.

    probabilities: by label name, at the task's fitted temperature; None for regression.
    """

    label: str | float | list[str]
    probabilities: dict[str, float] | None


class Predictor:
    """A loaded student. `predict` takes texts, pairs or mappings; nothing of the teacher is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.config, self.tokenizer = load_student(folder)
        self.tasks: dict[str, Task] = {task.name: task for task in self.config.tasks}
        self._positions = {name: position for position, name in enumerate(self.tasks)}
        self._collator = Collator.for_texts(
            self.config.tasks, self.tokenizer, pairs=self.model.student.pairs, max_tokens=self.config.max_tokens
        )
        self._own: dict[str, StudentModel] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits of weights, tokenizer and config."""
        digest = blake2b(digest_size=16)
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and path.name != "README.md" and not path.name.startswith("."):
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """Number of parameters, heads included; where tasks have weights of their own, of all of them together."""
        return len(self._weights) * sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def bytes(self) -> int:
        """Size of the weights files."""
        return sum((self.folder / name).stat().st_size for name in self._weights)

    def task(self, name: str | None) -> Task:
        """The task called `name`; None is allowed where there is only one."""
        if name is None:
            if len(self.tasks) > 1:
                raise InputError("task", "the student has several tasks", f"say which: {', '.join(self.tasks)}")
            return next(iter(self.tasks.values()))
        from .tasks import canonical_name

        for candidate in (name, canonical_name(name)):
            if candidate in self.tasks:
                return self.tasks[candidate]
        raise InputError("task", f"the student has no task '{name}'", did_you_mean(name, self.tasks))

    def predict(self, texts: Sequence[Text], task: str | None = None) -> list[Prediction]:
        """One prediction a text, in order. texts: str, (first, second), or a mapping with the task's text columns."""
        asked = self.task(task)
        logits = self.predict_logits(texts, task=asked.name)
        if asked.kind == "regression":
            return [Prediction(float(value), None) for value in logits[:, 0]]
        scaled = logits.astype(np.float64) / self.config.temperature.get(asked.name, 1.0)
        if asked.kind == "multilabel":
            shares = 1.0 / (1.0 + np.exp(-scaled))
            return [
                Prediction([n for n, p in zip(asked.labels, row) if p > 0.5], dict(zip(asked.labels, row)))
                for row in shares.tolist()
            ]
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        shares = powers / powers.sum(1, keepdims=True)
        likeliest = shares.argmax(1).tolist()
        return [
            Prediction(asked.labels[best], dict(zip(asked.labels, row)))
            for best, row in zip(likeliest, shares.tolist())
        ]

    def predict_logits(self, texts: Sequence[Text], task: str | None = None) -> np.ndarray:
        """Raw outputs, (rows, outputs) float32: logits, or values in the units of the labels for regression."""
        asked = self.task(task)
        if isinstance(texts, str | Mapping):
            raise InputError("texts", f"predict expects a list of texts, received one {type(texts).__name__}", "[text]")
        pairs = [_two_texts(text, asked, number) for number, text in enumerate(texts)]
        outputs = np.zeros((len(pairs), asked.outputs), dtype=np.float32)
        model = self.model_of(asked.name)
        for start in range(0, len(pairs), SORTED_TEXTS):
            self._forward(model, asked, pairs[start : start + SORTED_TEXTS], outputs[start : start + SORTED_TEXTS])
        if asked.kind == "regression":
            mean, deviation = self.config.scaling.get(asked.name, (0.0, 1.0))
            outputs = outputs * np.float32(deviation) + np.float32(mean)
        return outputs

    def _forward(
        self, model: StudentModel, task: Task, pairs: Sequence[tuple[str, str | None]], outputs: np.ndarray
    ) -> None:
        first = self.tokenizer.encode_batch([text for text, _ in pairs])
        second = self.tokenizer.encode_batch([text or "" for _, text in pairs]) if task.pair else None
        position = self._positions[task.name]
        with torch.inference_mode():
            for rows in of_like_length(self._lengths(first, second)):
                chosen = rows.tolist()
                batch = self._collator.batch_of(
                    position, [first[row] for row in chosen], [second[row] for row in chosen] if second else None
                )
                outputs[rows] = model(batch).outputs[:, : task.outputs].float().numpy()

    def _lengths(self, first: Sequence[Sequence[int]], second: Sequence[Sequence[int]] | None) -> np.ndarray:
        """How long each row makes a batch, (rows,) int64, special pieces left out."""
        lengths = np.fromiter(map(len, first), np.int64, len(first))
        if second is not None:
            others = np.fromiter(map(len, second), np.int64, len(second))
            joint = self.model.student.pairs == "joint"
            lengths = lengths + others if joint else np.maximum(lengths, others)
        return np.minimum(lengths, self.config.max_tokens)

    def batch(self, pairs: Sequence[tuple[str, str | None]], *, task: str) -> Batch:
        """The texts as the student reads them, in order."""
        first = self.tokenizer.encode_batch([text for text, _ in pairs])
        second = self.tokenizer.encode_batch([text or "" for _, text in pairs]) if self.tasks[task].pair else None
        return self._collator.batch_of(self._positions[task], first, second)

    def model_of(self, task: str) -> StudentModel:
        """The model that answers for a task."""
        if weights_file(self.config, task) == WEIGHTS:
            return self.model
        if task not in self._own:
            self._own[task] = load_student(self.folder, task)[0]
        return self._own[task]

    @cached_property
    def _weights(self) -> set[str]:
        """The files of weights that answers come from."""
        return {weights_file(self.config, task) for task in self.tasks}


def load(path: str | Path) -> Predictor:
    """The student of a run (`runs/NAME`) or of a student folder."""
    path = Path(path)
    if not path.exists():
        raise InputError(str(path), "does not exist", "give the folder of a finished run, such as runs/demo")
    folder = path / "student" if (path / "student").is_dir() else path
    read_config(folder)
    return Predictor(folder)


def of_like_length(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Row numbers in batches, shortest first: of one length where it has rows enough, else of neighbouring ones."""
    order = np.argsort(lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    start = stop = longest = 0
    for length, count in zip(values.tolist(), counts.tolist()):
        if stop - start >= FEW_ROWS or (stop > start and count >= FEW_ROWS):
            yield from _cut(order[start:stop], longest)
            start = stop
        stop, longest = stop + count, length
    if stop > start:
        yield from _cut(order[start:stop], longest)


def _cut(rows: np.ndarray, length: int) -> Iterator[np.ndarray]:
    size = max(1, BATCH_TOKENS // length)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _two_texts(text: Text, task: Task, number: int) -> tuple[str, str | None]:
    place = f"text {number}"
    if isinstance(text, Mapping):
        names = task.text or (("sentence1", "sentence2") if task.pair else ("text",))
        absent = [name for name in names if name not in text]
        if absent:
            raise InputError(place, f"has no '{absent[0]}'", f"the columns of '{task.name}' are {', '.join(names)}")
        values = [_given(text[name], place) for name in names]
        return values[0], values[1] if len(values) > 1 else None
    if isinstance(text, str):
        if task.pair:
            raise InputError(place, f"task '{task.name}' reads two texts, received one", "give (first, second)")
        return text, None
    if not isinstance(text, Sequence) or len(text) != 2 or not task.pair:
        expected = "(first, second)" if task.pair else "a string"
        raise InputError(place, f"task '{task.name}' expects {expected}, received {type(text).__name__}")
    return _given(text[0], place), _given(text[1], place)


def _given(value: object, place: str) -> str:
    if value is None:  # str() would make it the word "None"
        raise InputError(place, "is None where a text belongs")
    return str(value)


__all__ = ["Prediction", "Predictor", "StudentConfig", "load"]
