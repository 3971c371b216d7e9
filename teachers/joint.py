"""One model of our own for all tasks, trained on their gold labels: the demo's teacher, and MKD's kind of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from kdtoolkit import Example, Recipe, Task, Teacher
from kdtoolkit.data.rows import Rows
from kdtoolkit_teachers.run import RunTeacher


class JointTeacher(Teacher):
    """A student-shaped model trained jointly on all tasks' gold rows in the teach stage; then it teaches.

    student: its architecture, as under `student:` of a recipe (a name, or a mapping with the constructor's arguments).
    tokenizer: as under `tokenizer:`; None: a recipe's default for this student.
    epochs, batch_rows, learning_rate (AdamW, 10 % warm-up, linear decay), max_tokens (of each text), sampler_exponent
    (each task's share is its size to that power).
    Joint training on all tasks: Liu et al. 2019 (arXiv:1901.11504), section 3; as a teacher: MKD (arXiv:1911.03588).
    """

    joint = True

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
        self._sections = {
            "student": student,
            **({} if tokenizer is None else {"tokenizer": tokenizer}),
            "train": {"epochs": epochs, "batch_rows": batch_rows},
            "optimizer": {"learning_rate": learning_rate},
            "data": {"max_tokens": max_tokens},
            "sampler": {"exponent": sampler_exponent},
        }
        self._trained = RunTeacher(source, task) if (Path(source) / "config.json").is_file() else None

    @property
    def ready(self) -> bool:
        """Whether `source` is the folder of a trained one."""
        return self._trained is not None

    @property
    def fingerprint(self) -> str:
        """That of the trained model; before, a hash of what it will be."""
        if self._trained is not None:
            return self._trained.fingerprint
        return blake2b(json.dumps(["joint", self._sections], sort_keys=True).encode(), digest_size=16).hexdigest()

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """The trained model's outputs, (rows, outputs) float32."""
        if self._trained is None:
            raise RuntimeError("the joint teacher is not trained yet: the teach stage does it")
        return self._trained.logits(examples)

    def fine_tune_jointly(
        self, tasks: Mapping[str, Task], rows: Mapping[str, Rows], folder: Path, *, seed: int
    ) -> None:
        """Trains on the gold labels of all tasks; `folder` becomes a student folder."""
        from kdtoolkit.pipeline.student import train_joint

        recipe = Recipe.model_validate({"tasks": list(tasks), "seed": seed, **self._sections})
        work = folder.parent / f".{folder.name}.work"
        train_joint(tasks, rows, recipe, folder, work=work)
        shutil.rmtree(work)

    def parameters(self) -> int | None:
        """Those of the trained model."""
        return self._trained.parameters() if self._trained is not None else None

    def bytes(self) -> int | None:
        """Size of the trained model's weights."""
        return self._trained.bytes() if self._trained is not None else None
