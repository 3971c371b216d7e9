"""Values that may change over training: a number, or {from, to, shape, start, end}."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Schedule(BaseModel):
    """A value that goes from `from` to `to` between the fractions `start` and `end` of training.

    shape: linear | cosine | step (jumps at the middle of start and end) | exponential (geometric; both ends positive).
    `{from: 0.0, to: 1.0, shape: linear}` for alpha is BAM's teacher annealing (arXiv:1907.04829, section 3).
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True, allow_inf_nan=False)

    from_: float = Field(alias="from")
    to: float
    shape: Literal["linear", "cosine", "step", "exponential"] = "linear"
    start: float = Field(default=0.0, ge=0.0, le=1.0)
    end: float = Field(default=1.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if self.end <= self.start:
            raise ValueError(f"end ({self.end}) must lie after start ({self.start})")
        if self.shape == "exponential" and not (self.from_ > 0 and self.to > 0):
            raise ValueError("an exponential schedule needs both ends positive")
        return self

    def at(self, fraction: float) -> float:
        """The value at `fraction` of training, 0 at the first step and 1 at the last."""
        x = min(max((fraction - self.start) / (self.end - self.start), 0.0), 1.0)
        if self.shape == "exponential":
            return math.exp((1 - x) * math.log(self.from_) + x * math.log(self.to))
        if self.shape == "cosine":
            x = (1 - math.cos(math.pi * x)) / 2
        elif self.shape == "step":
            x = float(x >= 0.5)
        return (1 - x) * self.from_ + x * self.to


Value = float | Schedule


def value_at(value: Value, step: int, steps: int) -> float:
    """The number that `value` is at `step` (0-based) of `steps` optimizer steps."""
    if isinstance(value, Schedule):
        return value.at(step / max(steps - 1, 1))
    return float(value)


def extremes(value: Value) -> tuple[float, float]:
    """The smallest and the largest number that `value` takes."""
    if isinstance(value, Schedule):
        return min(value.from_, value.to), max(value.from_, value.to)
    return float(value), float(value)
