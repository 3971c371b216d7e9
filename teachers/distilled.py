"""A teacher that is itself the student of other teachers: the teach stage runs a whole recipe to make it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from kdtoolkit import Example, InputError, Recipe, Task, Teacher, plugins, processes
from kdtoolkit.data.rows import Rows
from kdtoolkit.files import atomic_folder
from kdtoolkit.hub import checkpoint_folder
from kdtoolkit.plugins import source_of
from kdtoolkit.progress import log
from kdtoolkit.recipe.names import resolve_student, resolve_teacher
from kdtoolkit.recipe.nested import nested_recipe
from kdtoolkit.recipe.pretrained import TEACHER, checkpoint_of
from kdtoolkit.recipe.schema import TeacherSection
from kdtoolkit_teachers.made_here import MadeHere

DEV_ROWS = 200
"""Rows of train on which the run within measures itself, because every run does; the figures are thrown away."""
CHUNK_ROWS = 4096
PLACE = "teacher 'distilled': recipe"

_tried: set[str] = set()


class DistilledTeacher(MadeHere):
    """A student of other teachers, distilled in the teach stage on the rows that any teacher gets; then it teaches.

    recipe: how, as the keys of a recipe (student, teachers, objective, train, ...) or the name or file of one. Tasks,
    rows, seed and store are those of the run around it, whose dev, test and calibration rows it never sees; of `data`
    it may say max_tokens and of `evaluate` calibration_rows. Rows without a label are its transfer text. Its own
    teachers may be distilled as well: Single -> Multi -> Single -> Multi of BAM (Clark et al. 2019, arXiv:1907.04829).
    Born-again networks: Furlanello et al. 2018 (arXiv:1805.04770); teacher assistants: Mirzadeh et al. 2020
    (arXiv:1902.03393).
    Raises InputError for what is wrong with the teachers or the student of that recipe.
    """

    def __init__(self, source: str, task: Task, *, recipe: str | dict[str, Any]) -> None:
        super().__init__(source, task)
        self._recipe = recipe
        if self.trained is None:
            _try_student(self._nested())
            for section in self._nested().teachers_of(task.name):
                _built(section, task).close()

    def _nested(self) -> Recipe:
        """The recipe, for this task alone."""
        return nested_recipe(self._recipe, [_section(self.task)])

    @property
    def fingerprint(self) -> str:
        """That of the trained student; before, a hash of the recipe, of its teachers and of the files it reads."""
        if self.trained is not None:
            return self.trained.fingerprint
        digest = blake2b(digest_size=16)
        _hash_recipe(digest, self._nested(), self.task, taught=True)
        return digest.hexdigest()

    def fine_tune_jointly(
        self, tasks: Mapping[str, Task], rows: Mapping[str, Rows], folder: Path, *, seed: int
    ) -> None:
        """Runs the recipe on the rows of all tasks; `folder` becomes the folder of its student.

        Until it is finished, the run lies beside `folder`, from where a restart resumes it.
        """
        from kdtoolkit.pipeline import RunFolder, run_stages

        work = self.work_folder(folder)
        data = work / "rows"
        sections = [_section(task) for task in tasks.values()]
        recipe = nested_recipe(self._recipe, sections, seed=seed, folder=str(data.resolve()), store=self.store)
        log.info("a teacher is distilled first: its own run is in %s", work / "run")
        with processes.first_then_all():
            if not data.is_dir():
                with atomic_folder(data) as temporary:
                    for name, some in rows.items():
                        _write(some, temporary / name)
            run = RunFolder.create(_as_begun(recipe, work / "run"), work / "run")
        threads = torch.get_num_threads()
        try:
            run_stages(run)
        except InputError as error:
            raise InputError(PLACE, str(error)) from error
        finally:
            torch.set_num_threads(threads)
        with processes.first_then_all():
            if not processes.is_first():
                return
            with atomic_folder(folder) as temporary:
                # The model card tells figures of rows that it was trained on.
                shutil.copytree(run.student, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
            self.clean_up(folder)


def _section(task: Task) -> dict[str, Any]:
    """The task as a recipe says it; its columns are those that `_write` writes."""
    columns = ["text", "second"] if task.pair else ["text"]
    known = {"name": task.name, "kind": task.kind, "labels": list(task.labels), "metric": task.metric}
    return {**known, "metrics": list(task.metrics), "head": task.head, "text": columns, "label": "label"}


def _built(section: TeacherSection, task: Task) -> Teacher:
    """A teacher of the recipe; its errors say where it stands."""
    plugin, source = resolve_teacher(section.name)
    try:
        return plugins.plugin("teacher", plugin)(source, task, **section.options)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{PLACE}.teachers", str(error)) from error


def _try_student(recipe: Recipe) -> None:
    """Refuses a student that cannot be built; once a process, for what is asked hardly depends on the task."""
    from kdtoolkit.pipeline.refusals import refuse
    from kdtoolkit.pipeline.teach import teacher_checkpoint

    key = recipe.model_dump_json(include={"student", "tokenizer", "heads", "data"})
    if key in _tried:
        return
    with tempfile.TemporaryDirectory(prefix="kdtool-nested-") as folder:
        try:
            refuse(recipe, recipe.task_list(), Path(folder), teacher_source=teacher_checkpoint(recipe))
        except InputError as error:
            raise InputError(PLACE, error.cause) from error
    _tried.add(key)


def _as_begun(recipe: Recipe, run: Path) -> Recipe:
    """The recipe with which `run` was begun, if the two differ in the place of the rows alone: a run can be moved."""
    from kdtoolkit.pipeline import RunFolder

    if not (run / "recipe.yaml").is_file():
        return recipe
    begun = RunFolder.open(run).recipe
    same = begun.model_copy(update={"data": begun.data.model_copy(update={"folder": recipe.data.folder})}) == recipe
    return begun if same else recipe


def _write(rows: Rows, folder: Path) -> None:
    """train.jsonl, all rows; dev.jsonl, the first labelled ones, for a run wants some to measure."""
    folder.mkdir()
    with (folder / "train.jsonl").open("w", encoding="utf-8") as train:
        with (folder / "dev.jsonl").open("w", encoding="utf-8") as dev:
            written = 0
            for start in range(0, len(rows), CHUNK_ROWS):
                for example in rows.examples(slice(start, min(start + CHUNK_ROWS, len(rows)))):
                    line = json.dumps(_row(example, rows.task), ensure_ascii=False) + "\n"
                    train.write(line)
                    if example.label is not None and written < DEV_ROWS:
                        dev.write(line)
                        written += 1


def _row(example: Example, task: Task) -> dict[str, Any]:
    label: Any = example.label
    if label is not None and task.kind == "classification":
        label = task.labels[int(label)]
    elif isinstance(label, tuple):
        label = [int(value) for value in label]  # one 0 or 1 a label
    return {"text": example.text, **({"second": example.second} if task.pair else {}), "label": label}


def _hash_recipe(digest: Any, recipe: Recipe, task: Task, *, taught: bool) -> None:
    """Adds what a nested recipe says, its teachers and the files it reads.

    taught: whether its teachers teach this very task, and can be asked for their own fingerprints.
    """
    written = recipe.model_dump(mode="json", by_alias=True, exclude={"tasks", "store"})
    digest.update(json.dumps(["distilled", written], sort_keys=True).encode())
    for section in recipe.teachers:
        plugin, source = resolve_teacher(section.name)
        if taught and section in recipe.teachers_of(task.name):
            digest.update(_built(section, task).fingerprint.encode())
        elif plugin == "distilled":
            _hash_recipe(digest, nested_recipe(section.options["recipe"], [_section(task)]), task, taught=False)
        elif source == plugin:  # it is made of its options, for any task, as "joint" is
            digest.update(_built(section, task).fingerprint.encode())
        else:
            _hash_source(digest, source)
    for file in (checkpoint_of(recipe.student), recipe.tokenizer.source, recipe.tokenizer.vectors):
        if file is not None:
            _hash_source(digest, file)
    name = resolve_student(recipe.student)[0]
    if name not in plugins.installed("student"):
        digest.update(source_of(sys.modules[plugins.plugin("student", name).__module__]).encode())


def _hash_source(digest: Any, source: str) -> None:
    """Adds the contents of the files that a name stands for: a file, a folder or a checkpoint of the hub."""
    if source in (TEACHER, "copy", "project"):
        return
    path = Path(source).expanduser()
    if not path.exists() and ":" in source:  # a callable or a class: its module, where that is a file
        digest.update(source.encode())
        path = Path(source.rpartition(":")[0])
        if not path.is_file():
            return
    folder = path if path.exists() else checkpoint_folder(source, PLACE)
    for file in [folder] if folder.is_file() else sorted(folder.glob("*")):
        if file.is_file():
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
