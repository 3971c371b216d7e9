"""Balancing of tasks: weights of their losses, and gradients that conflict."""

from .dwa import DynamicWeights, dwa_weights
from .pcgrad import projected_sum, shuffled_orders
from .uncertainty import INITIAL_LOG_VARIANCE, LogVariances, precision, uncertainty_losses

__all__ = [
    "INITIAL_LOG_VARIANCE",
    "DynamicWeights",
    "LogVariances",
    "dwa_weights",
    "precision",
    "projected_sum",
    "shuffled_orders",
    "uncertainty_losses",
]
