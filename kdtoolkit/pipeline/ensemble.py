"""Which members of an ensemble teach, and with what weight and temperature: chosen and fitted on held-out rows.

data/TASK/ensemble.json keeps it, one entry a member, those included that were not kept:

    {"members": [{"name", "member": n, "seed": n | null, "options": {}, "metric": NAME, "score": x | null,
                  "kept": true | false, "weight": x | null, "temperature": x | null}]}

member: from 0, in its section. seed: of its training; null: it was ready. score: of `metric` on rows held out of train,
by which it was chosen (before a refinement), or simply as it is; null: there are none. weight, temperature: null until
the label stage has fitted or copied them, and for members that do not teach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.prepare import TaskRows
from ..errors import InputError, WorkError
from ..evaluate import LOWER_IS_BETTER, fit_temperature, fit_weights, scores
from ..files import read_json, write_json
from ..recipe import Recipe
from ..recipe.schema import TeacherSection
from ..tasks import Task
from .held_out import held_out_split
from .members import Member, numbered
from .run_folder import RunFolder

FILE = "ensemble.json"
WAY_OUT = "set evaluate.calibration_rows above 0 and give more gold rows (a tenth of them, 50 at least, is held out)"


@dataclass(frozen=True)
class Standing:
    """What ensemble.json says of one member."""

    name: str
    member: int
    seed: int | None
    options: dict[str, Any]
    metric: str
    score: float | None
    kept: bool
    weight: float | None = None
    temperature: float | None = None


def ensemble_path(run: RunFolder, task: str) -> Path:
    """Where the file is."""
    return run.data / task / FILE


def write_standings(run: RunFolder, task: str, standings: Sequence[Standing]) -> None:
    """Writes the file, atomically."""
    write_json(ensemble_path(run, task), {"members": [asdict(standing) for standing in standings]})


def read_standings(run: RunFolder, task: str) -> list[Standing] | None:
    """What the file says; None: there is none, as in a run of an older version."""
    path = ensemble_path(run, task)
    if not path.is_file():
        return None
    try:
        return [Standing(**entry) for entry in read_json(path)["members"]]
    except (KeyError, TypeError) as error:
        raise WorkError(f"{path}: is damaged ({error}); delete it and run again with --resume") from error


def kept_standings(run: RunFolder, task: str) -> list[Standing]:
    """The members that teach, with weight and temperature, in the order of the stored outputs."""
    return [standing for standing in _standings(run, task) if standing.kept]


def kept_names(run: RunFolder, task: str) -> list[str]:
    """The names of the members that teach, as `Member.name` has them: numbered with those that do not."""
    standings = _standings(run, task)
    names = numbered([standing.name for standing in standings])
    return [name for name, standing in zip(names, standings) if standing.kept]


def member_weights(run: RunFolder, task: str) -> list[float]:
    """The weights of the members that teach.

    Raises WorkError if they were chosen anew and the label stage has yet to weigh them: what is stored of a task's
    teachers may be of others then.
    """
    weights = [standing.weight for standing in kept_standings(run, task)]
    known = [weight for weight in weights if weight is not None]
    if len(known) < len(weights):
        raise WorkError(
            f"{ensemble_path(run, task)}: a teacher has no weight yet, for the run was interrupted before its outputs "
            f"were stored; resume the run: kdtool distill --resume {run.path}"
        )
    return known


def _standings(run: RunFolder, task: str) -> list[Standing]:
    """All members; where no file says it, the sections of the recipe."""
    standings = read_standings(run, task)
    if standings is not None:
        return standings
    return [
        Standing(section.name, 0, None, dict(section.options), "", None, True, _number(section.weight), 1.0)
        for section in run.recipe.teachers_of(task)
    ]


def is_fitted(run: RunFolder, task: str) -> bool:
    """Whether every member that teaches has its weight and temperature."""
    standings = read_standings(run, task)
    if standings is None:
        return not any(_asks(section) for section in run.recipe.teachers_of(task))
    return all(s.weight is not None and s.temperature is not None for s in standings if s.kept)


def score(task: Task, outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """The task's metric over the rows that a member says something about; None: there are none."""
    said = ~np.isnan(outputs).any(1)
    known = said & ~np.isnan(labels if labels.ndim == 1 else labels[:, 0])
    return scores(task, outputs[known], labels[known])[task.metric] if known.any() else None


def chosen(
    members: Mapping[str, Sequence[Member]],
    metrics: Mapping[str, str],
    *,
    joint: Callable[[Member], bool],
    figure: Callable[[str, Member], float],
) -> dict[str, list[bool]]:
    """By task, which of its members are kept: of a section with `keep`, the best so many.

    metrics: of each task. joint: whether one model is that member of all tasks. figure: a member's metric of a task, on
    held-out rows; asked for only where it decides. Of equal members the earlier one is kept.
    """
    sections = {member.place: member.section for some in members.values() for member in some}
    copies: dict[tuple[str, int], set[int]] = {}
    for place, section in sections.items():
        own = {task: [m for m in some if m.place == place] for task, some in members.items()}
        own = {task: some for task, some in own.items() if some}
        if section.keep is None or section.keep >= section.members:
            copies |= {(task, place): set(range(section.members)) for task in own}
            continue

        def best(tasks: Sequence[str], own: dict[str, list[Member]] = own, keep: int = section.keep) -> set[int]:
            means = []
            for copy in range(len(next(iter(own.values())))):
                signs = [-1 if metrics[task] in LOWER_IS_BETTER else 1 for task in tasks]
                figures = [sign * figure(task, own[task][copy]) for sign, task in zip(signs, tasks)]
                means.append(float(np.mean(figures)))
            return set(np.argsort(-np.array(means), kind="stable")[:keep].tolist())

        together = section.keep_by or (list(own) if joint(next(iter(own.values()))[0]) else None)
        if together is not None:
            among = best(together)
            copies |= {(task, place): among for task in own}
        else:
            copies |= {(task, place): best([task]) for task in own}
    return {task: [m.copy in copies[task, m.place] for m in some] for task, some in members.items()}


def fitted(
    task: Task,
    sections: Sequence[TeacherSection],
    standings: Sequence[Standing],
    held_out: tuple[np.ndarray, np.ndarray] | None,
    *,
    how: Any,
) -> list[Standing]:
    """The members that teach, with their temperatures and weights, and the scores that they lacked.

    sections: the section of each. held_out: what each says about the held-out rows, undivided, (rows, members,
    outputs), and the rows' labels; None: there are none. how: as `combined` takes it.
    Temperatures come first, one a member (none for regression: values are never divided), then weights for all of them.
    """
    temperatures = [_number(section.temperature) for section in sections]
    weights = [_number(section.weight) for section in sections]
    if task.kind == "regression":
        temperatures = [1.0] * len(sections)
    figures = [standing.score for standing in standings]
    if held_out is not None:
        outputs, labels = held_out
        for number, section in enumerate(sections):
            said = ~np.isnan(outputs[:, number]).any(1)
            if figures[number] is None:
                figures[number] = score(task, outputs[:, number], labels)
            if section.temperature == "fit" and task.kind != "regression":
                temperatures[number] = fit_temperature(outputs[said, number], labels[said]) or 1.0
        if any(section.weight == "fit" for section in sections):
            divided = outputs / np.array(temperatures)[None, :, None]
            try:
                weights = fit_weights(task, divided, labels, how=how)
            except ValueError as error:
                raise InputError("teachers.weight", f"cannot be fitted: {error}", "give numbers") from error
    return [
        replace(standing, score=figure, weight=weight, temperature=temperature)
        for standing, figure, weight, temperature in zip(standings, figures, weights, temperatures, strict=True)
    ]


def refuse_without_rows(recipe: Recipe, data: Mapping[str, TaskRows]) -> None:
    """Raises InputError where something is to be chosen or fitted and a task has no held-out rows to do it on."""
    for number, section in enumerate(recipe.teachers):
        key = _asks(section)
        if key is None:
            continue
        taught = [name for name in data if section.tasks is None or name in section.tasks]
        needed = section.keep_by if key == "keep" and section.keep_by else taught
        lacks = [name for name in needed if name in data and held_out_split(data[name], recipe) is None]
        if lacks:
            raise InputError(f"teachers.{number}.{key}", f"there are no held-out rows of '{lacks[0]}'", WAY_OUT)


def described(section: TeacherSection) -> str | None:
    """In words, what is made of a section beyond one teacher as it is; None: nothing."""
    said = []
    if section.members > 1:
        taken = {key: values[: section.members] for key, values in section.vary.items()}
        varied = ", ".join(f"{key} {', '.join(map(str, values))} in turn" for key, values in taken.items())
        said.append(f"{section.members} members{f' ({varied})' if varied else ''}, each with its own seed")
    if section.keep is not None and section.keep < section.members:
        by = f" by {' and '.join(section.keep_by)}" if section.keep_by else ""
        said.append(f"the best {section.keep}{by} on held-out rows teach")
    fits = [key for key in ("temperature", "weight") if getattr(section, key) == "fit"]
    if fits:
        said.append(f"{' and '.join(fits)} fitted on held-out rows")
    return "; ".join(said) or None


def _asks(section: TeacherSection) -> str | None:
    """The key of the section that needs held-out rows."""
    if section.keep is not None and section.keep < section.members:
        return "keep"
    return next((key for key in ("weight", "temperature") if getattr(section, key) == "fit"), None)


def _number(value: float | str) -> float:
    return 1.0 if isinstance(value, str) else value
