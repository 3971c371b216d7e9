"""The fused loss of distillation: one public function, a readable reference, and the choice of a backend."""

from .backend import backend
from .kinds import KINDS
from .reference import soft_cross_entropy_reference
from .soft_cross_entropy import soft_cross_entropy
from .sparse import SparseTeacher

__all__ = ["KINDS", "SparseTeacher", "backend", "soft_cross_entropy", "soft_cross_entropy_reference"]
