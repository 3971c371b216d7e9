"""The pipeline: recipe -> teach -> label -> distill -> refine -> evaluate. Each stage leaves files and resumes.

Nothing here imports torch before the run folder and its recipe.yaml exist, so that a run killed in its first second
can be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..recipe import Recipe
from .run_folder import RunFolder
from .start import resume_run, start_run

if TYPE_CHECKING:
    from ..labels import Engine

STAGES = ("prepare", "augment", "teach", "label", "tokenize", "distill", "refine", "baseline", "evaluate")


def run_stages(run: RunFolder, until: str = "report", engine: Engine | None = None) -> dict[str, Any]:
    """Runs what is left of a run, up to and including `until`; returns results.json, or the state so far.

    engine: what labels (`labels.workers.Workers`, `labels.ray_engine.RayData`); None: the processes of this run.
    """
    from .stages import run_stages

    return run_stages(run, until, engine)


def evaluate_run(run: RunFolder, split: str | None = None) -> dict[str, Any]:
    """Measures a finished run again, on another split if asked; returns what results.json would say."""
    from .stages import evaluate_run

    return evaluate_run(run, split)


def check(recipe: Recipe) -> Any:
    """Pre-flight: everything that can be found wrong before long work, and an estimate of time and memory."""
    from .pre_flight import check  # no module may be called `check`: importing it would hide this function

    return check(recipe)


def distill(recipe: Recipe | Mapping[str, Any] | str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Runs a whole recipe (an object, a mapping, a name or a path) and returns its results, as results.json has them.

    out: the run's folder; None: runs/NAME. An unfinished run of the same recipe in `out` is resumed.
    """
    from ..recipe.load import load_recipe, recipe_from_dict

    if isinstance(recipe, Mapping):
        recipe, name = recipe_from_dict(dict(recipe)), "run"
    elif not isinstance(recipe, Recipe):
        name = Path(str(recipe)).stem
        recipe = load_recipe(recipe)
    else:
        name = "run"
    return run_stages(start_run(recipe, Path(out) if out else None, name))


__all__ = ["STAGES", "RunFolder", "check", "distill", "evaluate_run", "resume_run", "run_stages", "start_run"]
