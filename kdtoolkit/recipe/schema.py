"""The recipe's keys, types, defaults and ranges. Every key that a user can write is in this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from ..errors import InputError
from ..schedule import Schedule, Value
from ..tasks import GLUE, Task, canonical_name
from .pretrained import with_words

ObjectiveKind = Literal["ce", "kl", "rkl", "jsd", "tvd", "mse", "mse_centered"]


class Section(BaseModel):
    """A mapping that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())


class OpenSection(BaseModel):
    """A mapping whose further keys are a plug-in's constructor arguments, checked against its signature."""

    model_config = ConfigDict(extra="allow", validate_default=True, allow_inf_nan=False, protected_namespaces=())

    @property
    def options(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})


class TaskSection(Section):
    """A user's own task; what is left out is found in the data."""

    name: str
    kind: Literal["classification", "regression", "multilabel"] = "classification"
    text: Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(default=[])
    label: str | None = None
    labels: list[str] = []
    metric: str | None = None
    metrics: list[str] = []
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


class TeacherSection(OpenSection):
    """One teacher, or one member of an ensemble. Further keys go to the teacher's class and its fine-tuning."""

    name: str
    tasks: list[str] | None = None
    """The tasks it teaches; None: all."""
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _canonical(self) -> TeacherSection:
        if self.tasks is not None:
            self.tasks = [canonical_name(task) for task in self.tasks]
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


class ObjectiveOptions(Section):
    """What the soft loss of a task is. Any number may be a schedule."""

    kind: ObjectiveKind | None = None
    temperature: Value | None = None
    alpha: Value | None = None
    """The weight of the gold part, everywhere."""
    beta: float | None = Field(default=None, gt=0, lt=1)
    """jsd: the weight of the teacher in the mixture."""
    weight: Value | None = None
    """The weight of the task in the sum over rows."""


class Objective(ObjectiveOptions):
    """`objective:`; `tasks:` overrides it for single tasks."""

    kind: ObjectiveKind = "ce"
    temperature: Value = 2.0
    alpha: Value = 0.5
    beta: float = Field(default=0.5, gt=0, lt=1)
    weight: Value = 1.0
    scale_T2: bool = True
    ensemble: Literal["probabilities", "logits"] = "probabilities"
    """Members of an ensemble are averaged as probabilities (MT-DNN-KD) or as logits (TextBrewer)."""
    tasks: dict[str, ObjectiveOptions] = {}

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("tasks"), dict):
            value = {**value, "tasks": {canonical_name(str(k)): v for k, v in value["tasks"].items()}}
        return value

    def of(self, task: str) -> dict[str, Any]:
        """kind, temperature, alpha, beta, weight of a task."""
        names = ("kind", "temperature", "alpha", "beta", "weight")
        own = self.tasks.get(task, ObjectiveOptions())
        return {n: getattr(self, n) if getattr(own, n) is None else getattr(own, n) for n in names}


class Sampler(Section):
    """Which rows an epoch visits: each task's share is its size to the power of `exponent`."""

    exponent: Value = 1.0
    batch: Literal["one_task", "mixed"] = "one_task"


class Optimizer(Section):
    """AdamW with linear warm-up, then decay."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    decay: Literal["linear", "cosine", "none"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    max_norm: float | None = Field(default=1.0, gt=0)


class Select(Section):
    """Keep the best weights, measured on the seeded slice of train that evaluate.calibration_rows keeps apart."""

    every_steps: int = Field(default=200, ge=1)


class Train(Section):
    """The loop."""

    epochs: float = Field(default=3, gt=0)
    batch_rows: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches of `batch_rows` per optimizer step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every_steps: int | None = Field(default=500, ge=1)
    log_every_steps: int = Field(default=20, ge=1)
    threads: int | None = Field(default=None, ge=1)
    """torch threads; None: 1 on a CPU, which is fastest for small students."""
    select: Select | None = None


class Refine(Section):
    """Per-task fine-tuning of the student after the joint stage."""

    epochs: float = Field(default=2, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)


class Evaluate(Section):
    """What is measured after training."""

    split: Literal["dev", "test"] = "dev"
    baseline: bool = True
    """Train the same student on gold labels only, with as many updates."""
    bootstrap: int = Field(default=1000, ge=0)
    calibration_rows: int = Field(default=500, ge=0)
    """At most so many gold rows of train (and at most a tenth) are kept apart to fit a temperature; 0: none."""
    latency: bool = True


class Recipe(Section):
    """A whole run. `kdtoolkit.Recipe.load(name_or_path)` reads one; docs/guide.md lists every key."""

    seed: int = Field(default=0, ge=0)
    tasks: list[str | TaskSection] = Field(min_length=1)
    data: Data = Data()
    teachers: list[TeacherSection] = []
    student: StudentSection = StudentSection()
    tokenizer: TokenizerSection = TokenizerSection()
    objective: Objective = Objective()
    sampler: Sampler = Sampler()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    refine: Refine | None = None
    augment: None = None
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


__all__ = ["Data", "Evaluate", "Objective", "ObjectiveOptions", "Optimizer", "Recipe", "Refine", "Sampler", "Schedule",
           "Select", "StudentSection", "TaskData", "TaskSection", "TeacherSection", "TokenizerSection",
           "Train", "spelled_out"]  # fmt: skip
