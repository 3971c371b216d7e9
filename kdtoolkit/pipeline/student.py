"""Training a student: jointly or one a task, then its refinement; baselines and joint teachers as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.torch import save_file
from torch import nn

from .. import processes
from ..data.batch_plan import BatchPlan
from ..data.collate import Batch
from ..data.rows import Rows
from ..errors import InputError
from ..files import atomic_file, write_json
from ..heads import ranking_columns
from ..objectives import DistillationObjective
from ..objectives.further import FurtherTerm
from ..progress import log
from ..recipe import Recipe
from ..recipe.pretrained import from_teacher
from ..recipe.schema import Refine
from ..schedule import extremes
from ..student_folder import (
    CONFIG,
    StudentConfig,
    alone_weights,
    build_model,
    load_student,
    read_config,
    refined_weights,
    save_student,
    student_config,
)
from ..tasks import Task
from ..training import FitReport, StudentModel, fit
from ..training.board import Board
from ..training.checkpoint import weights
from ..training.randomness import derived_seed, reseed
from .embedding import copy_vectors
from .features import shard_teachers
from .student_data import StudentData, tokenize
from .terms import attached, further_terms
from .trainings import Training, Trainings, all_of

Boards = Callable[[str], Board]
"""Where to log: by the name of a task, "" for a joint student."""


NOTHING = FitReport(steps=0, first_step=0, rows=0, seconds=0.0, cpu_seconds=0.0)
"""Of a training that was finished before."""


class Measure(Protocol):
    """Figures on rows held out of train, by TensorBoard tag (`held_out.HeldOut`)."""

    def __call__(self, model: nn.Module) -> dict[str, float]: ...

    def only(self, task: str) -> Measure | None:
        """The figures of one task; None: it has no such rows."""


def student_trainings(
    recipe: Recipe,
    data: StudentData,
    *,
    checkpoints: Path,
    out: Path,
    boards: Boards,
    gold_only: bool = False,
    measure: Measure | None = None,
    description: str = "distilling",
) -> Trainings:
    """The training of one student over all tasks, which leaves its folder `out`.

    With `train.joint: false` every task has a student of its own instead, trained on its rows alone, all from the same
    initial weights; they share the folder, as refined students do.
    gold_only: the baseline: the same student and as many updates, on the rows that have gold labels, without teachers.
    All processes call this at the same place.
    """
    if not recipe.train.joint and len(data.tasks) > 1:
        return _one_a_task(recipe, data, checkpoints, out, boards, gold_only, measure, description)

    def run() -> FitReport:
        model, config = new_student(recipe, data)
        report = _train(
            recipe, data, model, config, None,
            seed=derived_seed(recipe.seed, "student"), gold_only=gold_only, checkpoints=checkpoints, board=boards(""),
            measure=measure, description=description, steps=_plan(recipe, data, data.numbers()).steps,
        )  # fmt: skip
        _save(out, model, config, data)
        return report

    return Trainings([Training(description, data.rows, run)], lambda reports: reports[0])


def refinements(
    recipe: Recipe, data: StudentData, *, checkpoints: Path, out: Path, boards: Boards, gold_only: bool = False
) -> Trainings:
    """The fine-tuning of the student in `out` for each task, one copy a task.

    On the task's gold labels alone; with `refine.alpha` below 1 on all of its rows, unless `gold_only`.
    All processes call this at the same place.
    """
    assert recipe.refine is not None
    gold_only = gold_only or extremes(recipe.refine.alpha)[0] >= 1
    recipe = _refining(recipe, recipe.refine)
    config = replace(read_config(out), refined=())
    _write(out, config)  # each copy starts from what the stage before left, also on resuming

    def refined(position: int, task: Task) -> FitReport:
        target = out / refined_weights(task.name)
        if target.is_file():
            return NOTHING
        model, own, _ = load_student(out, task.name)
        report = _train(
            recipe, data, model, own, position,
            seed=derived_seed(recipe.seed, "refine", task.name), gold_only=gold_only,
            checkpoints=checkpoints / task.name, board=boards(task.name), description=f"refining {task.name}",
        )  # fmt: skip
        _save_weights(target, model)
        return report

    chosen = list(_with_gold(data, "not refined") if gold_only else enumerate(data.tasks))

    def finish(reports: Sequence[FitReport]) -> FitReport:
        _write(out, replace(config, refined=tuple(task.name for _, task in chosen)))
        return all_of(reports)

    return Trainings(_of_tasks("refining", data, chosen, refined), finish)


def _one_a_task(
    recipe: Recipe,
    data: StudentData,
    checkpoints: Path,
    out: Path,
    boards: Boards,
    gold_only: bool,
    measure: Measure | None,
    description: str,
) -> Trainings:
    """One student a task. What model.safetensors holds is their common start, which answers for no task."""
    model, config = new_student(recipe, data)
    config = _save(out, model, config, data)

    def run(position: int, task: Task) -> FitReport:
        target = out / alone_weights(task.name)
        steps = _plan(recipe, data, data.numbers(position)).steps
        if target.is_file():
            return replace(NOTHING, steps=steps, first_step=steps)
        model, fresh = new_student(recipe, data)
        own = None if measure is None else measure.only(task.name)
        report = _train(
            recipe if own is not None else _unselected(recipe), data, model, fresh, position,
            seed=derived_seed(recipe.seed, "student"), gold_only=gold_only,
            checkpoints=checkpoints / task.name, board=boards(task.name), measure=own,
            description=f"{description} {task.name}", steps=steps,
        )  # fmt: skip
        _save_weights(target, model)
        return report

    chosen = list(_with_gold(data, None) if gold_only else enumerate(data.tasks))

    def finish(reports: Sequence[FitReport]) -> FitReport:
        _write(out, replace(config, alone=tuple(task.name for _, task in chosen)))
        return all_of(reports)

    return Trainings(_of_tasks(description, data, chosen, run), finish)


def _of_tasks(
    description: str, data: StudentData, chosen: Sequence[tuple[int, Task]], run: Callable[[int, Task], FitReport]
) -> list[Training]:
    """`run` for each of the tasks, given with their positions."""
    rows = [len(data.numbers(position)) for position, _ in chosen]
    return [Training(f"{description} {task.name}", n, partial(run, at, task)) for n, (at, task) in zip(rows, chosen)]


def _with_gold(data: StudentData, without: str | None) -> Iterator[tuple[int, Task]]:
    """The tasks that have gold labels, with their positions. without: what the log says of the others."""
    for position, task in enumerate(data.tasks):
        if len(data.labelled(position)):
            yield position, task
        elif without is not None:
            log.info("%s has no gold labels: %s", task.name, without)


def _save(out: Path, model: StudentModel, config: StudentConfig, data: StudentData) -> StudentConfig:
    """Writes the student's folder, in the first process, and returns its config when it is there."""
    with processes.first_then_all():
        if processes.is_first():
            save_student(out, model, config, data.tokenizer)
        return read_config(out)


def _write(out: Path, config: StudentConfig) -> None:
    """Replaces the config of a student's folder, in the first process; returns when it is there."""
    with processes.first_then_all():
        if processes.is_first():
            write_json(out / CONFIG, config.to_dict())


def _save_weights(target: Path, model: StudentModel) -> None:
    """Writes weights, in the first process; returns when they are there."""
    with processes.first_then_all():
        if processes.is_first():
            with atomic_file(target) as temporary:
                save_file(weights(model), temporary)


def _train(
    recipe: Recipe,
    data: StudentData,
    model: StudentModel,
    config: StudentConfig,
    position: int | None,
    *,
    seed: int,
    gold_only: bool,
    checkpoints: Path,
    board: Board,
    description: str,
    measure: Measure | None = None,
    steps: int | None = None,
) -> FitReport:
    """Trains the model in place on the rows of all tasks, or of the one at `position`; resumes from `checkpoints`.

    gold_only: on those of them with a gold label. steps: None: as many as `train.epochs` over these rows are.
    """
    terms: list[FurtherTerm] = []
    if not gold_only:
        reseed(recipe.seed, "terms")
        terms = further_terms(recipe, model.student, data.tasks, data.shapes, only=position)
    taught = frozenset[int]().union(*(further.tasks for further in terms))
    collator = data.collator(model, config, features=taught)
    if terms and recipe.train.teacher_sharding == "fsdp":
        shard_teachers(data)
    rows = data.labelled(position) if gold_only else data.numbers(position)
    if not len(rows):
        raise InputError("evaluate.baseline", "no row has a gold label", "set evaluate.baseline to false")
    plan = _plan(recipe, data, rows, steps=steps)
    if plan.cut_groups:
        log.info("%s: %d queries have more than train.batch_rows candidates and are cut", description, plan.cut_groups)
    collate: Callable[[np.ndarray], Batch] = collator
    if len(rows) < data.rows:
        collate = lambda numbers: collator(rows[numbers])  # noqa: E731
    objective = DistillationObjective(
        data.tasks,
        recipe.objective,
        steps=plan.steps,
        gold_only=gold_only,
        scaling=data.scales,
        member_weights=data.member_weights,
        ranking=ranking_columns(data.tasks, recipe.heads),
        terms=terms,
    )
    with attached(model, terms):
        return fit(
            model,
            collate,
            plan,
            objective,
            optimizer=recipe.optimizer,
            train=recipe.train,
            balance=recipe.balance if position is None else None,  # one task alone has nothing to be balanced with
            seed=seed,
            checkpoints=checkpoints,
            board=board,
            description=description,
            measure=measure,
            together=collator.together,
        )


def _unselected(recipe: Recipe) -> Recipe:
    """The recipe without `train.select`."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"select": None})})


def _refining(recipe: Recipe, refine: Refine) -> Recipe:
    """The recipe with the refinement's epochs, learning rate and alpha in the place of its own."""
    objective = recipe.objective.model_copy(
        update={
            "alpha": refine.alpha,
            "tasks": {n: own.model_copy(update={"alpha": None}) for n, own in recipe.objective.tasks.items()},
        }
    )
    return recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update={"epochs": refine.epochs, "select": None}),
            "optimizer": recipe.optimizer.model_copy(update={"learning_rate": refine.learning_rate}),
            "objective": objective,
        }
    )


def train_joint(
    tasks: Mapping[str, Task], rows: Mapping[str, Rows], recipe: Recipe, folder: Path, *, work: Path
) -> None:
    """Trains one model on the gold labels of several tasks and writes its student folder; restarted, it resumes."""
    with processes.first_then_all():
        data = tokenize(recipe, list(tasks.values()), rows, work)
    student_trainings(
        recipe,
        data,
        checkpoints=work / "checkpoints",
        out=folder,
        boards=lambda _: Board(None),
        gold_only=True,
        description="teaching",
    ).carry_out(recipe.train)


def new_student(recipe: Recipe, data: StudentData) -> tuple[StudentModel, StudentConfig]:
    """A fresh student and heads, the same for the same seed, with pretrained weights where the recipe asks for them."""
    config = student_config(
        from_teacher(recipe.student, data.teacher_source),
        data.tasks,
        vocab_size=len(data.tokenizer),
        max_tokens=recipe.data.max_tokens,
        mixed=recipe.sampler.batch == "mixed",
        scaling=data.scaling,
        heads=recipe.heads,
    )
    reseed(recipe.seed, "model")
    model = build_model(config)
    reseed(recipe.seed, "initialise")
    model.student.initialise()
    if recipe.tokenizer.vectors is not None:
        copy_vectors(model.student, data.tokenizer, recipe.tokenizer.vectors)
    return model, config


def _plan(recipe: Recipe, data: StudentData, chosen: np.ndarray, *, steps: int | None = None) -> BatchPlan:
    """The batches over the global rows `chosen`, ascending, numbered by their place among them.

    steps: how many, whatever the epochs and `train.max_steps` are.
    """
    train = recipe.train
    lengths = [array.tokens.lengths() for array in data.arrays]
    bounds = np.cumsum([0, *(len(some) for some in lengths)])
    cuts = np.searchsorted(chosen, bounds)
    local = [chosen[low:high] - bound for bound, low, high in zip(bounds, cuts[:-1], cuts[1:])]
    lengths = [some[rows] for some, rows in zip(lengths, local)]
    groups = [None if array.groups is None else array.groups[rows] for array, rows in zip(data.arrays, local)]
    sizes = [len(some) for some in lengths]
    epochs, epoch_steps = train.epochs, max(1, -(-sum(sizes) // (train.batch_rows * train.accumulate)))
    # Half a step less, so that rounding up gives just so many.
    if steps is not None:
        epochs = (steps - 0.5) / epoch_steps
    elif train.max_steps is not None:
        epochs = min(epochs, (train.max_steps - 0.5) / epoch_steps)
    return BatchPlan(
        sizes,
        lengths,
        batch_rows=train.batch_rows,
        accumulate=train.accumulate,
        epochs=epochs,
        seed=derived_seed(recipe.seed, "plan"),
        exponent=recipe.sampler.exponent,
        cap=recipe.sampler.cap,
        groups=groups,
        batch=recipe.sampler.batch,
    )
