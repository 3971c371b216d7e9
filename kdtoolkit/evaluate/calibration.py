"""Whether a model's confidence can be believed, and the temperature that makes it so."""

from __future__ import annotations

import math

import numpy as np
import scipy

TEMPERATURES = (0.05, 20.0)


def probabilities(logits: np.ndarray, temperature: float = 1.0, *, multilabel: bool = False) -> np.ndarray:
    """Softmax, or a sigmoid per label, of logits (rows, classes) divided by the temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return scipy.special.expit(scaled) if multilabel else scipy.special.softmax(scaled, axis=1)


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: the mean distance of confidence from the share of right decisions, a fraction.

    probabilities: (rows, classes). labels: (rows,) class numbers, or (rows, classes) of 0 and 1 for multilabel, where
    every decision counts by itself. Rows whose label is NaN are left out; bins have equal width in confidence.
    Raises ValueError if no row has a label.
    Source: Guo, Pleiss, Sun and Weinberger, 2017, section 2 (arXiv:1706.04599).
    """
    probabilities, labels = _known(probabilities, labels)
    if labels.ndim == 1:
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    else:
        confidence = np.maximum(probabilities, 1 - probabilities).ravel()
        right = ((probabilities > 0.5) == (labels > 0.5)).ravel()
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # bins are (low, high]
    excess = np.bincount(places, weights=confidence - right, minlength=bins)
    return float(np.abs(excess).sum() / len(confidence))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature, 0.05 to 20, that minimises the negative log-likelihood of the labels.

    logits: (rows, classes). labels: (rows,) class numbers, or (rows, classes) of 0 and 1 for multilabel. Rows whose
    label is NaN are left out. None for regression (one column and plain labels), or if no row has a label.
    Source: Guo et al. 2017, section 4 (arXiv:1706.04599).
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if (labels.ndim == 1 and logits.shape[1] == 1) or not (~np.isnan(labels)).any():
        return None
    logits, labels = _known(logits, labels)

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        if labels.ndim == 2:
            return float(np.logaddexp(0.0, np.where(labels > 0.5, -scaled, scaled)).mean())
        gold = np.take_along_axis(scaled, labels.astype(np.int64)[:, None], 1)[:, 0]
        return float((scipy.special.logsumexp(scaled, axis=1) - gold).mean())

    low, high = map(math.log, TEMPERATURES)
    best = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.clip(math.exp(best.x), *TEMPERATURES))


def _known(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(labels) if labels.ndim == 1 else ~np.isnan(labels).any(1)
    if not known.any():
        raise ValueError(f"none of {len(labels)} rows has a label to calibrate against")
    return values[known], labels[known]
