"""Fine-tuning of a Hugging Face checkpoint on gold labels, with the core's loop, into a plain Hugging Face folder."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState

from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.data.collate import Batch
from kdtoolkit.data.rows import Rows
from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.files import atomic_folder, read_json
from kdtoolkit.hub import quiet
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.progress import log
from kdtoolkit.recipe.schema import Objective, Optimizer, Train
from kdtoolkit.tasks import Task
from kdtoolkit.training import fit

from .checkpoint import Checkpoint, output_layer, set_dropout
from .classifier import Classifier
from .sequences import Reader, SequenceFile, padded, read_rows

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multilabel": "multi_label_classification",
}


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is fine-tuned; Devlin et al. 2019 (arXiv:1810.04805), appendix A.3, have these ranges."""

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

    def optimizer(self) -> Optimizer:
        """The recipe section that the loop reads."""
        return Optimizer(
            learning_rate=self.learning_rate, warmup_fraction=self.warmup_fraction, weight_decay=self.weight_decay
        )

    def train(self) -> Train:
        """The recipe section that the loop reads."""
        return Train(
            epochs=self.epochs,
            batch_rows=self.batch_rows,
            accumulate=self.accumulate,
            precision=self.precision,
            checkpoint_every_steps=self.checkpoint_every_steps,
            threads=self.threads,
        )


def fine_tune(
    base: Checkpoint, reader: Reader, task: Task, rows: Rows, folder: Path, settings: Settings, *, seed: int, head: str
) -> None:
    """Trains a fresh head and the encoder of `base` on the labelled rows; `folder` then is a checkpoint of its own.

    Until it is finished, `folder` holds the checkpoints and tokens of this very training (base, settings, rows, seed),
    from which a restart resumes; a finished folder of the same training is left as it is.
    The head's weights and the dropout are functions of the seed. A regression head gives values in the labels' unit.
    """
    labels = rows.labels()
    labelled = np.flatnonzero(np.isfinite(labels if labels.ndim == 1 else labels[:, 0]))
    if not len(labelled):
        raise InputError(base.place, f"there are no labelled rows of '{task.name}' to fine-tune it on")
    key = _key(base, reader, task, rows, labels, settings, seed)
    if (folder / "config.json").is_file() and read_json(folder / "config.json").get("kdtoolkit", {}).get("key") == key:
        return
    process = PartialState(cpu=not torch.cuda.is_available())
    work = folder / f"unfinished-{key[:16]}"
    with process.main_process_first():
        sequences = read_rows(rows, reader, work / "tokens", f"tokens of {task.name} for the teacher")
    mean, deviation = _scale(labels[labelled]) if task.kind == "regression" else (0.0, 1.0)
    plan = BatchPlan(
        [len(labelled)],
        [sequences.lengths[labelled]],
        batch_rows=settings.batch_rows,
        accumulate=settings.accumulate,
        epochs=settings.epochs,
        seed=seed,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = base.load(_config(base, reader, task, settings, key, head), fresh_head=True)
    report = fit(
        Classifier(model),
        _Collate(sequences, labels, labelled, reader.pad_id),
        plan,
        DistillationObjective(
            [task], Objective(alpha=1.0), steps=plan.steps, gold_only=True, scaling=[(mean, deviation)]
        ),
        optimizer=settings.optimizer(),
        train=settings.train(),
        seed=seed,
        checkpoints=work / "checkpoints",
        description=f"fine-tuning the teacher of {task.name}",
    )
    log.info("teacher of %s: %d steps in %.0f s", task.name, report.steps, report.seconds)
    if task.kind == "regression":
        _fold_scale(model, mean, deviation)
    if process.is_main_process:
        model.to("cpu")
        with atomic_folder(folder) as temporary, quiet():
            model.save_pretrained(temporary, max_shard_size="100GB")
            reader.save(temporary)
    process.wait_for_everyone()


class _Collate:
    """Row numbers of the plan to a batch; the plan numbers the labelled rows alone."""

    def __init__(self, sequences: SequenceFile, labels: np.ndarray, labelled: np.ndarray, pad_id: int) -> None:
        self.sequences, self.labels, self.labelled, self.pad_id = sequences, labels, labelled, pad_id

    def __call__(self, indices: np.ndarray) -> Batch:
        rows = self.labelled[indices]
        labels = torch.from_numpy(np.ascontiguousarray(self.labels[rows], np.float32))
        multilabel = labels.ndim == 2
        return Batch(
            tokens=padded([self.sequences[row] for row in rows], self.pad_id),
            first=torch.arange(len(rows)),
            second=None,
            tasks=torch.zeros(len(rows), dtype=torch.int64),
            labels=torch.full((len(rows),), float("nan")) if multilabel else labels,
            targets=labels if multilabel else None,
            teacher=None,
        )


def _config(base: Checkpoint, reader: Reader, task: Task, settings: Settings, key: str, head: str) -> Any:
    config = deepcopy(base.config)
    names = list(task.labels) or ["score"]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: column for column, name in enumerate(names)}
    config.problem_type = PROBLEM_TYPES[task.kind]
    config.kdtoolkit = {"task": task.name, "kind": task.kind, "labels": list(task.labels), "head": head, "key": key}
    if config.pad_token_id is None:
        config.pad_token_id = reader.pad_id
    if settings.dropout is not None:
        set_dropout(config, settings.dropout)
    return config


def _key(
    base: Checkpoint, reader: Reader, task: Task, rows: Rows, labels: np.ndarray, settings: Settings, seed: int
) -> str:
    digest = blake2b(digest_size=16)
    options = {k: v for k, v in asdict(settings).items() if k not in ("checkpoint_every_steps", "threads")}
    facts = {
        "base": base.digest(),
        "max_tokens": reader.max_tokens,
        "task": task.to_dict(),
        "settings": options,
        "seed": seed,
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(rows.ids()).tobytes())
    digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()


def _scale(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the labels; 1 where they are all equal."""
    deviation = float(values.std(dtype=np.float64))
    return float(values.mean(dtype=np.float64)), deviation if deviation > 1e-6 else 1.0


@torch.no_grad()
def _fold_scale(model: Any, mean: float, deviation: float) -> None:
    """Puts the labels' unit into the last layer, so that the saved model gives it without knowing of a scale."""
    layer = output_layer(model, 1)
    if layer is None or layer.bias is None:
        raise WorkError(f"{type(model).__name__} has no linear output layer with a bias: it cannot learn a regression")
    layer.weight.mul_(deviation)
    layer.bias.mul_(deviation).add_(mean)
