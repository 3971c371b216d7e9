"""Starting and resuming a run. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..recipe import Recipe
from .run_folder import RunFolder, _difference, new_folder


def start_run(recipe: Recipe, out: Path | None = None, name: str = "run") -> RunFolder:
    """Makes the run's folder with recipe.yaml in it; `out` None: runs/NAME, or the next free runs/NAME-2."""
    return RunFolder.create(recipe, out or new_folder(name))


def resume_run(path: Path, recipe: Recipe | None = None) -> RunFolder:
    """The run in `path`, to be continued; `recipe`, if given, must be the run's own, but for who keeps what."""
    run = RunFolder.open(path)
    if recipe is not None and _shared_alike(recipe, run.recipe) != run.recipe:
        raise InputError(
            str(path),
            f"is a run of another recipe ({_difference(run.recipe, recipe)})",
            "leave out the recipe to resume it as it was, or start a new run with --out",
        )
    if recipe is not None:
        run.recipe = recipe
    return run


def _shared_alike(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe with the other's keys that say how processes share the work, and nothing of what is computed."""
    alike = {key: getattr(other.train, key) for key in ("parallel", "sharding", "teacher_sharding")}
    train = recipe.train.model_copy(update=alike)
    return recipe.model_copy(update={"train": train})
