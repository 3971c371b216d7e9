"""What the members of an ensemble are worth alone and together, and how far they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluate import disagreement, scores
from ..tasks import Task


def ensemble_result(
    task: Task,
    outputs: np.ndarray | None,
    labels: np.ndarray,
    members: Sequence[Mapping[str, Any]],
    together: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """The entry "ensemble" of a task in results.json; None where no more than one teaches.

    outputs: (rows, members, outputs), NaN where a member says nothing. labels: of the rows. members: "name", "weight"
    and "temperature" of each. together: the entry "teacher": their combination, measured.
    """
    if outputs is None or outputs.shape[1] < 2:
        return None
    entries = []
    for number, member in enumerate(members):
        own = np.asarray(outputs[:, number])
        known = ~np.isnan(own).any(1) & ~np.isnan(labels if labels.ndim == 1 else labels[:, 0])
        value = scores(task, own[known], labels[known])[task.metric] if known.any() else None
        entries.append({**member, "value": value})
    return {
        "members": entries,
        "value": None if together is None else together["value"],
        "disagreement": disagreement(task, outputs),
    }


def ensemble_sentences(tasks: Mapping[str, Any]) -> list[str]:
    """One sentence a task that has an ensemble. tasks: as in results.json."""
    return [_sentence(name, task) for name, task in tasks.items() if task.get("ensemble")]


def _sentence(name: str, task: Mapping[str, Any]) -> str:
    found = task["ensemble"]
    alone = ", ".join("-" if m["value"] is None else f"{m['value']:.3f}" for m in found["members"])
    together = "" if found["value"] is None else f", {found['value']:.3f} together"
    text = f"{name}: ensemble of {len(found['members'])}: {alone} alone{together}"
    apart = found["disagreement"]
    if apart is None:
        return f"{text}."
    # Metrics of values are correlations and errors; what lies apart there are the values themselves.
    if task["metric"] in ("pearson", "spearman", "mse"):
        return f"{text}; their values lie {apart:.3g} apart (mean standard deviation)."
    return f"{text}; they disagree on {apart:.1%} of the rows."
