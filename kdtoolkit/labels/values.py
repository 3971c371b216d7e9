"""What a teacher's values may be, checked in one place, and how probabilities become log-probabilities or logits.

Every function takes (rows, outputs) arrays and says which rows are wrong, so that the caller can name file and line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..tasks import Task
from ..teacher import OutputKind

FLOOR = math.log(1e-7)
"""Log-probabilities below this are set to it: a stored 0 says "very unlikely", never "impossible"."""

SUM_TOLERANCE = 1e-3


def problem(values: np.ndarray, kind: OutputKind, *, partial: bool = False) -> tuple[int, int, str] | None:
    """The first thing wrong with values of a kind, as (number of wrong rows, first wrong row, cause), or None.

    values: (rows, outputs). logits: finite or -inf, and not -inf throughout. logprobs: not above 0. values: finite.
    partial: rows that are NaN throughout are right: the teacher says nothing about them.
    """
    missing = np.isnan(values)
    silent = missing.all(1) if partial else np.zeros(len(values), bool)
    name = {"logits": "logits", "logprobs": "log-probabilities", "values": "values"}[kind]
    checks = [
        (missing.any(1) & ~silent, f"NaN among the {name}"),
        (np.isposinf(values).any(1), f"+inf among the {name}" + (" (-inf is allowed)" if kind == "logits" else "")),
    ]
    if kind == "values":
        checks.append((np.isneginf(values).any(1), "-inf among the values"))
    else:
        checks.append((np.isneginf(values).all(1), f"every one of the {name} is -inf"))
    if kind == "logprobs":
        checks.append(((values > SUM_TOLERANCE).any(1), "a log-probability above 0"))
    return _first(checks)


def probability_problem(probabilities: np.ndarray, *, sums: bool, partial: bool = False) -> tuple[int, int, str] | None:
    """As `problem`, for probabilities: none negative, none above 1, and rows that sum to one if `sums`."""
    missing = np.isnan(probabilities)
    silent = missing.all(1) if partial else np.zeros(len(probabilities), bool)
    total = np.where(missing, 0, probabilities).sum(1)
    checks = [
        (missing.any(1) & ~silent, "NaN among the probabilities"),
        ((probabilities < 0).any(1), "a negative probability"),
        ((probabilities > 1 + SUM_TOLERANCE).any(1), "a probability above 1"),
    ]
    if sums:
        off = ~(np.abs(total - 1) <= SUM_TOLERANCE) & ~silent
        example = f" (they sum to {total[off][0]:.6g})" if off.any() else ""
        checks.append((off, f"probabilities that do not sum to one{example}"))
    return _first(checks)


def floored(values: np.ndarray, kind: OutputKind) -> tuple[np.ndarray, int]:
    """The values with log-probabilities raised to `FLOOR`, and how many were below it; other kinds stay as they are."""
    if kind != "logprobs":
        return values, 0
    below = values < FLOOR
    return np.where(below, values.dtype.type(FLOOR), values), int(below.sum())


def from_probabilities(probabilities: np.ndarray, task: Task) -> np.ndarray:
    """Log-probabilities (classification; a 0 gives -inf) or one logit a label (multilabel), in float32.

    probabilities: (rows, outputs), checked; those of a classification are scaled to sum to one exactly.
    """
    exact = probabilities.astype(np.float64)
    if task.kind == "multilabel":
        exact = np.clip(exact, 1e-7, 1 - 1e-7)
        return (np.log(exact) - np.log1p(-exact)).astype(np.float32)
    with np.errstate(divide="ignore"):
        return np.log(exact / exact.sum(1, keepdims=True)).astype(np.float32)


def guess(values: np.ndarray, task: Task) -> Literal["logits", "probabilities", "logprobs"]:
    """What values (rows, outputs) are that nobody named; the majority of rows decides, so that a wrong row is found."""
    said = values[~np.isnan(values).any(1)].astype(np.float64)
    unit = ((said >= 0) & (said <= 1)).all(1)
    if not len(said) or unit.all():
        return "probabilities"
    if task.kind == "multilabel":
        return "logits"
    if (np.abs(said.clip(-1e6, 1e6).sum(1) - 1) <= SUM_TOLERANCE)[unit].sum() * 2 >= len(said):
        return "probabilities"
    negative = said[(said <= SUM_TOLERANCE).all(1)]
    if (np.abs(np.exp(negative).sum(1) - 1) <= SUM_TOLERANCE).sum() * 2 >= len(said):
        return "logprobs"
    return "logits"


def by_name(theirs: Sequence[str], task: Task) -> np.ndarray | None:
    """Positions of `task.labels` in `theirs`, or None if the two are not the same set of names.

    Names are matched as they are; if that fails, without regard to case, spaces, "_" and "-".
    """
    ours = list(task.labels)
    if len(theirs) != len(ours):
        return None
    for fold in (str, fold_name):
        positions = {fold(name): i for i, name in enumerate(theirs)}
        wanted = [fold(name) for name in ours]
        if len(positions) == len(theirs) and len(set(wanted)) == len(wanted) and set(wanted) == set(positions):
            return np.array([positions[name] for name in wanted], dtype=np.intp)
    return None


def fold_name(name: str) -> str:
    """A label name without what people write differently."""
    return "".join(c for c in name.casefold() if c not in " _-")


def _first(checks: Sequence[tuple[np.ndarray, str]]) -> tuple[int, int, str] | None:
    for wrong, cause in checks:
        if wrong.any():
            return int(wrong.sum()), int(wrong.argmax()), cause
    return None
