"""What teachers say about text: stored once, joined to rows when a student is trained."""

from .join import teacher_array
from .labelling import Engine, LabelReport, label_rows
from .store import LabelStore, default_store

__all__ = ["Engine", "LabelReport", "LabelStore", "default_store", "label_rows", "teacher_array"]
