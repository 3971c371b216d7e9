"""`teachers:`, `student:`, `tokenizer:` and `heads:`: what teaches, what learns, and how it reads and answers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..tasks import canonical_name
from .base import OpenSection, Section


def _positive_or_fit(value: Any) -> Any:
    # Of a union, pydantic would report what each of its branches had expected.
    if value == "fit" or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    raise ValueError(f"{value:g} is not positive" if number else f"expected a number or 'fit', received {value!r:.60}")


NumberOrFit = Annotated[Annotated[float, Field(gt=0)] | Literal["fit"], BeforeValidator(_positive_or_fit)]


class TeacherSection(OpenSection):
    """One teacher, or one member of an ensemble. Further keys go to the teacher's class and its fine-tuning."""

    name: str
    tasks: list[str] | None = None
    """The tasks it teaches; None: all."""
    weight: NumberOrFit = 1.0
    """Its share in the ensemble of a task; "fit": fitted on rows held out of train, for all such members together."""
    temperature: NumberOrFit = 1.0
    """Its logits are divided by it before anything else is done; "fit": fitted on rows held out of train."""
    members: int = Field(default=1, ge=1)
    """How many of it are fine-tuned, with seeds of their own."""
    vary: dict[str, list[Any]] = Field(default={})
    """Options that the members take in turn: {dropout: [0.1, 0.2, 0.3]}."""
    keep: int | None = Field(default=None, ge=1)
    """Only the best so many members teach, by their metric on rows held out of train; None: all."""
    keep_by: list[str] | None = None
    """The tasks whose metrics are averaged for that; None: each task chooses by its own (jointly trained: by all)."""

    @model_validator(mode="after")
    def _canonical(self) -> TeacherSection:
        if self.tasks is not None:
            self.tasks = [canonical_name(task) for task in self.tasks]
        if self.keep_by is not None:
            self.keep_by = [canonical_name(task) for task in self.keep_by]
        return self


class StudentSection(OpenSection):
    """The student; further keys are its constructor's keyword arguments."""

    name: str = "bilstm"


class TokenizerSection(OpenSection):
    """The student's tokenizer; further keys are its own. Default for a student of a checkpoint: the checkpoint's."""

    name: Literal["sentencepiece", "words", "teacher"] = "sentencepiece"
    vocabulary: int = Field(default=8000, ge=16)
    vectors: str | None = None
    """words: path of a GloVe or fastText text file. teacher: "copy" or "project" its word embeddings."""
    source: str | None = None
    """teacher: the tokenizer's folder, alias or hub id; None: the first Hugging Face teacher."""


HeadName = Literal["auto", "linear", "pair", "biattention", "san", "ranking"]


class HeadOptions(Section):
    """How a task's answer is read off the student's features."""

    name: HeadName | None = None
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """On the features that the output layer reads."""
    hidden: int | None = Field(default=None, ge=1)
    """Width of a ReLU layer before the output layer (Tang et al.: 200); None: there is none."""
    width: int | None = Field(default=None, ge=1)
    """biattention: features of each direction of the integrator; None: half the student's width. san: of its memory."""
    shared: bool | None = None
    """biattention: whether tasks share the attention and the integrator."""
    steps: int | None = Field(default=None, ge=1)
    """san: reasoning steps."""
    step_dropout: float | None = Field(default=None, ge=0, lt=1)
    """san: probability that a step's prediction is left out in training."""
    gamma: float | None = Field(default=None, gt=0)
    """ranking: what a candidate's relevance is multiplied by."""
    positive: str | None = None
    """ranking: the label of a relevant candidate; None: the first label."""


class Heads(HeadOptions):
    """`heads:`; `tasks:` overrides it for single tasks."""

    name: HeadName = "auto"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    shared: bool = True
    steps: int = Field(default=5, ge=1)
    step_dropout: float = Field(default=0.1, ge=0, lt=1)
    gamma: float = Field(default=1.0, gt=0)
    tasks: dict[str, HeadOptions] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("tasks"), dict):
            value = {**value, "tasks": {canonical_name(str(k)): v for k, v in value["tasks"].items()}}
        return value

    def of(self, task: str) -> HeadOptions:
        """All options of a task's head."""
        own = self.tasks.get(task, HeadOptions())
        names = HeadOptions.model_fields
        return HeadOptions(**{n: getattr(self, n) if getattr(own, n) is None else getattr(own, n) for n in names})
