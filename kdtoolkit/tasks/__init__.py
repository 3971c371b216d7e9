"""Tasks: what is to be predicted, from which columns, and how it is measured."""

from .glue import GLUE, canonical_name
from .task import Task

__all__ = ["GLUE", "Task", "canonical_name"]
