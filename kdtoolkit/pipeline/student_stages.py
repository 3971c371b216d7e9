"""The stages distill, refine and baseline: the student of a run, and the one that learns from gold labels alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import processes
from ..memory import give_back
from ..student_folder import CONFIG, WEIGHTS, read_config, weights_file
from ..tokenizers.base import FILE as TOKENIZER
from ..training import FitReport
from ..training.board import Board
from .run_folder import RunFolder
from .student import Boards, Measure, refinements, student_trainings
from .student_data import StudentData
from .trainings import Trainings, all_of, apart, carry_out


@dataclass(frozen=True)
class _Arm:
    """One of the two: what it is trained on, and where it is."""

    run: RunFolder
    data: StudentData
    held_out: Measure | None
    gold_only: bool

    @property
    def out(self) -> Path:
        return self.run.gold_only if self.gold_only else self.run.student

    def joint(self) -> Trainings:
        """Of the stage distill, or of the first half of baseline."""
        recipe = self.run.recipe
        name = "gold_only" if self.gold_only else "student"
        description = "distilling" if recipe.teachers else "training"
        return student_trainings(
            recipe,
            self.data,
            checkpoints=self.run.checkpoints / "gold_only" if self.gold_only else self.run.checkpoints,
            out=self.out,
            boards=self._boards(name),
            gold_only=self.gold_only,
            measure=self.held_out,
            description="gold-only baseline" if self.gold_only else description,
        )

    def refined(self) -> Trainings:
        """Of the stage refine, or of the second half of baseline."""
        name = "refine_gold_only" if self.gold_only else "refine"
        return refinements(
            self.run.recipe,
            self.data,
            checkpoints=self.run.checkpoints / name,
            out=self.out,
            boards=self._boards(name),
            gold_only=self.gold_only or not self.run.recipe.teachers,
        )

    def _boards(self, name: str) -> Boards:
        return lambda task: Board(self.run.tensorboard / (f"{name}_{task}" if task else name))


def train_students(run: RunFolder, data: StudentData, held_out: Measure | None) -> None:
    """Trains what is left of student, refined copies and baseline; one after the other, or of several processes side by
    side (see `trainings.carry_out`)."""
    if processes.from_first(lambda: not is_whole(run.student)):
        run.forget("distill", "refine")
    if processes.from_first(lambda: not is_whole(run.gold_only)):
        run.forget("baseline")
    train, refine = run.recipe.train, run.recipe.refine is not None
    wanted = _wants_baseline(run, data)
    student, baseline = (_Arm(run, data, held_out, gold_only=gold_only) for gold_only in (False, True))
    if processes.size() > 1 and wanted and run.is_left("distill") and run.is_left("baseline"):
        joint = [student.joint(), baseline.joint()]
        if apart(train, sum(len(trainings.each) for trainings in joint)):
            began = time.time()
            distilled, trained = _together(run, joint)
            _record(run, "distill", distilled, began)
            if refine:
                again = time.time()
                refined, more = _together(run, [student.refined(), baseline.refined()])
                _record(run, "refine", refined, again)
                trained = replace(all_of([trained, more]), steps=trained.steps)
            _record(run, "baseline", trained, began)
    if run.is_left("distill"):
        with run.stage("distill") as facts:
            facts.update(_facts(student.joint().carry_out(train)))
    if refine and run.is_left("refine"):
        with run.stage("refine") as facts:
            facts.update(_facts(student.refined().carry_out(train)))
    if wanted and run.is_left("baseline"):
        with run.stage("baseline") as facts:
            facts.update(_facts(baseline.joint().carry_out(train)))
            if refine:
                facts["rows"] += baseline.refined().carry_out(train).rows


def is_whole(student: Path) -> bool:
    """Whether a student's folder has all its files. What was damaged and deleted is made again, from a checkpoint."""
    if not all((student / name).is_file() for name in (CONFIG, WEIGHTS, TOKENIZER)):
        return False
    config = read_config(student)
    return all((student / weights_file(config, task.name)).is_file() for task in config.tasks)


def _wants_baseline(run: RunFolder, data: StudentData) -> bool:
    # Without a teacher the student is the baseline already; without labels there is nothing to train one on.
    recipe = run.recipe
    return recipe.evaluate.baseline and bool(recipe.teachers) and len(data.labelled()) > 0


def _together(run: RunFolder, works: Sequence[Trainings]) -> list[FitReport]:
    """Carries out the trainings of several folders as one list; the report of each folder."""
    reports = carry_out([training for trainings in works for training in trainings.each], run.recipe.train)
    ends = np.cumsum([0, *(len(trainings.each) for trainings in works)])
    return [some.finish(reports[a:b]) for some, a, b in zip(works, ends[:-1], ends[1:])]


def _record(run: RunFolder, stage: str, report: FitReport, began: float) -> None:
    """Of trainings that stood beside others, begun with them: their own seconds, in whichever process."""
    give_back()
    if processes.is_first():
        own = {"began": round(began, 3), "seconds": report.seconds, "cpu_seconds": report.cpu_seconds}
        run.finish(stage, {**_facts(report), **own})


def _facts(report: FitReport) -> dict[str, Any]:
    best = {} if report.best_step is None else {"best_step": report.best_step}
    return {"rows": report.rows, "steps": report.steps, **best}
