"""Members of ensembles: `members:`, `vary:`, `keep:`, `keep_by:`, and weights and temperatures that are fitted."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError

from ...errors import did_you_mean
from ..document import KeyPath, Problem
from ..messages import sentence
from ..names import resolve_teacher
from ..schema import Recipe, TeacherSection
from ..signature import constructor_options


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with the members of `teachers:`."""
    for number, section in enumerate(recipe.teachers):
        path: KeyPath = ("teachers", number)
        yield from _kept(recipe, section, names, path)
        yield from _varied(section, path)
        yield from _averaged(section, path)
        if recipe.evaluate.split == "dev" and recipe.evaluate.calibration_rows == 0:
            yield from _without_rows(section, path)
    yield from _weights(recipe, names)


def _kept(recipe: Recipe, section: TeacherSection, names: list[str], path: KeyPath) -> Iterator[Problem]:
    if section.keep is not None and section.keep > section.members:
        message = f"{section.keep} cannot be kept of {section.members}; raise members, or leave keep out"
        yield Problem((*path, "keep"), message)
    if section.keep_by is None:
        return
    if section.keep is None:
        yield Problem((*path, "keep_by"), "says nothing without keep: how many members are to teach")
    if not section.keep_by:
        yield Problem((*path, "keep_by"), "is empty; leave it out for every task")
    taught = [task for task in names if section.tasks is None or task in section.tasks]
    for place, task in enumerate(section.keep_by):
        if task not in taught:
            what = "no task of this recipe" if task not in names else "no task that it teaches"
            yield Problem((*path, "keep_by", place), f"'{task}' is {what}; {did_you_mean(task, taught)}")


def _varied(section: TeacherSection, path: KeyPath) -> Iterator[Problem]:
    if section.vary and section.members == 1:
        yield Problem((*path, "vary"), "there is one member, so nothing varies; set members")
    plugin = resolve_teacher(section.name)[0]
    known = constructor_options("teacher", plugin)
    for key, values in section.vary.items():
        place = (*path, "vary", key)
        if not values:
            yield Problem(place, "is an empty list; give the values that the members take in turn")
        if known is None:
            continue
        if key not in known:
            message = f"the teacher '{section.name}' has no option '{key}'; {did_you_mean(key, known)}"
            yield Problem(place, message)
            continue
        if key == "multitask":
            yield Problem(place, "members are trained jointly or alone, not some of each; write two teachers")
            continue
        for value in values:
            try:
                TypeAdapter(known[key].type).validate_python(value)
            except ValidationError as error:
                yield Problem(place, sentence(error.errors(include_url=False)[0], ("option",)))
                break


def _averaged(section: TeacherSection, path: KeyPath) -> Iterator[Problem]:
    if section.options.get("averaged") is True and section.temperature != 1.0:
        message = "averaged probabilities have no logits that a temperature could divide; set it to 1"
        yield Problem((*path, "temperature"), message)


def _without_rows(section: TeacherSection, path: KeyPath) -> Iterator[Problem]:
    chooses = section.keep is not None and section.keep < section.members
    asks = {"keep": chooses, "weight": section.weight == "fit", "temperature": section.temperature == "fit"}
    for key, asked in asks.items():
        if asked:
            message = "needs rows held out of train, and there are none; set evaluate.calibration_rows above 0"
            yield Problem((*path, key), message)


def _weights(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """A weight that is a number says nothing beside weights that are fitted to make one in all."""
    for task in names:
        sections = recipe.teachers_of(task)
        fits = [section.weight == "fit" for section in sections]
        if any(fits) and not all(fits):
            number = next(n for n, listed in enumerate(recipe.teachers) if listed is sections[fits.index(False)])
            message = f"is a number, and other members for '{task}' have weight: fit; fit all of them, or none"
            yield Problem(("teachers", number, "weight"), message)
            return
