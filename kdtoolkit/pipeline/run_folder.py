"""The run folder: names that other programs rely on, and what is done so far. Imports no torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__, processes
from ..errors import InputError, WorkError
from ..files import atomic_folder, cannot_write, read_json, write_json
from ..memory import give_back
from ..recipe import Recipe
from ..recipe.load import load_recipe, resolved_yaml

STATE = "run.json"


class RunFolder:
    """`runs/NAME`: recipe.yaml, teacher/, student/, results.json, tensorboard/, checkpoints/, log.txt, data/."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe
        self.data = path / "data"
        self.teacher = path / "teacher"
        self.student = path / "student"
        self.gold_only = path / "gold_only"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.results = path / "results.json"
        self.log = path / "log.txt"
        self.fresh = False
        self._lock: int | None = None

    @classmethod
    def create(cls, recipe: Recipe, out: Path) -> RunFolder:
        """Makes the folder and recipe.yaml in one atomic step; an existing folder is accepted if it is this run.

        `fresh` of the result says that the folder was made here, so that a run that is refused can be taken back.
        """
        if _exists(out):
            if not (out / STATE).is_file():
                raise InputError(str(out), "exists and is not a run of kdtoolkit", "choose another folder with --out")
            run = cls.open(out)
            if run.recipe != recipe:
                raise InputError(
                    str(out),
                    f"holds another run ({_difference(run.recipe, recipe)})",
                    "choose another folder with --out",
                )
            return run
        state = {"schema": 1, "stages": {}, "versions": versions()}
        with atomic_folder(out) as temporary:
            # Plain writes: the folder is atomic as a whole, and an error should name it and nothing inside.
            (temporary / "recipe.yaml").write_text(versions_comment() + resolved_yaml(recipe), encoding="utf-8")
            (temporary / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        run = cls(out, recipe)
        run.fresh = True
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in an existing folder."""
        if not _exists(path):
            raise InputError(str(path), "does not exist", "give the folder of a run, such as runs/demo")
        lacks = [name for name in ("recipe.yaml", STATE) if not (path / name).is_file()]
        if lacks:
            raise InputError(
                str(path), f"is no run of kdtoolkit (it has no {' and no '.join(lacks)})",
                "give the folder of a run, such as runs/demo",
            )  # fmt: skip
        run = cls(path, load_recipe(path / "recipe.yaml"))
        run.state()
        return run

    def take_back(self) -> None:
        """Deletes the folder of a run that was refused before it had anything to keep."""
        shutil.rmtree(self.path)

    def state(self) -> dict[str, Any]:
        """What run.json says."""
        try:
            state = read_json(self.path / STATE)
            if isinstance(state, dict) and isinstance(state.get("stages"), dict):
                return state
        except WorkError:
            pass
        raise WorkError(
            f"{self.path / STATE}: is damaged, so what is finished is unknown; start again with "
            f"--recipe {self.path / 'recipe.yaml'} --out ANOTHER_FOLDER: labels and teachers are found in the store"
        )

    def done(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left, or None if it is not finished."""
        return self.state()["stages"].get(stage)

    def finish(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Records that a stage is finished, with its facts: seconds, rows; began and finished, seconds since 1970."""
        state = self.state()
        state["stages"][stage] = {"finished": round(time.time(), 3), **facts}
        write_json(self.path / STATE, state)

    def is_left(self, stage: str) -> bool:
        """Whether a stage is to be run. The first process decides: the others may look when it has gone on."""
        return processes.from_first(lambda: self.done(stage) is None)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Times a stage and records its facts; a stage that a resumed run finds done keeps the facts it had."""
        before = self.done(name) or {}
        facts: dict[str, Any] = {"began": round(time.time(), 3)}
        started, cpu_started = time.perf_counter(), time.process_time()
        yield facts
        give_back()
        facts.setdefault("seconds", time.perf_counter() - started)
        facts.setdefault("cpu_seconds", time.process_time() - cpu_started)
        if processes.is_first():
            self.finish(name, before if before else facts)

    def forget(self, *stages: str) -> None:
        """Says that stages are not finished (any more); of several processes, the first says it."""
        if not processes.is_first():
            return
        state = self.state()
        if any(stage in state["stages"] for stage in stages):
            state["stages"] = {name: facts for name, facts in state["stages"].items() if name not in stages}
            write_json(self.path / STATE, state)

    def lock(self) -> None:
        """Keeps a second process out of this run for as long as this process lives."""
        try:
            self._lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.unlock()
            raise WorkError(f"{self.path}: another process is working on this run; wait for it or stop it") from error

    def unlock(self) -> None:
        """Lets other processes in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def new_folder(name: str, parent: Path = Path("runs")) -> Path:
    """runs/NAME, or runs/NAME-2 and so on where that exists."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise cannot_write(path, error) from error


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a run."""
    found = {"kdtoolkit": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "accelerate", "sentencepiece", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def versions_comment() -> str:
    """The first line of recipe.yaml."""
    parts = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"# Written by kdtoolkit on {time.strftime('%Y-%m-%d')}: every default is spelled out. {parts}\n"


def _difference(old: Recipe, new: Recipe) -> str:
    before, after = old.model_dump(by_alias=True), new.model_dump(by_alias=True)
    return _first_difference(before, after) or "the recipes differ"


def _first_difference(before: Any, after: Any, place: str = "") -> str | None:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(k for k in after if k not in before)]:
            found = _first_difference(before.get(key), after.get(key), f"{place}.{key}".lstrip("."))
            if found:
                return found
        return None
    return None if before == after else f"{place} is {before!r} there, {after!r} here"
