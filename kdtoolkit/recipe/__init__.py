"""Recipes: what a run is, checked before any long work."""

from .schema import Recipe

__all__ = ["Recipe"]
