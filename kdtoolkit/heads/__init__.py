"""Heads: from a student's features to one row of outputs per example, for all tasks of a run."""

from .multi_task import HeadOutputs, MultiTaskHeads, ranking_columns
from .refusal import refusal

__all__ = ["HeadOutputs", "MultiTaskHeads", "ranking_columns", "refusal"]
