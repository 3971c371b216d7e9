"""What can be wrong in a recipe whose keys and types are right: names, ranges, sections that do not fit together."""

from __future__ import annotations

from collections.abc import Iterator

from ...tasks import canonical_name
from ..document import Problem
from ..schema import Recipe
from . import augment, data, ensembles, heads, models, objective, teacher_heads, training


def problems_in(recipe: Recipe) -> Iterator[Problem]:
    """Every problem, in the order of the recipe's keys."""
    names = [canonical_name(item) if isinstance(item, str) else item.name for item in recipe.tasks]
    for part in (data, models, ensembles, teacher_heads, heads, objective, training, augment):
        yield from part.problems(recipe, names)
