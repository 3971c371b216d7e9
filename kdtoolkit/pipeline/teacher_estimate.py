"""The pre-flight's look at the teachers: they are built, and what training and answers will take is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import plugins
from ..data.prepare import TaskRows
from ..data.rows import write_rows
from ..recipe import Recipe
from ..recipe.nested import nested_recipe
from ..tasks import Task
from ..teacher import Teacher
from .augmentation import refuse_stored
from .check_report import CheckReport
from .ensemble import described
from .estimate import answering_seconds, duration, has_label, length, mean_characters, memory_line, training_seconds
from .estimate import usual_rows as rows_of_usual_length
from .label import label_splits
from .members import Member, members
from .refusals import collected
from .teach import built, gold_rows
from .trial import FEW_ROWS, FEW_STEPS, HEAVY, Trial, Watch

ANSWERED_ROWS = 32
DRY_STEPS = 6
MOST_ROWS = 256
"""Of a step that is tried."""
REFINE_EPOCHS = 3.0

Examine = Callable[[Recipe, Mapping[str, TaskRows], Path, CheckReport], None]
"""The whole pre-flight of a recipe within a recipe."""


@dataclass
class _Untrained:
    """A section of the recipe that is trained first; one of its teachers, and the tasks that it teaches.

    teacher: ready where the joint training is done already and only the refinement is left.
    """

    member: Member
    teacher: Teacher
    tasks: list[str]


def examine_teachers(
    recipe: Recipe,
    data: Mapping[str, TaskRows],
    generated: Mapping[str, int],
    folder: Path,
    report: CheckReport,
    problems: list[str],
    examine: Examine,
) -> None:
    """Builds every teacher, says what the teach stage will do, and estimates its time and that of labelling.

    generated: rows that `augment` adds, by task. folder: for what is tried out.
    """
    report.lines += [f"teacher {s.name}: {made}" for s in recipe.teachers if (made := described(s)) is not None]
    untrained: dict[int, _Untrained] = {}
    for name, some in members(recipe, [rows.task for rows in data.values()]).items():
        teachers: list[Teacher] = []
        for member in some:
            with collected(problems):
                teacher = built(member, data[name])
                teachers.append(teacher)
                if teacher.ready and not teacher.refines:
                    _ready(member, teacher, data[name], _texts(data[name], generated), report)
                else:
                    gold = int(has_label(gold_rows(data[name])).sum())
                    what = "refined" if teacher.ready else "fine-tuned"
                    report.lines.append(
                        f"{name}: teacher {member.name}: will be {what} on {gold:,} labelled rows first"
                    )
                    found = untrained.setdefault(member.place, _Untrained(member, teacher, []))
                    found.tasks += [name] if name not in found.tasks else []
                    found.teacher = teacher if found.teacher.ready else found.teacher
                teacher.close()
        if name in generated:
            with collected(problems):
                refuse_stored(name, teachers)
    if problems:
        return  # a training that cannot be right need not be tried
    for place, found in untrained.items():
        with collected(problems):
            if found.member.plugin == "distilled":
                _nested(found, data, generated, folder / f"nested-{place}", report, problems, examine)
            else:
                _training(found, data, generated, folder / f"teacher-{place}", report)


def _ready(member: Member, teacher: Teacher, rows: TaskRows, texts: int, report: CheckReport) -> None:
    seconds = texts * _seconds_a_row(teacher, rows)
    report.estimate.add("labelling", seconds)
    report.lines.append(
        f"{rows.task.name}: teacher {member.name}: ready, {teacher.kind}, "
        f"about {duration(seconds)} for {texts:,} texts, less what the store holds"
    )


def _seconds_a_row(teacher: Teacher, rows: TaskRows) -> float:
    some = rows.splits["train"]
    examples = some.examples(np.linspace(0, len(some) - 1, min(ANSWERED_ROWS, len(some))).astype(np.int64))
    teacher.logits(examples[:1])  # loads the weights
    started = time.perf_counter()
    teacher.logits(examples)
    return (time.perf_counter() - started) / len(examples)


def _texts(rows: TaskRows, generated: Mapping[str, int]) -> int:
    """How many texts a teacher of the task answers."""
    return sum(len(rows.splits[split]) for split in label_splits(rows)) + generated.get(rows.task.name, 0)


def _training(
    found: _Untrained,
    data: Mapping[str, TaskRows],
    generated: Mapping[str, int],
    folder: Path,
    report: CheckReport,
) -> None:
    """Time and memory of a section's training: a few steps are taken, the rest is counted."""
    member, count = found.member, found.member.section.members
    options = _options(member)
    if "epochs" not in options:
        report.estimate.unknown.append(f"what teacher {member.name} takes to be trained (it does not say how long)")
        return
    learned = _learned(found, data)
    # On the task with the most rows, for whose text most of the time goes.
    largest = max(learned, key=lambda name: int(has_label(gold_rows(data[name])).sum()))
    trial = _trial(found, data[largest], folder)
    if trial is None:
        report.estimate.unknown.append(f"what teacher {member.name} takes to be trained (it takes no steps of torch)")
        return
    characters = {name: mean_characters(gold_rows(data[name])) for name in {*learned, *found.tasks}}
    tried = gold_rows(data[largest])
    tried_characters = float(tried.characters()[rows_of_usual_length(tried, _tried_rows(found))].mean())
    limit = float(options.get("max_tokens") or np.inf)
    character = trial.row_tokens / max(tried_characters, 1.0)
    tokens = {name: min(character * some, limit) for name, some in characters.items()}
    longest = min(character * max(gold_rows(data[name]).characters().max(initial=1) for name in learned), limit)
    gold = {name: int(has_label(gold_rows(data[name])).sum()) for name in characters}
    seconds, steps = 0.0, 0
    own = {key: options[key] for key in ("epochs", "batch_rows", "accumulate", "max_steps") if key in options}
    if found.teacher.joint and not found.teacher.ready:
        whole = length(sum(gold[name] for name in learned), **own)
        mean = sum(gold[name] * tokens[name] for name in learned) / max(sum(gold[name] for name in learned), 1)
        seconds, steps = training_seconds(trial, whole, mean), whole.steps
    elif not found.teacher.ready:
        each = {name: length(gold[name], **own) for name in learned}
        seconds = sum(training_seconds(trial, each[name], tokens[name]) for name in learned)
        steps = sum(some.steps for some in each.values())
    kept = min(member.section.keep or count, count)
    refine = options.get("refine")
    refining = 0.0
    if isinstance(refine, Mapping):
        epochs = float(refine.get("epochs", REFINE_EPOCHS))
        again = {name: length(gold[name], **{**own, "epochs": epochs}) for name in found.tasks}
        refining = kept * sum(training_seconds(trial, again[name], tokens[name]) for name in found.tasks)
    labelling = kept * sum(answering_seconds(trial, _texts(data[n], generated), tokens[n]) for n in found.tasks)
    report.estimate.add("teaching", count * seconds + refining)
    report.estimate.add("labelling", labelling)
    what = "one model of all" if found.teacher.joint else "one a task"
    training = (
        f"{steps:,} steps{f' for each of {count} members' if count > 1 else ''} "
        f"({what}: {', '.join(learned)}), about {duration(count * seconds)}"
    )
    report.lines += [
        f"teacher {member.section.name}: {'trained already' if found.teacher.ready else training}"
        + (f", and its refinement {duration(refining)}" if refining else "")
        + f"; its answers about {duration(labelling)} (a few steps were timed here; by tokens)",
        f"teacher {member.section.name}: {trial.parameters:,} parameters; memory of its training "
        + memory_line(
            trial, int(options.get("batch_rows", trial.batch_rows)), longest, str(options.get("optimizer", "adamw"))
        ),
    ]


def _options(member: Member) -> dict[str, Any]:
    """The member's options, with the constructor's defaults for those that it leaves out."""
    known = plugins.options(plugins.plugin("teacher", member.plugin))
    return {name: parameter.default for name, parameter in known.items()} | member.options


def _learned(found: _Untrained, data: Mapping[str, TaskRows]) -> list[str]:
    """The tasks on whose gold rows it is trained."""
    if found.teacher.ready or not found.teacher.learns_all:
        return found.tasks
    return [name for name in data if name in found.tasks or has_label(gold_rows(data[name])).any()]


def _tried_rows(found: _Untrained) -> int:
    """Rows of the steps that are tried: all that a step has, or a few where the model is large."""
    options = _options(found.member)
    own = int(options.get("batch_rows") or FEW_ROWS) * int(options.get("accumulate") or 1)
    return min(own, FEW_ROWS if (found.teacher.parameters() or 0) >= HEAVY else MOST_ROWS)


def _trial(found: _Untrained, rows: TaskRows, folder: Path) -> Trial | None:
    """A few steps of the training, on rows of one task; what it leaves in `folder` is of no use."""
    member, count = found.member, _tried_rows(found)
    steps = FEW_STEPS if count == FEW_ROWS else DRY_STEPS
    # One more than are watched: after the last one the teacher would be saved.
    changed = {"epochs": steps + 1, "max_steps": None, "batch_rows": count, "accumulate": 1,
               "checkpoint_every_steps": None}  # fmt: skip
    known = _options(member)
    options = {**member.options, **{name: value for name, value in changed.items() if name in known}}
    teacher: Teacher = plugins.plugin("teacher", member.plugin)(member.source, rows.task, **options)
    gold = gold_rows(rows)
    folder.mkdir(parents=True)
    few = write_rows(folder / "rows.arrow", rows.task, iter([gold.examples(rows_of_usual_length(gold, count))]))
    with Watch(steps) as watch:
        if teacher.joint:
            teacher.fine_tune_jointly({rows.task.name: rows.task}, {rows.task.name: few}, folder / "teacher", seed=0)
        else:
            teacher.fine_tune(few, folder / "teacher", seed=0)
    teacher.close()
    return watch.trial()


def _nested(
    found: _Untrained,
    data: Mapping[str, TaskRows],
    generated: Mapping[str, int],
    folder: Path,
    report: CheckReport,
    problems: list[str],
    examine: Examine,
) -> None:
    """A teacher that is distilled itself: the pre-flight of its own recipe, on the rows that it will get."""
    member, inner, wrong = found.member, CheckReport(), list[str]()
    given = {name: TaskRows(data[name].task, {"train": gold_rows(data[name])}) for name in found.tasks}
    recipe = nested_recipe(member.options["recipe"], [_section(rows.task) for rows in given.values()])
    folder.mkdir(parents=True)
    with collected(wrong):
        examine(recipe, given, folder, inner)
    problems += [f"teachers.{member.place}.recipe: {problem}" for problem in wrong]
    report.lines += [f"within teacher {member.section.name}: {line}" for line in inner.lines]
    report.warnings += [f"within teacher {member.section.name}: {warning}" for warning in inner.warnings]
    report.estimate.unknown += inner.estimate.unknown
    report.estimate.add("teaching", member.section.members * sum(inner.estimate.seconds.values()))
    if inner.estimate.row_seconds:
        texts = sum(_texts(data[name], generated) for name in found.tasks)
        report.estimate.add("labelling", member.section.members * texts * inner.estimate.row_seconds / 3)


def _section(task: Task) -> dict[str, Any]:
    """The task as a recipe says it."""
    facts = task.to_dict()
    return {key: facts[key] for key in ("name", "kind", "text", "label", "labels", "metric", "metrics", "head")}
