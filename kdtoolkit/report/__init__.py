"""What a run says about itself: `results.json`, the table on the terminal, the student's model card."""

from .ensemble import ensemble_result
from .model_card import model_card
from .results import task_result, validate
from .table import render_table

__all__ = ["ensemble_result", "model_card", "render_table", "task_result", "validate"]
