"""The rows a student is trained on, as token arrays: its tokenizer, every text once, what the teachers said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..data.collate import Collator, TaskArrays
from ..data.rows import Rows
from ..data.tokens import remap, tokenize_rows
from ..heads import ranking_columns
from ..recipe import Recipe
from ..shape import Shape
from ..student_folder import StudentConfig
from ..tasks import Task
from ..tokenizers import Tokenizer, build_tokenizer, compact
from ..training import StudentModel
from .queries import query_groups


@dataclass(frozen=True)
class StudentData:
    """The rows a student is trained on, as token arrays; `arrays` are in the order of `tasks`."""

    tasks: tuple[Task, ...]
    tokenizer: Tokenizer
    arrays: tuple[TaskArrays, ...]
    scaling: dict[str, tuple[float, float]]
    member_weights: tuple[tuple[float, ...], ...]
    teacher_source: str | None = None
    """Folder or hub id of the first Hugging Face teacher, for a student that starts from it."""
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    """By task, the sizes of the teacher whose hidden states its array has."""

    @property
    def rows(self) -> int:
        """Rows of all tasks."""
        return sum(len(array.labels) for array in self.arrays)

    @property
    def scales(self) -> list[tuple[float, float]]:
        """(mean, standard deviation) of each task in order; (0, 1) where there is nothing to scale."""
        return [self.scaling.get(task.name, (0.0, 1.0)) for task in self.tasks]

    def collator(self, model: StudentModel, config: StudentConfig, *, features: Collection[int] = ()) -> Collator:
        """Batches of these rows as the model reads them. features: positions of tasks, with hidden states."""
        arrays = [a if place in features else replace(a, features=None) for place, a in enumerate(self.arrays)]
        return Collator(
            self.tasks, arrays, self.tokenizer.joint, pairs=model.student.pairs, max_tokens=config.max_tokens
        )

    def numbers(self, task: int | None = None) -> np.ndarray:
        """Global numbers of all rows, or of those of the task at one position, int64."""
        bounds = np.cumsum([0, *(len(array.labels) for array in self.arrays)])
        return np.arange(bounds[-1]) if task is None else np.arange(bounds[task], bounds[task + 1])

    def labelled(self, task: int | None = None) -> np.ndarray:
        """Global numbers of the rows that have a gold label, int64; of one task only, if asked."""
        found, offset = [], 0
        for position, array in enumerate(self.arrays):
            has_label = np.isfinite(array.labels if array.labels.ndim == 1 else array.labels[:, 0])
            if task is None or task == position:
                found.append(np.flatnonzero(has_label) + offset)
            offset += len(array.labels)
        return np.concatenate(found)


def tokenize(
    recipe: Recipe,
    tasks: Sequence[Task],
    rows: Mapping[str, Rows],
    folder: Path,
    *,
    teacher: Callable[[str], np.ndarray | None] = lambda task: None,
    member_weights: Callable[[str], Sequence[float]] | None = None,
    teacher_source: str | None = None,
    mask: str | None = None,
) -> StudentData:
    """Builds the tokenizer from the rows' text and tokenizes every row once, into `folder`; both are found again.

    teacher: a task's stored outputs, (rows, members, outputs) float32, NaN where a member says nothing.
    member_weights: of a task, one a member; None: they are equal.
    mask: the word that generated text has in place of others; see `build_tokenizer`.
    """
    tokenizer = build_tokenizer(
        recipe.tokenizer,
        lambda: _texts(rows),
        seed=recipe.seed,
        folder=folder / "tokenizer",
        teacher_source=teacher_source,
        mask=mask,
    )
    tokens = {
        task.name: tokenize_rows(
            rows[task.name], tokenizer, folder / f"tokens-{task.name}", max_tokens=recipe.data.max_tokens
        )
        for task in tasks
    }
    if tokenizer.vectors() is None:  # unseen pieces with pretrained vectors mean something too
        # Exact at weight decay 0, and nearly twice as fast: rows of the embedding that never occur never move.
        tokenizer = compact(tokenizer, np.sum([array.piece_counts for array in tokens.values()], axis=0))
        tokens = {name: remap(array, tokenizer, folder / f"tokens-{name}-compact") for name, array in tokens.items()}
    arrays: list[TaskArrays] = []
    scaling, weights = {}, []
    ranked = ranking_columns(tasks, recipe.heads)
    for task in tasks:
        labels, outputs = rows[task.name].labels(), teacher(task.name)
        groups = query_groups(rows[task.name]) if len(arrays) in ranked else None
        arrays.append(TaskArrays(tokens[task.name], labels, outputs, groups))
        if task.kind == "regression":
            scaling[task.name] = _scaling(labels, outputs)
        said = 0 if outputs is None else outputs.shape[1]
        weights.append((1.0,) * said if member_weights is None else tuple(member_weights(task.name)))
    return StudentData(tuple(tasks), tokenizer, tuple(arrays), scaling, tuple(weights), teacher_source)


def _scaling(labels: np.ndarray, outputs: np.ndarray | None) -> tuple[float, float]:
    for said in (labels, outputs):
        values = np.empty(0) if said is None else said[np.isfinite(said)].astype(np.float64)
        # Values that are all equal have no scale, and dividing by almost nothing would blow up all others.
        if len(values) > 1 and values.std() > 1e-6:
            return float(values.mean()), float(values.std())
    known = labels[np.isfinite(labels)]
    return (float(known.mean()), 1.0) if len(known) else (0.0, 1.0)


def _texts(rows: Mapping[str, Rows], chunk: int = 4096) -> Iterator[str]:
    for some in rows.values():
        for start in range(0, len(some), chunk):
            first, second = some.texts(start, min(start + chunk, len(some)))
            yield from first
            if second is not None:
                yield from second
