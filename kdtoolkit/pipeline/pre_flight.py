"""The pre-flight: all that can be found wrong before long work, one dry step, and an estimate of time and memory."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..data.prepare import TaskRows
from ..data.rows import Rows, write_rows
from ..ops import backend
from ..processor import has_bf16
from ..recipe import Recipe
from ..recipe.schema import Train
from ..teacher import Teacher
from ..training.board import Board
from .label import label_splits
from .refusals import collected, op_device, raise_together, refuse
from .stages import prepare, something_to_learn
from .student import StudentData, new_student, tokenize, train_student
from .teach import built, gold_rows, members, teacher_checkpoint

SAMPLE_ROWS = 2000
DRY_STEPS = 12
TEACHER_ROWS = 32


@dataclass
class CheckReport:
    """What `kdtool check` prints: facts, and what may be worth a second thought. Errors are raised instead."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(recipe: Recipe) -> CheckReport:
    """Runs the pre-flight; raises InputErrors with every problem found."""
    report = CheckReport()
    problems: list[str] = []
    torch.set_num_threads(recipe.train.threads or 1)
    _precision(recipe, report)
    with collected(problems):
        report.lines.append("op backend: {} ({})".format(*backend(op_device())))
    with tempfile.TemporaryDirectory(prefix="kdtool-check-") as name:
        folder, data = Path(name), {}
        with collected(problems):
            data = prepare(recipe, folder / "data")
            something_to_learn(recipe, data)
            _describe(recipe, data, report)
        with collected(problems):
            tasks = [rows.task for rows in data.values()]
            refuse(recipe, tasks, folder, teacher_source=teacher_checkpoint(recipe))
        teacher_seconds = 0.0
        if data:
            teacher_seconds = _teachers(recipe, data, report, problems)
        raise_together(list(dict.fromkeys(problems)))
        _dry_run(recipe, data, folder, teacher_seconds, report)
    return report


def _precision(recipe: Recipe, report: CheckReport) -> None:
    if recipe.train.precision == "bf16" and not torch.cuda.is_available() and not has_bf16():
        report.warnings.append(
            "train.precision: this processor has no bf16 arithmetic: it will be emulated, slower than fp32"
        )


def _describe(recipe: Recipe, data: Mapping[str, TaskRows], report: CheckReport) -> None:
    for name, rows in data.items():
        gold = int(np.isfinite(_first_column(rows.splits["train"])).sum())
        sizes = ", ".join(f"{split} {len(some):,}" for split, some in rows.splits.items())
        labels = f", labels {', '.join(rows.task.labels)}" if rows.task.labels else ""
        report.lines.append(f"{name}: {rows.task.kind}, {sizes} rows ({gold:,} of train with a gold label){labels}")
        report.warnings += [f"{name}: {note}" for note in rows.notes]
        if recipe.evaluate.split not in rows.splits:
            report.warnings.append(f"{name}: has no labelled split '{recipe.evaluate.split}': it will not be measured")


def _teachers(recipe: Recipe, data: Mapping[str, TaskRows], report: CheckReport, problems: list[str]) -> float:
    """Builds every teacher, says what the teach stage will do, and estimates the seconds of labelling."""
    seconds = 0.0
    for name, some in members(recipe, [rows.task for rows in data.values()]).items():
        for member in some:
            with collected(problems):
                teacher = built(member, data[name])
                rows = sum(len(data[name].splits[split]) for split in label_splits(data[name]))
                if teacher.ready:
                    per_row = _seconds_a_row(teacher, data[name])
                    seconds += rows * per_row
                    report.lines.append(
                        f"{name}: teacher {member.section.name}: ready, {teacher.kind}, "
                        f"about {_duration(rows * per_row)} for {rows:,} texts, less what the store holds"
                    )
                else:
                    gold = int(np.isfinite(_first_column(gold_rows(data[name]))).sum())
                    report.lines.append(
                        f"{name}: teacher {member.section.name}: will be fine-tuned on {gold:,} labelled rows first"
                    )
                teacher.close()
    return seconds


def _seconds_a_row(teacher: Teacher, rows: TaskRows) -> float:
    some = rows.splits["train"]
    examples = some.examples(np.linspace(0, len(some) - 1, min(TEACHER_ROWS, len(some))).astype(np.int64))
    teacher.logits(examples[:1])  # loads the weights
    started = time.perf_counter()
    teacher.logits(examples)
    return (time.perf_counter() - started) / len(examples)


def _dry_run(
    recipe: Recipe, data: Mapping[str, TaskRows], folder: Path, teacher_seconds: float, report: CheckReport
) -> None:
    sampled = {name: _sample(rows.splits["train"], folder / f"{name}.arrow") for name, rows in data.items()}
    tasks = [rows.task for rows in data.values()]
    outputs = {
        task.name: np.zeros((len(sampled[task.name]), max(1, len(recipe.teachers_of(task.name))), task.outputs), "f4")
        for task in tasks
    }
    tokens = tokenize(
        recipe, tasks, sampled, folder / "tokens", teacher=outputs.get, teacher_source=teacher_checkpoint(recipe)
    )
    _coverage(tokens, report)
    model, _ = new_student(recipe, tokens)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    dry = recipe.model_copy(update={"train": _few_steps(recipe.train, tokens.rows)})
    fitted = train_student(
        dry,
        tokens,
        checkpoints=folder / "checkpoints",
        out=folder / "student",
        board=Board(None),
        description="dry run",
    )
    step_seconds = fitted.seconds / max(fitted.steps, 1)
    rows = sum(len(some.splits["train"]) for some in data.values())
    per_step = recipe.train.batch_rows * recipe.train.accumulate
    steps = int(np.ceil(recipe.train.epochs * np.ceil(rows / per_step)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    runs = 2 if recipe.evaluate.baseline and recipe.teachers else 1
    report.lines += [
        f"student {recipe.student.name}: {parameters:,} parameters ({parameters * 4 / 1e6:.1f} MB)",
        f"{steps:,} steps of {per_step} rows, about {_duration(steps * step_seconds)}"
        + (f", and as many for the gold-only baseline: {_duration(runs * steps * step_seconds)}" if runs > 1 else ""),
        f"memory of training: about {max(peak, 0.5) + parameters * 12 / 1e9:.1f} GB (this check took {peak:.1f} GB)",
    ]
    if teacher_seconds:
        report.lines.append(f"labelling: about {_duration(teacher_seconds)} if the store is empty")


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


def _sample(rows: Rows, path: Path) -> Rows:
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE_ROWS, len(rows))).astype(np.int64))
    return write_rows(path, rows.task, iter([rows.examples(chosen)]))


def _few_steps(train: Train, rows: int) -> Train:
    epochs = DRY_STEPS * train.batch_rows * train.accumulate / max(rows, 1)
    return train.model_copy(
        update={"epochs": min(epochs, train.epochs), "select": None, "checkpoint_every_steps": None}
    )


def _first_column(rows: Rows) -> np.ndarray:
    labels = rows.labels()
    return labels if labels.ndim == 1 else labels[:, 0]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
