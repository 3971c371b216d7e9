"""One model of our own for all tasks, trained on their gold labels: the demo's teacher, and MKD's kind of one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from kdtoolkit import Recipe, Task, plugins, processes
from kdtoolkit.data.rows import Rows
from kdtoolkit.errors import InputErrors
from kdtoolkit.plugins import source_of
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.recipe.names import resolve_student
from kdtoolkit.shape import Shape
from kdtoolkit_teachers.made_here import MadeHere

READS = ("init_from", "model", "source", "vectors")
"""Options of students and tokenizers that name files or folders."""


class JointTeacher(MadeHere):
    """A student-shaped model trained jointly on all tasks' gold rows in the teach stage; then it teaches.

    student: its architecture, as under `student:` of a recipe (a name, or a mapping with the constructor's arguments).
    tokenizer: as under `tokenizer:`; None: a recipe's default for this student.
    epochs, batch_rows, learning_rate (AdamW, 10 % warm-up, linear decay), max_tokens (of each text), sampler_exponent
    (each task's share is its size to that power).
    Joint training on all tasks: Liu et al. 2019 (arXiv:1901.11504), section 3; as a teacher: MKD (arXiv:1911.03588).
    """

    def __init__(
        self,
        source: str,
        task: Task,
        *,
        student: str | dict[str, Any] = "bilstm",
        tokenizer: str | dict[str, Any] | None = None,
        epochs: float = 3,
        batch_rows: int = 32,
        learning_rate: float = 1e-3,
        max_tokens: int = 64,
        sampler_exponent: float = 1.0,
    ) -> None:
        super().__init__(source, task)
        self._sections: dict[str, Any] = {
            "student": student,
            **({} if tokenizer is None else {"tokenizer": tokenizer}),
            "train": {"epochs": epochs, "batch_rows": batch_rows},
            "optimizer": {"learning_rate": learning_rate},
            "data": {"max_tokens": max_tokens},
            "sampler": {"exponent": sampler_exponent},
        }
        if self.trained is None:
            self._refuse_options()

    def _refuse_options(self) -> None:
        """Raises InputErrors for what no recipe could say, as keys of the recipe that it is trained by."""
        sections = {**self._sections, "data": {**self._sections["data"], "folder": "."}, "objective": {"alpha": 1.0}}
        try:
            recipe_from_dict({"tasks": [self.task.name], **sections})
        except InputErrors as error:
            place = f"teacher '{self.source}'"
            raise InputErrors(place, [f"{place}: {problem}" for problem in error.problems]) from error

    @property
    def fingerprint(self) -> str:
        """That of the trained model; before, a hash of what it will be: options, the student's code, files it reads."""
        if self.trained is not None:
            return self.trained.fingerprint
        recipe = Recipe.model_validate({"tasks": [self.task.name], **self._sections})
        cls = plugins.plugin("student", resolve_student(recipe.student)[0])
        code = source_of(sys.modules[cls.__module__])
        digest = blake2b(json.dumps(["joint", self._sections, code], sort_keys=True).encode(), digest_size=16)
        for section in (recipe.student, recipe.tokenizer):
            values = section.model_dump(mode="json")
            for path in (Path(str(values[key])).expanduser() for key in READS if values.get(key)):
                for file in [path] if path.is_file() else sorted(path.glob("*")):
                    if file.is_file():
                        digest.update(file.name.encode() + b"\0")
                        with file.open("rb") as opened:
                            digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()

    @property
    def shape(self) -> Shape | None:
        """That of the trained model; before, of the student that it will be."""
        if self.trained is not None:
            return self.trained.shape
        recipe = Recipe.model_validate({"tasks": [self.task.name], **self._sections})
        name, options = resolve_student(recipe.student)
        with torch.random.fork_rng(devices=()):
            student = plugins.plugin("student", name)(1, **options)
        apart = bool(self.task.pair) and student.pairs == "separate"
        return student.shape if "hidden" in student.provides and not apart else None

    def fine_tune_jointly(
        self, tasks: Mapping[str, Task], rows: Mapping[str, Rows], folder: Path, *, seed: int
    ) -> None:
        """Trains on the gold labels of all tasks; `folder` becomes a student folder."""
        from kdtoolkit.pipeline.student import train_joint

        recipe = Recipe.model_validate({"tasks": list(tasks), "seed": seed, **self._sections})
        train_joint(tasks, rows, recipe, folder, work=self.work_folder(folder))
        if processes.is_first():
            self.clean_up(folder)
