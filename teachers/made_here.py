"""What teachers share that the teach stage makes as students of ours: once trained, they answer as a run's student."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdtoolkit import Example, Task, Teacher
from kdtoolkit.shape import Shape
from kdtoolkit.teacher import Features
from kdtoolkit_teachers.run import RunTeacher


class MadeHere(Teacher):
    """A teacher whose `fine_tune_jointly` leaves a student's folder; built on that folder, it is `ready`."""

    joint = True
    distributed = True

    def __init__(self, source: str, task: Task) -> None:
        super().__init__(source, task)
        self.trained = RunTeacher(source, task) if (Path(source) / "config.json").is_file() else None

    @staticmethod
    def work_folder(folder: Path) -> Path:
        """Where the training works until `folder` is finished, and from where a restart resumes it."""
        return folder.parent / f".{folder.name}.work"

    def clean_up(self, folder: Path) -> None:
        """Removes the work folder."""
        shutil.rmtree(self.work_folder(folder), ignore_errors=True)

    @property
    def ready(self) -> bool:
        """Whether `source` is the folder of a trained one."""
        return self.trained is not None

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """The trained model's outputs, (rows, outputs) float32."""
        return self._answering().logits(examples)

    @property
    def shape(self) -> Shape | None:
        """That of the trained model."""
        return self.trained.shape if self.trained is not None else None

    def features(self, examples: Sequence[Example], names: Sequence[str]) -> Features:
        """What is inside the trained model; see `RunTeacher.features`."""
        return self._answering().features(examples, names)

    def shard(self) -> None:
        """Of the trained model, each process keeps a part."""
        self._answering().shard()

    def parameters(self) -> int | None:
        """Those of the trained model."""
        return self.trained.parameters() if self.trained is not None else None

    def bytes(self) -> int | None:
        """Size of the trained model's weights."""
        return self.trained.bytes() if self.trained is not None else None

    def _answering(self) -> RunTeacher:
        if self.trained is None:
            raise RuntimeError(f"{type(self).__name__} is not trained yet: the teach stage does it")
        return self.trained
