"""The pre-flight's look at the student: it takes a few steps on a sample of the rows, and the rest is counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..data.prepare import TaskRows
from ..data.rows import Rows, write_rows
from ..recipe import Recipe
from ..recipe.schema import Train
from ..schedule import extremes
from ..teacher import Teacher
from ..training.board import Board
from .augmentation import mask_token
from .check_report import CheckReport
from .estimate import Length, duration, has_label, length, mean_tokens, memory_line, training_seconds, usual_rows
from .features import with_blank_states
from .student import new_student, student_trainings
from .student_data import StudentData, tokenize
from .teach import teacher_checkpoint
from .trial import FEW_ROWS, FEW_STEPS, HEAVY, Trial, Watch

SAMPLE_ROWS = 2000
DRY_STEPS = 12


def examine_student(
    recipe: Recipe,
    data: Mapping[str, TaskRows],
    generated: Mapping[str, int],
    teachers: Mapping[str, list[Teacher]],
    folder: Path,
    report: CheckReport,
) -> None:
    """Trains the student for a few steps, and estimates time and memory of all that is done with it.

    generated: rows that `augment` adds, by task. teachers: built, where the objective reads their hidden states.
    """
    spread = {name: _spread(rows.splits["train"]) for name, rows in data.items()}
    tokens = _tokens(recipe, data, spread, teachers, folder / "sample")
    _coverage(tokens, report)
    _mask(recipe, tokens, report)
    model, _ = new_student(recipe, tokens)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    lengths = {task.name: array.tokens.lengths() for task, array in zip(tokens.tasks, tokens.arrays)}
    row_tokens = {name: float(np.mean(of_task)) for name, of_task in lengths.items()}
    longest = max(int(of_task.max()) for of_task in lengths.values())
    dry: dict[str, object] = {"select": None, "checkpoint_every_steps": None, "max_steps": None}
    steps = DRY_STEPS
    if parameters >= HEAVY:
        usual = {name: usual_rows(rows.splits["train"], FEW_ROWS) for name, rows in data.items()}
        tokens, steps = _tokens(recipe, data, usual, teachers, folder / "few"), FEW_STEPS
        dry |= {"batch_rows": min(FEW_ROWS, recipe.train.batch_rows), "accumulate": 1}
    train = recipe.train.model_copy(update=dry)
    # One more than are watched: after the last one the student would be saved.
    train = train.model_copy(update={"epochs": _epochs(train, tokens.rows, steps + 1)})
    with Watch(steps) as watch:
        student_trainings(
            recipe.model_copy(update={"train": train}),
            tokens,
            checkpoints=folder / "checkpoints",
            out=folder / "student",
            boards=lambda _: Board(None),
            description="dry run",
        ).carry_out(train)
    report.lines.append(
        f"student {recipe.student.name}: {parameters:,} parameters ({parameters * 4 / 1e6:.1f} MB, "
        f"in bf16 {parameters * 2 / 1e6:.1f} MB)"
    )
    trial = watch.trial()
    if trial is None:
        report.estimate.unknown.append("what the student takes to be trained (no step could be timed)")
        return
    _tell(recipe, data, generated, row_tokens, trial, report)
    memory = memory_line(trial, recipe.train.batch_rows, longest, recipe.optimizer.name)
    report.lines.append(f"memory of training: {memory}")


def _tell(
    recipe: Recipe,
    data: Mapping[str, TaskRows],
    generated: Mapping[str, int],
    row_tokens: Mapping[str, float],
    trial: Trial,
    report: CheckReport,
) -> None:
    sizes = {name: len(rows.splits["train"]) + generated.get(name, 0) for name, rows in data.items()}
    gold = {name: int(has_label(rows.splits["train"]).sum()) for name, rows in data.items()}
    train = recipe.train
    mean = mean_tokens(recipe, sizes, row_tokens)
    if train.joint or len(sizes) == 1:
        whole = _length(sum(sizes.values()), train, train.epochs)
        steps, seconds = whole.steps, training_seconds(trial, whole, mean)
    else:
        each = {name: _length(size, train, train.epochs) for name, size in sizes.items()}
        steps = sum(some.steps for some in each.values())
        seconds = sum(training_seconds(trial, each[name], row_tokens[name]) for name in sizes)
    has_baseline = recipe.evaluate.baseline and bool(recipe.teachers) and sum(gold.values()) > 0
    per_step = train.batch_rows * train.accumulate
    line = f"{steps:,} steps of {per_step} rows, about {duration(seconds)}"
    if not train.joint and len(sizes) > 1:
        line += f", for {len(sizes)} students of one task each"
    report.estimate.add("student", seconds)
    report.estimate.row_seconds = mean * trial.token_seconds
    if has_baseline:
        line += f", and as many for the gold-only baseline: together {duration(2 * seconds)}"
        report.estimate.add("baseline", seconds)
    report.lines.append(line)
    if recipe.refine is not None:
        gold_only = not recipe.teachers or extremes(recipe.refine.alpha)[0] >= 1
        refined = _refining(recipe, gold if gold_only else sizes, row_tokens, trial)
        again = _refining(recipe, gold, row_tokens, trial) if has_baseline else 0.0
        report.estimate.add("refinement", refined + again)
        line = f"refinement, one copy a task: about {duration(refined)}"
        report.lines.append(line + (f", and of the baseline {duration(again)}" if again else ""))


def _refining(recipe: Recipe, rows: Mapping[str, int], row_tokens: Mapping[str, float], trial: Trial) -> float:
    assert recipe.refine is not None
    epochs = recipe.refine.epochs
    return sum(
        training_seconds(trial, _length(some, recipe.train, epochs), row_tokens[name])
        for name, some in rows.items()
        if some
    )


def _length(rows: int, train: Train, epochs: float) -> Length:
    return length(
        rows, epochs=epochs, batch_rows=train.batch_rows, accumulate=train.accumulate, max_steps=train.max_steps
    )


def _epochs(train: Train, rows: int, steps: int) -> float:
    """So many that there are just so many steps: half a step less, which is rounded up."""
    return (steps - 0.5) / -(-rows // (train.batch_rows * train.accumulate))


def _tokens(
    recipe: Recipe,
    data: Mapping[str, TaskRows],
    chosen: Mapping[str, np.ndarray],
    teachers: Mapping[str, list[Teacher]],
    folder: Path,
) -> StudentData:
    """The chosen rows as the student reads them, with a teacher that says 0."""
    folder.mkdir(parents=True, exist_ok=True)
    sampled = {
        name: write_rows(folder / f"{name}.arrow", rows.task, iter([rows.splits["train"].examples(chosen[name])]))
        for name, rows in data.items()
    }
    outputs = {
        name: np.zeros((len(sampled[name]), max(1, len(recipe.teachers_of(name))), rows.task.outputs), "f4")
        for name, rows in data.items()
    }
    tokens = tokenize(
        recipe,
        [rows.task for rows in data.values()],
        sampled,
        folder / "tokens",
        teacher=outputs.get,
        teacher_source=teacher_checkpoint(recipe),
        mask=mask_token(recipe),
    )
    return with_blank_states(recipe, tokens, teachers, teacher_checkpoint(recipe))


def _spread(rows: Rows) -> np.ndarray:
    return np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE_ROWS, len(rows))).astype(np.int64))


def _coverage(tokens: StudentData, report: CheckReport) -> None:
    for task, array in zip(tokens.tasks, tokens.arrays):
        counts = array.tokens.piece_counts
        unknown = counts[tokens.tokenizer.unk] / max(int(counts.sum()), 1)
        lengths = array.tokens.lengths()
        report.lines.append(
            f"{task.name}: {float(np.mean(lengths)):.1f} tokens a row, longest {int(lengths.max())}, "
            f"{unknown:.1%} unknown, {array.tokens.truncated:,} texts cut (of {len(lengths):,} sampled rows)"
        )
        if unknown > 0.05:
            report.warnings.append(f"{task.name}: {unknown:.1%} of the tokens are unknown to the student's tokenizer")


def _mask(recipe: Recipe, tokens: StudentData, report: CheckReport) -> None:
    mask = mask_token(recipe)
    if recipe.tokenizer.name == "teacher" and mask is not None:
        pieces = len(tokens.tokenizer.encode_batch([mask])[0])
        if pieces > 1:
            report.warnings.append(
                f"augment.mask_token: the student's tokenizer has no mask '{mask}' and reads it as {pieces} pieces"
            )
