"""`augment:`."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import did_you_mean
from ..document import KeyPath, Problem
from ..schema import Augment, Recipe
from .data import single_tasks

NOT_IN_A_WORD = set(".,()!?;:'\"")
"""Marks at which the tokenizer `words` cuts, or which it leaves out."""
SERVES = {"mask_token": "mask", "tagger": "replace", "classes": "replace", "longest_ngram": "ngram"}
"""The rule that alone reads an option; a rule of probability 0 reads nothing."""


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with `augment:`."""
    rules = recipe.augment
    if rules is None:
        return
    yield from _tasks(recipe, names)
    if rules.mask == rules.replace == rules.ngram == 0:
        yield Problem(("augment",), "mask, replace and ngram are all 0, so no text would change")
    if rules.mask + rules.replace > 1 + 1e-9:
        message = f"a word is masked, replaced or kept, and mask and replace add up to {rules.mask + rules.replace:g}"
        yield Problem(("augment",), f"{message}; lower one of them")
    token = rules.mask_token
    if not token or any(c.isspace() or c in NOT_IN_A_WORD for c in token):
        marks = " ".join(sorted(NOT_IN_A_WORD))
        message = f"'{token}' is not one word to every tokenizer; leave out white space and {marks}"
        yield Problem(("augment", "mask_token"), message)
    kind, _, function = rules.tagger.partition(":")
    if rules.tagger != "induced" and not (kind == "python" and all(function.rpartition(":")[::2])):
        message = f"'{rules.tagger}' is unknown; 'induced', or python:module:function"
        yield Problem(("augment", "tagger"), message)
    yield from _unread(rules, pairs=not single_tasks(recipe, names).issuperset(rules.tasks or names))


def _unread(rules: Augment, *, pairs: bool) -> Iterator[Problem]:
    """Options that no rule reads as the others are, if they are not at their default. pairs: some rows may be pairs."""
    unread = {name: f"augment.{rule} is 0" for name, rule in SERVES.items() if getattr(rules, rule) == 0}
    if rules.tagger != "induced":
        unread.setdefault("classes", f"augment.tagger is '{rules.tagger}'")
    if not pairs:
        unread["both"] = "no task to be augmented has pairs of texts"
    read = ", ".join(sorted(Augment.model_fields.keys() - unread))
    for name, reason in unread.items():
        if getattr(rules, name) != Augment.model_fields[name].default:
            yield Problem(("augment", name), f"is not read where {reason}; these are: {read}")


def _tasks(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    assert recipe.augment is not None
    asked = recipe.augment.tasks
    path: KeyPath = ("augment", "tasks")
    if asked == []:
        yield Problem(path, "is empty; leave it out for all tasks that have a teacher")
    for place, task in enumerate(asked or ()):
        if task not in names:
            yield Problem((*path, place), f"'{task}' is no task of this recipe; {did_you_mean(task, names)}")
        elif not recipe.teachers_of(task):
            message = f"'{task}' has no teacher, who alone could label its new text; take it out, or give it one"
            yield Problem((*path, place), message)
    if asked is None and not any(recipe.teachers_of(name) for name in names):
        message = "no task has a teacher, who alone could label new text; give one, or leave augment out"
        yield Problem(("augment",), message)
