"""What a run will take: seconds by what is done, from a `Trial` and from counts of rows and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..data.rows import Rows
from ..recipe import Recipe
from ..schedule import extremes
from .trial import Trial, held_by_process

GIGA = 1e9


@dataclass(frozen=True)
class Length:
    """How long a training is. visits: rows seen in all; steps: updates."""

    visits: float
    steps: int


@dataclass
class Estimate:
    """Seconds by what is done (teaching, labelling, student, baseline, refinement), in the order of the work."""

    seconds: dict[str, float] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """What could not be estimated."""
    row_seconds: float | None = None
    """Forward and backward pass of the student over a row, where that is known."""

    def add(self, what: str, seconds: float) -> None:
        """Adds to what is known of one kind of work."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def total(self) -> str:
        """A line with the sum and its parts."""
        parts = ", ".join(f"{what} {duration(seconds)}" for what, seconds in self.seconds.items())
        line = f"in all: about {duration(sum(self.seconds.values()))} on this machine ({parts})"
        return line + (f", and {', '.join(dict.fromkeys(self.unknown))}" if self.unknown else "")


def length(rows: int, *, epochs: float, batch_rows: int, accumulate: int = 1, max_steps: int | None = None) -> Length:
    """Steps and visits of a training on `rows` rows: an epoch is ceil(rows / (batch_rows * accumulate)) steps."""
    per_step = batch_rows * accumulate
    # Less a rounding error, as BatchPlan has it.
    steps = max(math.ceil(epochs * math.ceil(rows / per_step) - 1e-6), 1)
    if max_steps is not None:
        steps = min(steps, max_steps)
    return Length(min(epochs * rows, steps * per_step), steps)


def training_seconds(trial: Trial, train: Length, row_tokens: float) -> float:
    """Seconds of a training on rows of so many tokens."""
    return train.visits * row_tokens * trial.token_seconds + train.steps * trial.update_seconds


def answering_seconds(trial: Trial, rows: int, row_tokens: float) -> float:
    """Seconds of reading rows once: a forward pass is about a third of forward and backward together."""
    return rows * row_tokens * trial.token_seconds / 3


def memory_line(trial: Trial, batch_rows: int, longest: float, optimizer: str) -> str:
    """What a training holds in memory, counted, where a forward pass has so many rows of the longest text.

    longest: tokens of that. What single operations need for a moment is not counted.
    """
    activations = trial.token_activations * batch_rows * longest
    kept = trial.weights + trial.gradients + trial.state
    return (
        f"about {gigabytes(held_by_process() + kept + activations)}: weights {gigabytes(trial.weights)}, gradients "
        f"{gigabytes(trial.gradients)}, {optimizer} {gigabytes(trial.state)} (in fp32), activations "
        f"{gigabytes(activations)} ({batch_rows:,} rows of {longest:.0f} tokens), and the process; on a GPU "
        f"{gigabytes(kept + activations)}, with bf16 also {gigabytes(trial.weights / 2)} of weights"
    )


def mean_tokens(recipe: Recipe, sizes: Mapping[str, int], tokens: Mapping[str, float]) -> float:
    """Tokens of a row as the sampler draws them. sizes: rows by task; tokens: mean tokens of a row by task."""
    exponent = sum(extremes(recipe.sampler.exponent)) / 2
    cap = recipe.sampler.cap
    shares = {name: (size if cap is None else min(size, cap)) ** exponent for name, size in sizes.items() if size}
    return sum(share * tokens[name] for name, share in shares.items()) / max(sum(shares.values()), 1e-9)


def mean_characters(rows: Rows) -> float:
    """Characters of a row, both texts together, of at most 100,000 rows."""
    counts = rows.characters()
    return float(counts[:: max(1, len(counts) // 100_000)].mean()) if len(counts) else 0.0


def usual_rows(rows: Rows, count: int) -> np.ndarray:
    """Numbers of at most `count` rows, ascending: labelled ones if there are, of about mean length."""
    labelled = np.flatnonzero(has_label(rows))
    chosen = labelled if len(labelled) else np.arange(len(rows))
    lengths = rows.characters()[chosen]
    return np.sort(chosen[np.argsort(np.abs(lengths - lengths.mean()), kind="stable")[:count]])


def has_label(rows: Rows) -> np.ndarray:
    """Which rows have a gold label, (rows,) bool."""
    labels = rows.labels()
    return np.isfinite(labels if labels.ndim == 1 else labels[:, 0])


def gigabytes(size: float) -> str:
    """A size for people."""
    return f"{size / GIGA:.1f} GB" if size >= GIGA / 10 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
