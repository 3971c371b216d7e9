"""The pre-flight: all that can be found wrong before long work, a few dry steps, and an estimate of time and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from ..data.prepare import TaskRows
from ..memory import keep_few_kernels
from ..ops import backend
from ..processor import has_bf16
from ..recipe import Recipe
from ..recipe.checks.objective import warnings as objective_warnings
from ..recipe.checks.training import warnings as training_warnings
from ..teacher import Teacher
from .augmentation import previews, refuse_augmentation
from .check_report import CheckReport
from .estimate import gigabytes, has_label
from .features import refuse_terms, stored_sizes
from .refusals import collected, op_device, raise_together, refuse
from .stages import prepare, something_to_learn
from .student_estimate import examine_student
from .teach import build_teachers, teacher_checkpoint
from .teacher_estimate import examine_teachers


def check(recipe: Recipe) -> CheckReport:
    """Runs the pre-flight; raises InputErrors with every problem found."""
    report = CheckReport()
    problems: list[str] = []
    keep_few_kernels()
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
        if data:
            _examine(recipe, data, folder, report, problems)
        raise_together(list(dict.fromkeys(problems)))
    report.lines.append(report.estimate.total())
    return report


def _examine(
    recipe: Recipe, data: Mapping[str, TaskRows], folder: Path, report: CheckReport, problems: list[str]
) -> None:
    """Looks at teachers, generated text and student; without a problem so far, also at what their training takes."""
    generated: dict[str, int] = {}
    with collected(problems):
        refuse_augmentation(recipe, data)
        generated = _generated(recipe, data, report)
    report.warnings += objective_warnings(recipe, [rows.task for rows in data.values()]) + training_warnings(recipe)
    examine_teachers(recipe, data, generated, folder, report, problems, _examine_nested)
    teachers: dict[str, list[Teacher]] = {}
    with collected(problems):
        teachers = build_teachers(recipe, data) if recipe.objective.terms else {}
        refuse_terms(recipe, data, teachers, folder, teacher_source=teacher_checkpoint(recipe))
        sizes = stored_sizes(recipe, data, generated, teachers, teacher_source=teacher_checkpoint(recipe))
        for name, (texts, names, size) in sizes.items():
            report.lines.append(
                f"{name}: hidden states of the teacher: {gigabytes(size)} on the disk, for {texts:,} texts "
                f"({', '.join(names)}; float16)"
            )
    if not problems:
        with collected(problems):
            examine_student(recipe, data, generated, teachers, folder / "student-trial", report)


def _examine_nested(recipe: Recipe, data: Mapping[str, TaskRows], folder: Path, report: CheckReport) -> None:
    """The same for the recipe of a teacher that is distilled itself."""
    problems: list[str] = []
    _examine(recipe, data, folder, report, problems)
    raise_together(problems)


def _precision(recipe: Recipe, report: CheckReport) -> None:
    if recipe.train.precision == "bf16" and not torch.cuda.is_available() and not has_bf16():
        report.warnings.append(
            "train.precision: this processor has no bf16 arithmetic: it will be emulated, slower than fp32"
        )


def _describe(recipe: Recipe, data: Mapping[str, TaskRows], report: CheckReport) -> None:
    for name, rows in data.items():
        gold = int(has_label(rows.splits["train"]).sum())
        sizes = ", ".join(f"{split} {len(some):,}" for split, some in rows.splits.items())
        labels = f", labels {', '.join(rows.task.labels)}" if rows.task.labels else ""
        report.lines.append(f"{name}: {rows.task.kind}, {sizes} rows ({gold:,} of train with a gold label){labels}")
        report.warnings += [f"{name}: {note}" for note in rows.notes]
        if recipe.evaluate.split not in rows.splits:
            report.warnings.append(f"{name}: has no labelled split '{recipe.evaluate.split}': it will not be measured")


def _generated(recipe: Recipe, data: Mapping[str, TaskRows], report: CheckReport) -> dict[str, int]:
    """About how many rows `augment` will add to each task, with examples of them."""
    found = previews(recipe, data)
    for name, preview in found.items():
        report.lines.append(f"{name}: augment: about {preview.rows:,} generated rows, such as")
        for texts, changed in preview.examples:
            before, after = (" / ".join(text for text in both if text is not None) for both in (texts, changed))
            report.lines.append(f"  {_shortened(before)} -> {_shortened(after)}")
    return {name: preview.rows for name, preview in found.items()}


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
