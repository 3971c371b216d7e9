"""How a checkpoint is fine-tuned, on one task or on several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.recipe.schema import Optimizer, Train

UNSAID = ("checkpoint_every_steps", "threads")
"""What changes no weight, or none that anybody means to keep apart."""
ADDED = ("max_steps", "layer_decay", "optimizer", "epsilon", "bias_correction", "sampler_exponent", "batch")
"""Newer settings: at their defaults a training is the one it was before there were any."""


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is fine-tuned; Devlin et al. 2019 (arXiv:1810.04805), appendix A.3, have these ranges.

    sampler_exponent and batch are read where several tasks are trained together.
    """

    epochs: float = 3.0
    learning_rate: float = 5e-5
    batch_rows: int = 32
    accumulate: int = 1
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    dropout: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every_steps: int | None = 500
    threads: int | None = None
    max_steps: int | None = None
    layer_decay: float = 1.0
    optimizer: Literal["adamw", "adamax"] = "adamw"
    epsilon: float = 1e-8
    bias_correction: bool = True
    sampler_exponent: float = 1.0
    batch: Literal["one_task", "mixed"] = "one_task"

    def facts(self) -> dict[str, Any]:
        """What makes one training another, as plain values."""
        defaults = {field.name: field.default for field in fields(self) if field.name in ADDED}
        facts = {name: value for name, value in asdict(self).items() if name not in UNSAID}
        return {name: value for name, value in facts.items() if name not in defaults or value != defaults[name]}

    def optimizer_section(self) -> Optimizer:
        """The recipe section that the loop reads."""
        return Optimizer(
            name=self.optimizer,
            learning_rate=self.learning_rate,
            warmup_fraction=self.warmup_fraction,
            weight_decay=self.weight_decay,
            epsilon=self.epsilon,
            bias_correction=self.bias_correction,
            layer_decay=self.layer_decay,
        )

    def train_section(self) -> Train:
        """The recipe section that the loop reads."""
        return Train(
            epochs=self.epochs,
            batch_rows=self.batch_rows,
            accumulate=self.accumulate,
            precision=self.precision,
            checkpoint_every_steps=self.checkpoint_every_steps,
            threads=self.threads,
        )

    def plan(self, lengths: Sequence[np.ndarray], *, seed: int) -> BatchPlan:
        """The batches. lengths: of each task, the tokens of each row that is trained on, (rows,)."""
        rows = sum(len(of_task) for of_task in lengths)
        epochs = self.epochs
        if self.max_steps is not None:
            # Half a step less, so that rounding up gives just `max_steps`.
            epochs = min(epochs, (self.max_steps - 0.5) / -(-rows // (self.batch_rows * self.accumulate)))
        return BatchPlan(
            [len(of_task) for of_task in lengths],
            lengths,
            batch_rows=self.batch_rows,
            accumulate=self.accumulate,
            epochs=epochs,
            seed=seed,
            exponent=self.sampler_exponent,
            batch=self.batch,
        )
