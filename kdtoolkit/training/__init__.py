"""Training: one loop, exact resume, TensorBoard."""

from .loop import SCORE, FitReport, fit
from .model import StudentModel

__all__ = ["SCORE", "FitReport", "StudentModel", "fit"]
