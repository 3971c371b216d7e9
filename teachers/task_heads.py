"""Heads that a jointly trained teacher has in place of a linear one a task: what is asked for, kept and rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdtoolkit.errors import InputError, InputErrors, WorkError
from kdtoolkit.recipe.checks.heads import OPTIONS
from kdtoolkit.recipe.checks.teacher_heads import of_task, parsed
from kdtoolkit.recipe.schema import HeadOptions, Heads
from kdtoolkit.tasks import Task

from .checkpoint import Checkpoint, head_dropout
from .classifier import SharedEncoder
from .label_map import LabelMap

HeadRecord = dict[str, Any]
"""Name and options of one task's head, as config.json has them."""


def asked(section: Mapping[str, Any] | None, place: str) -> Heads | None:
    """The option `heads` as the section of a recipe that it is. Raises InputErrors."""
    if section is None:
        return None
    heads, wrong = parsed(section)
    if wrong:
        raise InputErrors(place, [f"{'.'.join(('heads', *map(str, p.path)))}: {p.message}" for p in wrong])
    return heads


def refuse(heads: Heads, task: Task, place: str) -> None:
    """Raises InputError for a head that the teacher cannot have for the task."""
    for problem in of_task(heads, task):
        raise InputError(f"{place}: {'.'.join(('heads', *map(str, problem.path)))}", problem.message)


def records(heads: Heads, tasks: Sequence[Task], config: Any) -> dict[str, HeadRecord]:
    """By task, its head with all that it reads. config: of the encoder, whose rate counts where `heads` says none."""
    if "dropout" not in heads.model_fields_set:
        heads = heads.model_copy(update={"dropout": head_dropout(config)})
    return {task.name: _record(heads.of(task.name)) for task in tasks}


def _record(options: HeadOptions) -> HeadRecord:
    name = str(options.name)
    return {"name": name, **options.model_dump(include=set(OPTIONS[name]), exclude_none=True)}


def section_of(found: Mapping[str, HeadRecord]) -> Heads:
    """The section that says what the records say."""
    return Heads(tasks={task: HeadOptions(**record) for task, record in found.items()})


def refuse_unread(found: Mapping[str, HeadRecord], tasks: Sequence[Task], reader: Any, place: str) -> None:
    """Raises InputError where a head reads two texts, and there is one, or a text of which nothing may be left."""
    for task in tasks:
        if found[task.name]["name"] != "san":
            continue
        if not task.pair:
            cause = f"task '{task.name}': 'san' reasons from one text to another, and the task has one"
            raise InputError(f"{place}: heads", cause, f"set heads.tasks.{task.name}.name: auto")
        if reader.marks < 2:
            cause = "'san' reads each text of a pair with a mark beside it, and the tokenizer sets too few"
            raise InputError(f"{place}: heads", cause, "leave it out")


def trained_head(checkpoint: Checkpoint, task: str, encoder: Any) -> SharedEncoder:
    """`encoder` under the head of one of the tasks that `checkpoint` has records of, as training left it."""
    facts, record = checkpoint.joint_tasks[task], checkpoint.heads[task]
    pair = True if record["name"] == "san" else None
    known = Task(task, kind=facts["kind"], labels=tuple(facts["labels"]), pair=pair)
    section = section_of({task: record})
    with torch.random.fork_rng(devices=()):
        model = SharedEncoder(encoder, [known], dropout=0.0, mixed=False, heads=section)
    load(model, checkpoint.head_tensors(task), checkpoint)
    return model


def load(model: SharedEncoder, tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Puts the tensors of a task's head, which `checkpoint` has, into the model of that task."""
    try:
        model.heads.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise WorkError(f"{checkpoint.folder}: its heads are not those of its config.json; make it again") from error


def to_go_on_from(
    checkpoint: Checkpoint, task: Task, labels: LabelMap, scaling: tuple[float, float]
) -> dict[str, Tensor]:
    """The tensors of a trained head as training has them: in the order of the task's labels, without a unit.

    scaling: mean and standard deviation of the regression's labels that it will be trained on.
    """
    tensors = checkpoint.head_tensors(task.name)
    weight, bias = f"weight.{task.name}", f"bias.{task.name}"
    columns = [column for group in labels.columns for column in group]
    mean, deviation = scaling
    tensors[weight] = tensors[weight][columns] / deviation
    tensors[bias] = (tensors[bias][columns] - mean) / deviation
    return tensors
