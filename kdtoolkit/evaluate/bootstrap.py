"""Percentile bootstrap intervals of a metric (Efron 1979): the evaluated rows are drawn again, with replacement.

Drawing rows is drawing what a metric is made of. Accuracy needs the number of right rows, which is binomial; F1 and MCC
need the confusion matrix, which is multinomial; both are exact and cost nothing. Correlations, squared errors and
multilabel F1 draw row numbers; Spearman ranks every sample anew.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy

from ..tasks import Task
from .metrics import decisions, labelled, pearson

CHUNK_CELLS = 2_000_000
"""Row numbers drawn at once: bounds the memory to some tens of megabytes whatever the number of rows."""


def interval(
    task: Task, outputs: np.ndarray, labels: np.ndarray, metric: str, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval (2.5th and 97.5th percentile) of `metric`; arguments and errors are those of `scores`.

    The same for the same rows in any order, and for the same seed.
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, received {samples}")
    outputs, labels = labelled(task, outputs, labels)
    low, high = np.quantile(_draws(task, outputs, labels, metric, samples, np.random.default_rng(seed)), (0.025, 0.975))
    return float(low), float(high)


def _draws(
    task: Task, outputs: np.ndarray, labels: np.ndarray, metric: str, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """(samples,) values of the metric."""
    if task.kind == "regression":
        values = outputs[:, 0]
        order = np.lexsort((values, labels))  # so that the order of rows changes nothing
        pair = np.stack((values[order], labels[order]), 1)
        if metric == "mse":
            errors = (pair[:, 0] - pair[:, 1]) ** 2
            return _row_draws(errors[:, None], samples, rng, lambda drawn: drawn[..., 0].mean(1))
        return _row_draws(pair, samples, rng, _spearman if metric == "spearman" else _pearson)
    predicted, gold = decisions(task, outputs), labels.astype(np.int64)
    rows = len(gold)
    if metric in ("accuracy", "exact_match"):
        right = predicted == gold if gold.ndim == 1 else (predicted == gold).all(1)
        return rng.binomial(rows, right.mean(), size=samples) / rows
    if task.kind == "multilabel":
        cells = np.concatenate((gold & predicted, gold + predicted), 1)  # (rows, 2 x labels): hits, and both counts
        order = np.lexsort(cells.T)
        return _row_draws(cells[order], samples, rng, lambda drawn: _f1(drawn.sum(1), micro=metric == "micro_f1"))
    classes = len(task.labels)
    counts = np.bincount(gold * classes + predicted, minlength=classes**2)
    drawn = rng.multinomial(rows, counts / rows, size=samples).reshape(samples, classes, classes)
    return from_confusion(metric, drawn)


def from_confusion(metric: str, confusion: np.ndarray) -> np.ndarray:
    """f1, macro_f1 or mcc of confusion matrices (samples, classes, classes), gold by rows; (samples,) values."""
    gold, predicted = confusion.sum(2).astype(np.float64), confusion.sum(1).astype(np.float64)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    if metric == "f1" and confusion.shape[1] == 2:
        return _f1(np.stack((hits[:, 1], gold[:, 1] + predicted[:, 1]), 1), micro=True)
    if metric in ("f1", "macro_f1"):
        return _f1(np.concatenate((hits, gold + predicted), 1), micro=False)
    total = gold.sum(1)
    covariance = hits.sum(1) * total - (gold * predicted).sum(1)
    spread = np.sqrt((total**2 - (gold**2).sum(1)) * (total**2 - (predicted**2).sum(1)))
    return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1.0), 0.0)


def _f1(cells: np.ndarray, *, micro: bool) -> np.ndarray:
    """F1 of (samples, 2 x labels): hits, then gold plus predicted counts; labels that never occur are left out."""
    hits, both = np.split(cells, 2, axis=1)
    if micro:
        hits, both = hits.sum(1, keepdims=True), both.sum(1, keepdims=True)
    f1 = np.where(both > 0, 2 * hits / np.maximum(both, 1), 0.0)
    return f1.sum(1) / np.maximum((both > 0).sum(1), 1)


def _pearson(drawn: np.ndarray) -> np.ndarray:
    return pearson(drawn[..., 0], drawn[..., 1])


def _spearman(drawn: np.ndarray) -> np.ndarray:
    return pearson(scipy.stats.rankdata(drawn[..., 0], axis=1), scipy.stats.rankdata(drawn[..., 1], axis=1))


def _row_draws(
    cells: np.ndarray, samples: int, rng: np.random.Generator, metric: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """`metric` of (chunk, rows, columns) draws of the rows of `cells`, chunk by chunk."""
    rows = len(cells)
    chunk = max(CHUNK_CELLS // (rows * cells.shape[1]), 1)
    sizes = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    return np.concatenate([metric(cells[rng.integers(0, rows, size=(size, rows))]) for size in sizes])
