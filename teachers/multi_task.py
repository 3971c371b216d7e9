"""Joint fine-tuning: one encoder on the gold labels of several tasks, with a head a task, as MT-DNN trains its own.

Source: Liu, He, Chen and Gao 2019 (arXiv:1901.11504), section 3; such a model, trained on the tasks at hand, is the
teacher of MKD (arXiv:1911.03588) and, fine-tuned on each task afterwards, a teacher of MT-DNN-KD (arXiv:1904.09482).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kdtoolkit import processes
from kdtoolkit.data.rows import Rows
from kdtoolkit.errors import InputError
from kdtoolkit.files import atomic_folder
from kdtoolkit.hub import quiet
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.progress import log
from kdtoolkit.recipe.schema import Objective
from kdtoolkit.tasks import Task
from kdtoolkit.training import fit

from .checkpoint import HEADS, Checkpoint, head_dropout
from .classifier import SharedEncoder
from .fine_tuning import for_training, is_finished, refuse_layer_decay, training_key
from .gold_batches import GoldBatches, GoldRows, labelled_rows, scale
from .label_map import LabelMap
from .sequences import Reader, read_rows
from .settings import Settings
from .task_heads import HeadRecord, load, refuse_unread, section_of, to_go_on_from


def fine_tune_jointly(
    base: Checkpoint,
    reader: Reader,
    tasks: Mapping[str, Task],
    rows: Mapping[str, Rows],
    folder: Path,
    settings: Settings,
    *,
    seed: int,
    head: str,
    heads: Mapping[str, HeadRecord] | None = None,
    refined: LabelMap | None = None,
) -> None:
    """Trains the encoder of `base` and a head a task on the labelled rows of all tasks.

    heads: of each task; None: a linear one each. refined: `base` is trained on several tasks together, and is refined
    on the one that is given, from its head for it or, with the head "new", from a fresh one; of which columns the
    task's labels are there.
    `folder` then is a plain Hugging Face encoder with `HEADS` beside it, weight.TASK and bias.TASK and what else a head
    has, whose config.json names the tasks, their labels and their `heads`; regression heads give values in the labels'
    unit. Until it is finished, `folder` holds the checkpoints and tokens of this very training, from which a restart
    resumes, bit for bit.
    Fresh heads' weights, the batches and the dropout are functions of the seed.
    """
    listed = list(tasks.values())
    labels = {task.name: rows[task.name].labels() for task in listed}
    for task in listed:
        if not len(labelled_rows(labels[task.name])):
            remedy = "give labels, or leave the task out of the recipe"
            raise InputError(base.place, f"there are no labelled rows of '{task.name}' to train it on", remedy)
    if heads is not None:
        refuse_unread(heads, listed, reader, base.place)
    goes_on = refined is not None and head != "new"
    facts = {} if heads is None else {"heads": heads, "goes_on": goes_on}
    key = training_key(base, reader, listed, [rows[task.name] for task in listed], settings, seed, facts)
    if is_finished(folder, key):
        return
    work = folder / f"unfinished-{key[:16]}"
    gold = []
    for task in listed:
        with processes.first_then_all():
            place = work / f"tokens-{task.name}"
            sequences = read_rows(rows[task.name], reader, place, f"tokens of {task.name} for the teacher")
        gold.append(GoldRows(sequences, labels[task.name]))
    batches = GoldBatches(gold, reader.pad_id)
    plan = settings.plan(batches.lengths, seed=seed)
    scaling = [
        scale(some.labels[some.labelled]) if task.kind == "regression" else (0.0, 1.0)
        for task, some in zip(listed, gold)
    ]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = _config(base, reader, listed, settings, key, head)
        if heads is not None:
            config.kdtoolkit |= {"heads": dict(heads)} | ({"refined": True} if refined is not None else {})
        model = SharedEncoder(
            base.load_encoder(config),
            listed,
            dropout=head_dropout(config) if heads is None else 0.0,  # else each head has its own rate
            mixed=settings.batch == "mixed",
            heads=None if heads is None else section_of(heads),
        )
    if refined is not None and goes_on:
        load(model, to_go_on_from(base, listed[0], refined, scaling[0]), base)
    refuse_layer_decay(base, model, settings)
    what = f"one teacher of {len(listed)} tasks" if refined is None else f"the teacher of {listed[0].name}"
    report = fit(
        model,
        batches,
        plan,
        DistillationObjective(listed, Objective(alpha=1.0), steps=plan.steps, gold_only=True, scaling=scaling),
        optimizer=settings.optimizer_section(),
        train=settings.train_section(),
        seed=seed,
        checkpoints=work / "checkpoints",
        description=f"fine-tuning {what}",
    )
    log.info("teacher of %s: %d steps in %.0f s", ", ".join(tasks), report.steps, report.seconds)
    model.to("cpu")
    with processes.first_then_all():
        if not processes.is_first():
            return
        with atomic_folder(folder) as temporary, quiet():
            model.encoder.save_pretrained(temporary, max_shard_size="100GB")
            save_file(_heads(model, listed, scaling), temporary / HEADS)
            reader.save(temporary)


def _config(base: Checkpoint, reader: Reader, tasks: list[Task], settings: Settings, key: str, head: str) -> Any:
    config = deepcopy(base.config)
    named = {task.name: {"kind": task.kind, "labels": list(task.labels)} for task in tasks}
    config.kdtoolkit = {"tasks": named, "head": head, "key": key}
    return for_training(config, reader, settings)


def _heads(model: SharedEncoder, tasks: list[Task], scaling: list[tuple[float, float]]) -> dict[str, torch.Tensor]:
    """The heads by name, with the labels' unit in those of regressions."""
    tensors = dict(model.heads.state_dict())
    for task, (mean, deviation) in zip(tasks, scaling):
        weight, bias = f"weight.{task.name}", f"bias.{task.name}"
        tensors[weight], tensors[bias] = tensors[weight] * deviation, tensors[bias] * deviation + mean
    return tensors
