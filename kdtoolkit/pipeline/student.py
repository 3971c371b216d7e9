"""Training a student: its tokens, its joint stage, its per-task refinement; baselines and joint teachers as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import nn

from ..data.batch_plan import BatchPlan
from ..data.collate import Batch, Collator, TaskArrays
from ..data.rows import Rows
from ..data.tokens import remap, tokenize_rows
from ..errors import InputError
from ..files import atomic_file, write_json
from ..objectives import DistillationObjective
from ..progress import log
from ..recipe import Recipe
from ..recipe.pretrained import from_teacher
from ..recipe.schema import Train
from ..student_folder import CONFIG, StudentConfig, build_model, load_student, save_student, student_config
from ..tasks import Task
from ..tokenizers import Tokenizer, build_tokenizer, compact
from ..training import FitReport, StudentModel, fit
from ..training.board import Board
from ..training.checkpoint import weights
from ..training.randomness import derived_seed, reseed
from .embedding import copy_vectors


@dataclass(frozen=True)
class StudentData:
    """The rows a student is trained on, as token arrays; `arrays` are in the order of `tasks`."""

    tasks: tuple[Task, ...]
    tokenizer: Tokenizer
    arrays: tuple[TaskArrays, ...]
    scaling: dict[str, tuple[float, float]]
    member_weights: tuple[tuple[float, ...], ...]
    teacher_source: str | None = None
    """Folder or hub id of the first Hugging Face teacher, for a student that starts from it."""

    @property
    def rows(self) -> int:
        """Rows of all tasks."""
        return sum(len(array.labels) for array in self.arrays)

    @property
    def scales(self) -> list[tuple[float, float]]:
        """(mean, standard deviation) of each task in order; (0, 1) where there is nothing to scale."""
        return [self.scaling.get(task.name, (0.0, 1.0)) for task in self.tasks]

    def collator(self, model: StudentModel, config: StudentConfig) -> Collator:
        """Batches of these rows as the model reads them."""
        return Collator(
            self.tasks, self.arrays, self.tokenizer.joint, pairs=model.student.pairs, max_tokens=config.max_tokens
        )

    def labelled(self, task: int | None = None) -> np.ndarray:
        """Global numbers of the rows that have a gold label, int64; of one task only, if asked."""
        found, offset = [], 0
        for position, array in enumerate(self.arrays):
            has_label = np.isfinite(array.labels if array.labels.ndim == 1 else array.labels[:, 0])
            if task is None or task == position:
                found.append(np.flatnonzero(has_label) + offset)
            offset += len(array.labels)
        return np.concatenate(found)


def tokenize(
    recipe: Recipe,
    tasks: Sequence[Task],
    rows: Mapping[str, Rows],
    folder: Path,
    *,
    teacher: Callable[[str], np.ndarray | None] = lambda task: None,
    teacher_source: str | None = None,
) -> StudentData:
    """Builds the tokenizer from the rows' text and tokenizes every row once, into `folder`; both are found again.

    teacher: a task's stored outputs, (rows, members, outputs) float32, NaN where a member says nothing.
    """
    tokenizer = build_tokenizer(
        recipe.tokenizer,
        lambda: _texts(rows),
        seed=recipe.seed,
        folder=folder / "tokenizer",
        teacher_source=teacher_source,
    )
    tokens = {
        task.name: tokenize_rows(
            rows[task.name], tokenizer, folder / f"tokens-{task.name}", max_tokens=recipe.data.max_tokens
        )
        for task in tasks
    }
    if tokenizer.vectors() is None:  # unseen pieces with pretrained vectors mean something too
        # Exact at weight decay 0, and nearly twice as fast: rows of the embedding that never occur never move.
        tokenizer = compact(tokenizer, np.sum([array.piece_counts for array in tokens.values()], axis=0))
        tokens = {name: remap(array, tokenizer, folder / f"tokens-{name}-compact") for name, array in tokens.items()}
    arrays, scaling = [], {}
    for task in tasks:
        labels, outputs = rows[task.name].labels(), teacher(task.name)
        arrays.append(TaskArrays(tokens[task.name], labels, outputs))
        if task.kind == "regression":
            scaling[task.name] = _scaling(labels, outputs)
    weights = tuple(tuple(s.weight for s in recipe.teachers_of(task.name)) for task in tasks)
    return StudentData(tuple(tasks), tokenizer, tuple(arrays), scaling, weights, teacher_source)


def train_student(
    recipe: Recipe,
    data: StudentData,
    *,
    checkpoints: Path,
    out: Path,
    board: Board,
    gold_only: bool = False,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    description: str = "distilling",
) -> FitReport:
    """The joint stage: trains one student over all tasks and writes its folder `out`.

    gold_only: the baseline: the same student and as many updates, on the rows that have gold labels, without teachers.
    """
    model, config = new_student(recipe, data)
    collator = data.collator(model, config)
    plan = _plan(recipe, data, None)
    if gold_only:
        gold = data.labelled()
        if not len(gold):
            raise InputError("evaluate.baseline", "no row has a gold label", "set evaluate.baseline to false")
        plan = _plan(recipe, data, gold, steps=plan.steps)
        collate: Callable[[np.ndarray], Batch] = lambda numbers: collator(gold[numbers])  # noqa: E731
    else:
        collate = collator
    objective = DistillationObjective(
        data.tasks,
        recipe.objective,
        steps=plan.steps,
        gold_only=gold_only,
        scaling=data.scales,
        member_weights=data.member_weights,
    )
    report = fit(
        model,
        collate,
        plan,
        objective,
        optimizer=recipe.optimizer,
        train=recipe.train,
        seed=derived_seed(recipe.seed, "student"),
        checkpoints=checkpoints,
        board=board,
        description=description,
        measure=measure,
    )
    save_student(out, model, config, data.tokenizer)
    return report


def refine_student(
    recipe: Recipe, data: StudentData, *, checkpoints: Path, out: Path, boards: Callable[[str], Board]
) -> int:
    """Fine-tunes the joint student in `out` on each task's gold labels, one copy a task; returns the row visits."""
    assert recipe.refine is not None
    refined, visits = [], 0
    for position, task in enumerate(data.tasks):
        gold = data.labelled(position)
        if not len(gold):
            log.info("%s has no gold labels: not refined", task.name)
            continue
        target = out / f"refined-{task.name}.safetensors"
        model, config, _ = load_student(out)
        if not target.is_file():
            collator = data.collator(model, config)
            train = recipe.train.model_copy(update={"epochs": recipe.refine.epochs, "select": None})
            optimizer = recipe.optimizer.model_copy(update={"learning_rate": recipe.refine.learning_rate})
            plan = _plan(recipe, data, gold, train=train)
            objective = DistillationObjective(
                data.tasks,
                recipe.objective,
                steps=plan.steps,
                gold_only=True,
                scaling=data.scales,
            )
            report = fit(
                model,
                lambda numbers, gold=gold, collator=collator: collator(gold[numbers]),  # type: ignore[misc]
                plan,
                objective,
                optimizer=optimizer,
                train=train,
                seed=derived_seed(recipe.seed, "refine", task.name),
                checkpoints=checkpoints / task.name,
                board=boards(task.name),
                description=f"refining {task.name}",
            )
            visits += report.rows
            with atomic_file(target) as temporary:
                save_file(weights(model), temporary)
        refined.append(task.name)
    _, config, _ = load_student(out)
    write_json(out / CONFIG, replace(config, refined=tuple(refined)).to_dict())
    return visits


def train_joint(
    tasks: Mapping[str, Task], rows: Mapping[str, Rows], recipe: Recipe, folder: Path, *, work: Path
) -> None:
    """Trains one model on the gold labels of several tasks and writes its student folder; restarted, it resumes."""
    data = tokenize(recipe, list(tasks.values()), rows, work)
    train_student(
        recipe,
        data,
        checkpoints=work / "checkpoints",
        out=folder,
        board=Board(None),
        gold_only=True,
        description="teaching",
    )


def new_student(recipe: Recipe, data: StudentData) -> tuple[StudentModel, StudentConfig]:
    """A fresh student and heads, the same for the same seed, with pretrained weights where the recipe asks for them."""
    config = student_config(
        from_teacher(recipe.student, data.teacher_source),
        data.tasks,
        vocab_size=len(data.tokenizer),
        max_tokens=recipe.data.max_tokens,
        mixed=recipe.sampler.batch == "mixed",
        scaling=data.scaling,
    )
    reseed(recipe.seed, "model")
    model = build_model(config)
    reseed(recipe.seed, "initialise")
    model.student.initialise()
    if recipe.tokenizer.vectors is not None:
        copy_vectors(model.student, data.tokenizer, recipe.tokenizer.vectors)
    return model, config


def _plan(
    recipe: Recipe,
    data: StudentData,
    chosen: np.ndarray | None,
    *,
    steps: int | None = None,
    train: Train | None = None,
) -> BatchPlan:
    train = train or recipe.train
    lengths = [array.tokens.lengths() for array in data.arrays]
    if chosen is not None:
        bounds = np.cumsum([0, *(len(some) for some in lengths)])
        cuts = np.searchsorted(chosen, bounds)
        lengths = [
            some[chosen[low:high] - bound] for some, bound, low, high in zip(lengths, bounds, cuts[:-1], cuts[1:])
        ]
    sizes = [len(some) for some in lengths]
    epochs = train.epochs
    if steps is not None:
        # Half a step less, so that rounding up gives just `steps`.
        epochs = (steps - 0.5) / max(1, -(-sum(sizes) // (train.batch_rows * train.accumulate)))
    return BatchPlan(
        sizes,
        lengths,
        batch_rows=train.batch_rows,
        accumulate=train.accumulate,
        epochs=epochs,
        seed=derived_seed(recipe.seed, "plan"),
        exponent=recipe.sampler.exponent,
        batch=recipe.sampler.batch,
    )


def _scaling(labels: np.ndarray, outputs: np.ndarray | None) -> tuple[float, float]:
    for said in (labels, outputs):
        values = np.empty(0) if said is None else said[np.isfinite(said)].astype(np.float64)
        # Values that are all equal have no scale, and dividing by almost nothing would blow up all others.
        if len(values) > 1 and values.std() > 1e-6:
            return float(values.mean()), float(values.std())
    known = labels[np.isfinite(labels)]
    return (float(known.mean()), 1.0) if len(known) else (0.0, 1.0)


def _texts(rows: Mapping[str, Rows], chunk: int = 4096) -> Iterator[str]:
    for some in rows.values():
        for start in range(0, len(some), chunk):
            first, second = some.texts(start, min(start + chunk, len(some)))
            yield from first
            if second is not None:
                yield from second
