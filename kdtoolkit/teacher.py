"""The contract of a teacher: text in, one row of values an example out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .errors import InputError
from .example import Example
from .shape import Shape
from .tasks import Task

if TYPE_CHECKING:
    from .data.rows import Rows

OutputKind = Literal["logits", "logprobs", "values"]


class Features(NamedTuple):
    """Hidden states of a teacher, padded on the right to the longest text.

    ids: (rows, time) int64, the teacher's own pieces, special ones included. mask: (rows, time) bool.
    values: by name, float32, 0 on padding:
      "first/L"      (rows, width)                   state of the first token after layer L; layer 0 is the embeddings
      "hidden/L"     (rows, time, width)             states of all tokens
      "attention/L"  (rows, heads, time, time)       scores before the softmax, scaled by 1 / sqrt(head width); L from 1
      "queries/L", "keys/L", "values/L"              (rows, heads, time, head width); L from 1
    """

    ids: np.ndarray
    mask: np.ndarray
    values: dict[str, np.ndarray]


class Teacher(ABC):
    """Anything that gives values for text. Subclass it and write `logits` and `fingerprint`.

    A teacher works on text, so its tokenizer and the student's never need to agree. It is built as
    `Class(source, task, **options)`: `source` is the recipe's name of it (a path, a hub id, "module:function"), `task`
    the one task it answers for, with its label names in class order, and the options are the recipe's other keys.
    """

    joint: bool = False
    """Whether one model answers for all tasks; then the teach stage calls `fine_tune_jointly` once for all."""
    store: str | None = None
    """What the recipe that it teaches in says under `store`, for a teacher that runs recipes of its own when it is
    trained; the teach stage tells it before."""
    learns_all: bool = False
    """Whether a joint one is trained on all tasks of the recipe that have gold rows, also those it does not teach."""

    call_rows: int = 128
    """How many texts `logits` is given at a time when they are labelled, longest first; it may cut them further."""
    maker: Callable[[], Teacher] | None = None
    """What builds it anew in another process, by pickle; the pipeline sets it."""
    distributed: bool = False
    """Whether `fine_tune` and `fine_tune_jointly` are called in every process of a run, as `kdtoolkit.training.fit`
    wants it, and see to it that the first alone writes (`kdtoolkit.processes`); else the first alone calls them."""

    def __init__(self, source: str, task: Task, **options: Any) -> None:
        self.source, self.task = source, task
        if options:
            raise TypeError(f"{type(self).__name__}: unknown option{'s' * (len(options) > 1)} {', '.join(options)}")

    @classmethod
    def import_libraries(cls) -> None:
        """Imports what takes seconds and is needed later. Processes that wait for the first one do so meanwhile."""

    @abstractmethod
    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """Values for each example, (rows, task.outputs) float32, columns in the order of `task.labels`.

        What they are is said by `kind`. If `partial`, a row may be NaN throughout: the teacher says nothing about it.
        """

    def read(self, examples: Sequence[Example]) -> Any:
        """What `answer` needs of examples and a thread can make ahead, while `answer` computes: a tokenizer's work.

        Whoever writes it writes `answer` as well. Where texts are labelled these are called, unless a class below has
        another `logits`.
        """
        return examples

    def answer(self, read: Any) -> np.ndarray:
        """`logits` of the examples that were read."""
        return self.logits(read)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digits that change whenever an output could: weights, tokenizer, label map, max length, dtype."""

    @property
    def kind(self) -> OutputKind:
        """logits | logprobs (classification; logits up to a constant, at any temperature) | values (regression).

        The option `averaged: true` of a teacher says that its probabilities are those of several models together, and
        a recipe is refused that wants them at another temperature than 1.
        """
        return "values" if self.task.kind == "regression" else "logits"

    @property
    def reusable(self) -> bool:
        """Whether the fingerprint vouches for the outputs; if not, labels stay in the run and 32 rows are compared."""
        return True

    @property
    def partial(self) -> bool:
        """Whether it may say nothing about an example, by a row of NaN; otherwise NaN is an error."""
        return False

    def answers(self, ids: np.ndarray) -> np.ndarray:
        """Which texts, by id (n,) S16, it has values for: (n,) bool. Only a teacher of stored values lacks any."""
        return np.ones(len(ids), bool)

    @property
    def shape(self) -> Shape | None:
        """Layers, features and attention heads of its encoder; None: it has no hidden states to show."""
        return None

    def features(self, examples: Sequence[Example], names: Sequence[str]) -> Features:
        """What is inside the teacher for each example, by name (see `Features`); only if `shape` is not None.

        Without names: ids and mask alone, at the cost of the tokenizer; also before the teacher is fine-tuned.
        """
        raise TypeError(f"{type(self).__name__} has no hidden states")

    @property
    def shardable(self) -> bool:
        """Whether the class has a `shard` of its own."""
        return type(self).shard is not Teacher.shard

    def shard(self) -> None:
        """From now on each process of the run keeps a part of the model (`kdtoolkit.parts`), and nothing but `features`
        is asked.

        All processes call this at the same place, and `features` from then on, also those that have no examples;
        without names, each may ask for itself. Raises InputError if the model cannot be sharded.
        """
        cause = f"the teacher '{self.source}' of '{self.task.name}' cannot be sharded ({type(self).__name__})"
        raise InputError("train.teacher_sharding", cause, "leave it out, or take a Hugging Face teacher")

    @property
    def ready(self) -> bool:
        """Whether `logits` can be called now; if not, the teach stage calls `fine_tune` first."""
        return True

    @property
    def foreign_labels(self) -> tuple[str, ...] | None:
        """Names of what its own head answers, where they are not the task's, so that it wants a fresh head."""
        return None

    @property
    def refines(self) -> bool:
        """Whether, ready and joint, it wants a copy a task that `fine_tune` makes from it; the teach stage does so."""
        return False

    def fine_tune(self, rows: Rows, folder: Path, *, seed: int, **options: Any) -> None:
        """Trains on the gold labels of `rows` and saves into `folder`; restarted, it resumes what it finds there."""
        raise TypeError(f"{type(self).__name__} cannot be fine-tuned")

    def fine_tune_jointly(
        self, tasks: Mapping[str, Task], rows: Mapping[str, Rows], folder: Path, *, seed: int
    ) -> None:
        """Trains one model on the gold labels of several tasks and saves into `folder`; restarted, it resumes."""
        raise TypeError(f"{type(self).__name__} cannot be fine-tuned jointly")

    def clean_up(self, folder: Path) -> None:
        """Removes what a training that was killed has left beside `folder`, which is finished; the teach stage asks."""

    def parameters(self) -> int | None:
        """Number of parameters, for the table; None if that means nothing here."""
        return None

    def bytes(self) -> int | None:
        """Size of the weights in bytes, for the table; None if that means nothing here."""
        return None

    def close(self) -> None:
        """Releases what the teacher holds in memory (weights); called again, it loads them again."""
