"""Several teachers as one: how their outputs are combined, with what weights, and how far they disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import scipy

from ..tasks import Task
from .metrics import decisions

How = Literal["probabilities", "logits"]
LEAST_WEIGHT = 1e-6
"""Of a fitted weight: such a member decides nothing, unless all others are silent about a row."""
TINY = 1e-12


def combined(task: Task, outputs: np.ndarray, weights: Sequence[float], *, how: How) -> np.ndarray:
    """An ensemble as the student learns from it: (rows, members, outputs) to (rows, outputs).

    how: probabilities are averaged (MT-DNN-KD, arXiv:1904.09482, section 3) and given back as logits, or the logits
    are (TextBrewer, arXiv:2002.12620); values are averaged. A member that says nothing (NaN) of a row is left out.
    """
    values = np.asarray(outputs, dtype=np.float64)
    said = ~np.isnan(values)  # a logit of -inf is a word too: this class is impossible
    share = np.broadcast_to(np.asarray(weights)[None, :, None], values.shape) * said
    share = share / np.maximum(share.sum(1, keepdims=True), 1e-300)
    values = np.where(said, values, 0.0)
    silent = share.sum(1) == 0
    if task.kind == "regression" or how == "logits":
        mean = (share * values).sum(1)
    elif task.kind == "multilabel":
        probability = (share / (1.0 + np.exp(-values))).sum(1).clip(TINY, 1 - TINY)
        mean = np.log(probability) - np.log1p(-probability)
    else:
        powers = np.exp(values - values.max(2, keepdims=True))
        mean = np.log((share * powers / powers.sum(2, keepdims=True)).sum(1).clip(TINY))
    return np.where(silent, np.nan, mean).astype(np.float32)


def fit_weights(task: Task, outputs: np.ndarray, labels: np.ndarray, *, how: How) -> list[float]:
    """Weights, 1 in all and each at least LEAST_WEIGHT, with which the combination fits the labels best.

    outputs: (rows, members, outputs), rows that some member says nothing about are left out, as are rows without label.
    labels: (rows,) class numbers or values; (rows, outputs) of 0 and 1 for multilabel.
    What is minimised is the mean negative log-likelihood of `combined`, of all labels together for multilabel, and for
    regression the mean squared error. Each is convex in the weights, so there is one least value, wherever one starts.
    Raises ValueError if no row has a label and a word of every member.
    """
    values, gold = np.asarray(outputs, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(gold) if gold.ndim == 1 else ~np.isnan(gold).any(1)
    known &= ~np.isnan(values).any((1, 2))
    if not known.any():
        raise ValueError(f"task '{task.name}': no row has a label and a word of every member")
    values, gold = values[known], gold[known]
    members = values.shape[1]
    if members == 1:
        return [1.0]
    loss = _loss(task, values, gold, how)
    found = scipy.optimize.minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(LEAST_WEIGHT, 1.0)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    weights = np.clip(found.x, LEAST_WEIGHT, None)
    weights = weights / weights.sum()
    even = np.full(members, 1 / members)
    # Where members are alike, the search may end a rounding error above where it began.
    return list(map(float, weights if loss(weights)[0] < loss(even)[0] else even))


def disagreement(task: Task, outputs: np.ndarray) -> float | None:
    """How far the members of an ensemble disagree, over rows about which at least two say something; None: none.

    outputs: (rows, members, outputs), NaN where a member says nothing. The share of rows on which their decisions are
    not all the same (multilabel: any of them); for regression the mean standard deviation over members, in the labels'
    unit.
    """
    values = np.asarray(outputs, dtype=np.float64)
    said = np.asarray(~np.isnan(values).any(2))
    enough = said.sum(1) >= 2
    values, said = values[enough], said[enough]
    if not len(values):
        return None
    if task.kind == "regression":
        spread = np.where(said, values[..., 0], np.nan)
        return float(np.nanstd(spread, axis=1).mean())
    decided = np.stack([decisions(task, np.nan_to_num(values[:, member])) for member in range(values.shape[1])], 1)
    decided = decided.reshape(*decided.shape[:2], -1)
    first = np.take_along_axis(decided, said.argmax(1)[:, None, None], 1)
    differs = (np.not_equal(decided, first).any(2) & said).any(1)
    return float(differs.mean())


def _loss(
    task: Task, values: np.ndarray, gold: np.ndarray, how: How
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """loss(weights) gives the value that is minimised and its gradient, (members,)."""
    if task.kind == "regression":

        def squared(weights: np.ndarray) -> tuple[float, np.ndarray]:
            error = values[..., 0] @ weights - gold
            return float((error**2).mean()), 2 * (error[:, None] * values[..., 0]).mean(0)

        return squared
    if how == "probabilities":
        if task.kind == "multilabel":
            right = scipy.special.expit(np.where(gold[:, None] > 0.5, values, -values))  # (rows, members, labels)
            right = right.swapaxes(1, 2).reshape(-1, values.shape[1])
        else:
            row = np.arange(len(gold))
            right = scipy.special.softmax(values, axis=2)[row, :, gold.astype(np.int64)]  # (rows, members)

        def of_probabilities(weights: np.ndarray) -> tuple[float, np.ndarray]:
            mean = (right @ weights).clip(TINY)
            return float(-np.log(mean).mean()), -(right / mean[:, None]).mean(0)

        return of_probabilities
    finite = np.nan_to_num(values, neginf=-1e4, posinf=1e4)
    targets = gold if task.kind == "multilabel" else np.eye(values.shape[2])[gold.astype(np.int64)]

    def of_logits(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.einsum("rmo,m->ro", finite, weights)
        if task.kind == "multilabel":
            value = np.logaddexp(0.0, np.where(targets > 0.5, -logits, logits)).mean()
            error = (scipy.special.expit(logits) - targets) / targets.shape[1]
        else:
            value = (scipy.special.logsumexp(logits, axis=1) - (logits * targets).sum(1)).mean()
            error = scipy.special.softmax(logits, axis=1) - targets
        return float(value), np.einsum("ro,rmo->m", error, finite) / len(logits)

    return of_logits
