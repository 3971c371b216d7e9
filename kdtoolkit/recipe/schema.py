"""The recipe: its sections, and what follows from them. Every key that a user can write is here or in *_sections.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ..schedule import Schedule
from ..tasks import GLUE, Task, canonical_name
from .base import OpenSection, Section
from .data_sections import Augment, Data, TaskData, TaskSection
from .model_sections import HeadOptions, Heads, StudentSection, TeacherSection, TokenizerSection
from .pretrained import with_words
from .training_sections import (
    Balance,
    Evaluate,
    Objective,
    ObjectiveKind,
    ObjectiveOptions,
    Optimizer,
    Refine,
    Sampler,
    Select,
    TermSection,
    Train,
)


class Recipe(Section):
    """A whole run. `kdtoolkit.Recipe.load(name_or_path)` reads one; docs/guide.md lists every key."""

    variant: str | None = None
    """The one of `variants` that was applied."""
    variants: dict[str, dict[str, Any]] = Field(default={})
    """By name, keys ("train.epochs") and the values that --set variant=NAME gives them; gone once it is resolved."""
    seed: int = Field(default=0, ge=0)
    tasks: list[str | TaskSection] = Field(min_length=1)
    data: Data = Data()
    teachers: list[TeacherSection] = Field(default=[])
    student: StudentSection = StudentSection()
    tokenizer: TokenizerSection = TokenizerSection()
    heads: Heads = Heads()
    objective: Objective = Objective()
    sampler: Sampler = Sampler()
    balance: Balance = Balance()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    refine: Refine | None = None
    augment: Augment | None = None
    evaluate: Evaluate = Evaluate()
    store: str | None = None
    """Folder of the label store and of fine-tuned teachers; None: $KDTOOLKIT_STORE, else ~/.cache/kdtoolkit."""

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, value: Any) -> Any:
        return spelled_out(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _canonical(self) -> Recipe:
        self.tasks = [canonical_name(item) if isinstance(item, str) else item for item in self.tasks]
        self.tokenizer = with_words(self.tokenizer, self.student, given="tokenizer" in self.model_fields_set)
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """The built-in recipe of that name, or a YAML file; overrides: "key.path=value". Raises InputErrors."""
        from .load import load_recipe

        return load_recipe(name_or_path, overrides=overrides)

    def task_list(self) -> list[Task]:
        """The tasks, in order, as far as the recipe alone tells (labels of own tasks come from the data)."""
        return [
            (GLUE.get(canonical_name(item)) or Task(canonical_name(item))) if isinstance(item, str) else item.task()
            for item in self.tasks
        ]

    def teachers_of(self, task: str) -> list[TeacherSection]:
        """The members that teach a task, in order."""
        return [t for t in self.teachers if t.tasks is None or task in t.tasks]


def spelled_out(value: dict[str, Any]) -> dict[str, Any]:
    """The mapping with the short forms of tasks, teachers, student and tokenizer written as sections."""
    value = dict(value)
    if isinstance(value.get("tasks"), str):
        value["tasks"] = [name.strip() for name in value["tasks"].split(",") if name.strip()]
    if isinstance(value.get("teachers"), (dict, str)):
        value["teachers"] = [value["teachers"]]
    if isinstance(value.get("teachers"), list):
        value["teachers"] = [{"name": t} if isinstance(t, str) else t for t in value["teachers"]]
    for key in ("student", "tokenizer"):
        if isinstance(value.get(key), str):
            value[key] = {"name": value[key]}
    return value


__all__ = [
    "Augment", "Balance", "Data", "Evaluate", "HeadOptions", "Heads", "Objective", "ObjectiveKind",
    "ObjectiveOptions", "OpenSection", "Optimizer", "Recipe", "Refine", "Sampler", "Schedule", "Section",
    "Select", "StudentSection", "TaskData", "TaskSection", "TeacherSection", "TermSection", "TokenizerSection",
    "Train", "spelled_out",
]  # fmt: skip
