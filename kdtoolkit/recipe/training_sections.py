"""`objective:`, `sampler:`, `balance:`, `optimizer:`, `train:`, `refine:`, `evaluate:`: training and measuring."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..schedule import Value
from ..tasks import canonical_name
from .base import OpenSection, Section

ObjectiveKind = Literal["ce", "kl", "rkl", "jsd", "tvd", "mse", "mse_centered"]


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


class TermSection(OpenSection):
    """One further term of the loss, beside the soft and the gold part; further keys are its own options."""

    name: str
    weight: Value = 1.0
    tasks: list[str] | None = None
    """The tasks that have it; None: all that have a teacher."""

    @model_validator(mode="after")
    def _canonical(self) -> TermSection:
        if self.tasks is not None:
            self.tasks = [canonical_name(task) for task in self.tasks]
        return self


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
    terms: list[TermSection] = Field(default=[])
    """What else is learned from the teacher: its hidden states, relations between rows, and so on."""
    hidden_states: Literal["stored", "live"] = "stored"
    """Whether the teacher's hidden states are read from the store, or computed anew in every step."""
    tasks: dict[str, ObjectiveOptions] = Field(default={})

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
    cap: int | None = Field(default=None, ge=1)
    """Rows of a task beyond so many do not enlarge its share (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2)."""
    batch: Literal["one_task", "mixed"] = "one_task"


class Balance(Section):
    """How the tasks' losses, or their gradients, are weighed against each other."""

    weights: Literal["fixed", "uncertainty", "dwa"] = "fixed"
    """objective.weight alone; or learned (Kendall et al. 2018, arXiv:1705.07115), or by the losses' rate of descent
    (DWA: Liu et al. 2019, arXiv:1803.10704), both times objective.weight."""
    temperature: float = Field(default=2.0, gt=0)
    """dwa: of its softmax."""
    gradients: Literal["sum", "pcgrad"] = "sum"
    """pcgrad: conflicting gradients of tasks are projected (Yu et al. 2020, arXiv:2001.06782)."""


class Optimizer(Section):
    """An optimizer of torch, with linear warm-up, then decay."""

    name: Literal["adamw", "adamax", "adadelta", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    decay: Literal["linear", "cosine", "none"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    rho: float = Field(default=0.95, gt=0, lt=1)
    """adadelta."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """sgd."""
    bias_correction: bool = True
    """adamw, adamax: whether moments are corrected for their start at zero; BERT's and MT-DNN's own are not."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """A layer's learning rate is this to the power of its distance from the heads (BAM: 0.9); 1: the same for all."""
    max_norm: float | None = Field(default=1.0, gt=0)
    embeddings: Literal["auto", "dense", "sparse", "frozen"] = "auto"
    """Of the student's words. sparse: a step updates those it reads and the others make up for it when they are read,
    which gives the same weights up to rounding (adamw); auto: where that saves time; frozen: as they
    are."""


class Select(Section):
    """Keep the best weights, measured on the seeded slice of train that evaluate.calibration_rows keeps apart."""

    every_steps: int = Field(default=200, ge=1)


class Train(Section):
    """The loop."""

    epochs: float = Field(default=3, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    """At most so many optimizer steps, of student, baseline and refinement; schedules stretch over what is left."""
    joint: bool = True
    """One student over all tasks; false: one a task, each trained alone on the rows of its task."""
    batch_rows: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches of `batch_rows` per optimizer step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every_steps: int | None = Field(default=500, ge=1)
    log_every_steps: int = Field(default=20, ge=1)
    threads: int | None = Field(default=None, ge=1)
    """torch threads; None: 1 on a CPU, which is fastest for small students."""
    prefetch: int | None = Field(default=None, ge=0)
    """Batches that a thread makes ahead; None: 2 on a GPU, 0 on a CPU, where the loop makes some in a row."""
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none"
    """torch.compile of the student's encoder, in one of its modes; reduce-overhead: CUDA graphs."""
    select: Select | None = None
    parallel: Literal["auto", "rows", "trainings"] = "auto"
    """What several processes share out: the rows of every step, or whole trainings, each of which one process carries
    out alone, those of student and baseline, of the tasks of `refine` and of `joint: false`; auto: trainings where
    there is one for each process."""
    sharding: Literal["none", "fsdp"] = "none"
    """Of several processes: whether each has the whole model, or a part of its parameters, gradients and moments
    (FSDP: Zhao et al. 2023, arXiv:2304.11277)."""
    teacher_sharding: Literal["none", "fsdp"] = "none"
    """The same of the teachers that are asked in every step (objective.hidden_states: live)."""


class Refine(Section):
    """Per-task fine-tuning of the student after the joint stage."""

    epochs: float = Field(default=2, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    alpha: Value = 1.0
    """Weight of the gold part; 1: on gold labels alone, below: on all rows of the task, with the recipe's objective."""


class Evaluate(Section):
    """What is measured after training."""

    split: Literal["dev", "test"] = "dev"
    baseline: bool = True
    """Train the same student on gold labels only, with as many updates."""
    bootstrap: int = Field(default=1000, ge=0)
    calibration_rows: int = Field(default=500, ge=0)
    """At most so many gold rows of train (and at most a tenth) are kept apart to fit a temperature; 0: none."""
    latency: bool = True
