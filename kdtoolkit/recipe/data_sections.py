"""`tasks:`, `data:` and `augment:`: what is predicted, where the rows are, and what text is added to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from ..errors import InputError
from ..tasks import GLUE, Task, canonical_name
from .base import Section


class TaskSection(Section):
    """A user's own task; what is left out is found in the data."""

    name: str
    kind: Literal["classification", "regression", "multilabel"] = "classification"
    text: Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(default=[])
    label: str | None = None
    labels: list[str] = Field(default=[])
    metric: str | None = None
    metrics: list[str] = Field(default=[])
    head: Literal["auto", "linear", "pair"] = "auto"

    @model_validator(mode="after")
    def _spelled_out(self) -> TaskSection:
        """What a GLUE name or the kind implies is written down, so that a resolved recipe says all and stays equal."""
        try:
            task = self.task()
        except InputError as error:
            raise ValueError(error.cause + (f"; {error.remedy}" if error.remedy else "")) from error
        self.name, self.kind, self.text, self.label = task.name, task.kind, list(task.text), task.label
        self.labels, self.metric, self.metrics = list(task.labels), task.metric, list(task.metrics)
        return self

    def task(self) -> Task:
        """The task as the core knows it; a GLUE name supplies what is not said here."""
        name = canonical_name(self.name)
        said = self.model_fields_set
        base = GLUE.get(name, Task(name, kind=self.kind))
        changes: dict[str, Any] = {"head": self.head}
        if "kind" in said:
            changes |= {"kind": self.kind, "metric": "", "metrics": ()}
        if self.text:
            changes |= {"text": tuple(self.text), "pair": len(self.text) == 2}
        if self.label is not None:
            changes["label"] = self.label
        if self.labels:
            changes["labels"] = tuple(self.labels)
        if self.metric is not None:
            changes |= {"metric": self.metric, "metrics": ()}
        if self.metrics:
            changes["metrics"] = tuple(self.metrics)
            changes.setdefault("metric", self.metrics[0])
        return base.with_(**changes)


class TaskData(Section):
    """Where the rows of one task are, and how many of them are used."""

    hub: str | None = None
    """A data set on the Hugging Face hub: "owner/name", or "owner/name:configuration"."""
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    teacher: str | None = None
    """Rows that only the teacher is fine-tuned on; default: the gold rows of train."""
    transfer: str | None = None
    """More text without labels for the student."""
    text: Annotated[list[str] | None, BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = None
    label: str | None = None
    quoting: Literal["auto", "quoted", "plain"] = "auto"
    rows: int | None = Field(default=None, ge=1)
    """At most so many rows of train are read."""
    gold_rows: int | None = Field(default=None, ge=0)
    """The first so many rows of train keep their labels; None: all."""
    transfer_rows: int | None = Field(default=None, ge=0)
    """The next so many rows lose theirs; None: all the rest, if gold_rows is given."""
    both_orders: bool = False
    """A pair (a, b) of train is also trained on as (b, a), for tasks whose answer does not depend on the order."""

    @property
    def has_source(self) -> bool:
        """Whether the section itself says where train is."""
        return self.train is not None or self.hub is not None


class Data(Section):
    """`data:`; keys beside the fixed ones are names of tasks."""

    folder: str | None = None
    max_tokens: int = Field(default=64, ge=4)
    tasks: dict[str, TaskData] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _tasks_by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("tasks", {}), dict):
            return value
        fixed = {k: v for k, v in value.items() if k in ("folder", "max_tokens")}
        tasks = {k: v for k, v in value.items() if k not in fixed and k != "tasks"} | value.get("tasks", {})
        return {**fixed, "tasks": {canonical_name(str(k)): v for k, v in tasks.items()}}

    @model_serializer(mode="wrap")
    def _as_written(self, handler: Any) -> dict[str, Any]:
        """Tasks beside the fixed keys, as a recipe has them."""
        fields = handler(self)
        return {**{k: v for k, v in fields.items() if k != "tasks"}, **fields.get("tasks", {})}

    def task(self, name: str) -> TaskData:
        """The section of a task; its defaults if the recipe has none."""
        return self.tasks.get(name, TaskData())


class Augment(Section):
    """Generated text for the student, labelled by the teacher (Tang et al. 2019, arXiv:1903.12136, section 3.3)."""

    copies: int = Field(default=20, ge=1)
    """Tries per row of train; what repeats a text, or stands in a split that is measured, is dropped."""
    mask: float = Field(default=0.1, ge=0, le=1)
    """Probability that a word becomes `mask_token`."""
    replace: float = Field(default=0.1, ge=0, le=1)
    """Probability that a word becomes one drawn from those of its part of speech; never one that is masked."""
    ngram: float = Field(default=0.25, ge=0, le=1)
    """Probability that the text is then cut to one of its n-grams."""
    longest_ngram: int = Field(default=5, ge=1)
    both: float = Field(default=1 / 3, ge=0, le=1)
    """Probability that both texts of a pair are changed, and not one of them."""
    mask_token: str = "[MASK]"
    tagger: str = "induced"
    """Where parts of speech come from: "induced" from the text's own statistics, or "python:module:function"."""
    classes: int = Field(default=64, ge=2)
    """induced: number of word classes."""
    rows: int | None = Field(default=None, ge=1)
    """Most generated rows of a task, a seeded sample; None: all."""
    tasks: list[str] | None = None
    """The tasks whose text is augmented; None: all that have a teacher."""

    @model_validator(mode="after")
    def _canonical(self) -> Augment:
        if self.tasks is not None:
            self.tasks = [canonical_name(task) for task in self.tasks]
        return self
