"""The figures of a task, from raw outputs and gold labels.

scikit-learn and parts of scipy take two seconds and a hundred megabytes to load: they are, where a figure needs them.
"""

from __future__ import annotations

import numpy as np
import scipy

from ..tasks import Task

LOWER_IS_BETTER = frozenset({"mse"})


def scores(task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All metrics of `task.metrics`, in that order.

    outputs: (rows, task.outputs) logits, or values for regression.
    labels: (rows,) class number or value; multilabel: (rows, labels) of 0 and 1. Rows whose label is NaN are left out.
    f1 is of the class labels[1] for two classes and the macro average for more; macro averages are over the classes
    that occur in labels or decisions. Correlations (mcc, pearson, spearman) of something constant are 0.0.
    Raises ValueError if shapes do not fit, an output is NaN, or no row has a label.
    """
    outputs, labels = labelled(task, outputs, labels)
    return {name: _score(name, task, outputs, labels) for name in task.metrics}


def labelled(task: Task, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checked outputs and labels, float64, of the rows that have a label; the errors are those of `scores`."""
    outputs, labels = np.asarray(outputs, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    width = (task.outputs,) if task.kind == "multilabel" else ()
    if outputs.ndim != 2 or outputs.shape[1] != task.outputs or labels.shape != (len(outputs), *width):
        raise ValueError(
            f"task '{task.name}': expected outputs (rows, {task.outputs}) and labels (rows,{' labels' * bool(width)}), "
            f"received {outputs.shape} and {labels.shape}"
        )
    known = ~np.isnan(labels) if labels.ndim == 1 else ~np.isnan(labels).any(1)
    if not known.any():
        raise ValueError(f"task '{task.name}': none of {len(labels)} rows has a label to score against")
    outputs, labels = outputs[known], labels[known]
    if np.isnan(outputs).any():
        raise ValueError(f"task '{task.name}': {int(np.isnan(outputs).any(1).sum())} labelled rows have NaN outputs")
    return outputs, labels


def decisions(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Class numbers (rows,) for classification, 0 and 1 (rows, labels) for multilabel (a logit above 0 means yes)."""
    return (outputs > 0).astype(np.int64) if task.kind == "multilabel" else outputs.argmax(1)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis; 0.0 where x or y is constant."""
    # Not asked of the centred values: subtracting the mean of equal numbers can leave rounding noise that correlates.
    varies = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    product = np.sqrt((x * x).sum(-1)) * np.sqrt((y * y).sum(-1))
    varies &= product > 0
    return np.where(varies, (x * y).sum(-1) / np.where(varies, product, 1.0), 0.0).clip(-1.0, 1.0)


def _score(name: str, task: Task, outputs: np.ndarray, labels: np.ndarray) -> float:
    if task.kind == "regression":
        return _correlation(name, outputs[:, 0], labels)
    predicted, gold = decisions(task, outputs), labels.astype(np.int64)
    if name in ("accuracy", "exact_match"):
        right = gold == predicted
        return float((right.all(1) if right.ndim == 2 else right).mean())
    if name == "mcc":
        from sklearn.metrics import matthews_corrcoef

        constant = (predicted == predicted[0]).all() or (gold == gold[0]).all()
        return 0.0 if constant else float(matthews_corrcoef(gold, predicted))
    if name == "f1" and len(task.labels) == 2:
        from sklearn.metrics import f1_score

        return float(f1_score(gold, predicted, pos_label=1, average="binary", zero_division=0.0))
    if task.kind == "multilabel":
        if name == "macro_f1":  # a label that neither occurs nor is predicted says nothing
            occurs = (gold | predicted).any(0)
            gold, predicted = gold[:, occurs], predicted[:, occurs]
        if not gold.size or not (gold | predicted).any():
            return 0.0
        return float(np.mean(_f1_of(gold, predicted, micro=name == "micro_f1")))
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, average="macro", zero_division=0.0))


def _f1_of(gold: np.ndarray, predicted: np.ndarray, *, micro: bool) -> np.ndarray:
    axis = None if micro else 0
    hits = (gold & predicted).sum(axis)
    return 2 * hits / (gold.sum(axis) + predicted.sum(axis))


def _correlation(name: str, values: np.ndarray, labels: np.ndarray) -> float:
    if name == "mse":
        return float(np.square(labels - values).mean())
    if name == "spearman":
        values, labels = scipy.stats.rankdata(values), scipy.stats.rankdata(labels)
    return float(pearson(values, labels))
