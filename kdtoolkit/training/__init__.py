"""Training: one loop, exact resume, TensorBoard."""

from .loop import FitReport, fit
from .model import StudentModel

__all__ = ["FitReport", "StudentModel", "fit"]
