"""The fused loss of distillation, alone or with the layer before it; a readable reference; the choice of a backend."""

from .backend import backend
from .kinds import KINDS
from .linear_soft_cross_entropy import linear_soft_cross_entropy
from .reference import soft_cross_entropy_reference
from .soft_cross_entropy import soft_cross_entropy
from .sparse import SparseTeacher

__all__ = [
    "KINDS",
    "SparseTeacher",
    "backend",
    "linear_soft_cross_entropy",
    "soft_cross_entropy",
    "soft_cross_entropy_reference",
]
