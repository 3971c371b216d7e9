"""What a student is trained on: pure functions of outputs, labels and teacher values that sum over rows."""

from .distillation import DistillationObjective, ObjectiveResult
from .rows import RowFacts

__all__ = ["DistillationObjective", "ObjectiveResult", "RowFacts"]
