"""Further terms of the loss: hidden states, relations between tokens or rows, decoupled outputs."""

from __future__ import annotations

from importlib import import_module

from ...recipe.terms import KNOWN_TERMS
from .base import Seen, Term


def _load(target: str) -> type[Term]:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


TERMS: dict[str, type[Term]] = {name: _load(known.target) for name, known in KNOWN_TERMS.items()}
"""The terms of `objective.terms` by name; the names are those of `recipe/terms.py`."""

__all__ = ["TERMS", "Seen", "Term"]
