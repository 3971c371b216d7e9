"""What a model is worth: metrics, intervals, calibration, agreement with the teacher, latency."""

from .agreement import agreement, gap_closed
from .bootstrap import interval
from .calibration import ece, fit_temperature, probabilities
from .ensemble import combined, disagreement, fit_weights
from .latency import measure
from .metrics import LOWER_IS_BETTER, scores

__all__ = ["LOWER_IS_BETTER", "agreement", "combined", "disagreement", "ece", "fit_temperature", "fit_weights",
           "gap_closed", "interval", "measure", "probabilities", "scores"]  # fmt: skip
