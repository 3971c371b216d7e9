"""Fine-tuning of a Hugging Face checkpoint on gold labels, with the core's loop, into a plain Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdtoolkit import processes
from kdtoolkit.data.rows import Rows
from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.files import atomic_folder, read_json
from kdtoolkit.hub import quiet
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.progress import log
from kdtoolkit.recipe.schema import Objective
from kdtoolkit.tasks import Task
from kdtoolkit.training import fit

from .checkpoint import Checkpoint, output_layer, set_dropout
from .classifier import Classifier, SharedEncoder
from .gold_batches import GoldBatches, GoldRows, labelled_rows, scale
from .sequences import Reader, read_rows
from .settings import Settings

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multilabel": "multi_label_classification",
}


def fine_tune(
    base: Checkpoint, reader: Reader, task: Task, rows: Rows, folder: Path, settings: Settings, *, seed: int, head: str
) -> None:
    """Trains a fresh head and the encoder of `base` on the labelled rows; `folder` then is a checkpoint of its own.

    Until it is finished, `folder` holds the checkpoints and tokens of this very training (base, settings, rows, seed),
    from which a restart resumes; a finished folder of the same training is left as it is.
    The head's weights and the dropout are functions of the seed. A regression head gives values in the labels' unit.
    """
    labels = rows.labels()
    labelled = labelled_rows(labels)
    if not len(labelled):
        raise InputError(base.place, f"there are no labelled rows of '{task.name}' to fine-tune it on")
    key = training_key(base, reader, [task], [rows], settings, seed)
    if is_finished(folder, key):
        return
    work = folder / f"unfinished-{key[:16]}"
    with processes.first_then_all():
        sequences = read_rows(rows, reader, work / "tokens", f"tokens of {task.name} for the teacher")
    mean, deviation = scale(labels[labelled]) if task.kind == "regression" else (0.0, 1.0)
    batches = GoldBatches([GoldRows(sequences, labels)], reader.pad_id)
    plan = settings.plan(batches.lengths, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = base.load(_config(base, reader, task, settings, key, head), fresh_head=True)
    classifier = Classifier(model)
    refuse_layer_decay(base, classifier, settings)
    report = fit(
        classifier,
        batches,
        plan,
        DistillationObjective(
            [task], Objective(alpha=1.0), steps=plan.steps, gold_only=True, scaling=[(mean, deviation)]
        ),
        optimizer=settings.optimizer_section(),
        train=settings.train_section(),
        seed=seed,
        checkpoints=work / "checkpoints",
        description=f"fine-tuning the teacher of {task.name}",
    )
    log.info("teacher of %s: %d steps in %.0f s", task.name, report.steps, report.seconds)
    if task.kind == "regression":
        _fold_scale(model, mean, deviation)
    model.to("cpu")
    with processes.first_then_all():
        if not processes.is_first():
            return
        with atomic_folder(folder) as temporary, quiet():
            model.save_pretrained(temporary, max_shard_size="100GB")
            reader.save(temporary)


def _config(base: Checkpoint, reader: Reader, task: Task, settings: Settings, key: str, head: str) -> Any:
    config = deepcopy(base.config)
    names = list(task.labels) or ["score"]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: column for column, name in enumerate(names)}
    config.problem_type = PROBLEM_TYPES[task.kind]
    config.kdtoolkit = {"task": task.name, "kind": task.kind, "labels": list(task.labels), "head": head, "key": key}
    if base.joint_tasks:
        config.kdtoolkit["refined"] = True
    return for_training(config, reader, settings)


def for_training(config: Any, reader: Reader, settings: Settings) -> Any:
    """The config with what training needs: a padding token, and the dropout that was asked for."""
    if config.pad_token_id is None:
        config.pad_token_id = reader.pad_id
    if settings.dropout is not None:
        set_dropout(config, settings.dropout)
    return config


def training_key(
    base: Checkpoint,
    reader: Reader,
    tasks: Sequence[Task],
    rows: Sequence[Rows],
    settings: Settings,
    seed: int,
    further: Mapping[str, Any] | None = None,
) -> str:
    """Hex digits that change with whatever changes the weights that a training gives. further: facts of its own."""
    digest = blake2b(digest_size=16)
    facts = {
        "base": base.digest(),
        "max_tokens": reader.max_tokens,
        "task": tasks[0].to_dict() if len(tasks) == 1 else [task.to_dict() for task in tasks],
        "settings": settings.facts(),
        "seed": seed,
        **(further or {}),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for some in rows:
        digest.update(np.ascontiguousarray(some.ids()).tobytes())
        digest.update(np.ascontiguousarray(some.labels()).tobytes())
    return digest.hexdigest()


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the checkpoint of the training with this key."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("kdtoolkit", {}).get("key") == key


def refuse_layer_decay(base: Checkpoint, model: Classifier | SharedEncoder, settings: Settings) -> None:
    """Raises InputError where rates are to fall from layer to layer and the layers cannot be told apart."""
    if settings.layer_decay != 1.0 and not model.depths():
        cause = f"the layers of a {base.config.model_type} model cannot be told apart"
        raise InputError(f"{base.place}: layer_decay", cause, "leave it out")


@torch.no_grad()
def _fold_scale(model: Any, mean: float, deviation: float) -> None:
    """Puts the labels' unit into the last layer, so that the saved model gives it without knowing of a scale."""
    layer = output_layer(model, 1)
    if layer is None or layer.bias is None:
        raise WorkError(f"{type(model).__name__} has no linear output layer with a bias: it cannot learn a regression")
    layer.weight.mul_(deviation)
    layer.bias.mul_(deviation).add_(mean)
