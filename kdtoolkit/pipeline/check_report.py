"""What `kdtool check` prints."""

from __future__ import annotations

from dataclasses import dataclass, field

from .estimate import Estimate


@dataclass
class CheckReport:
    """Facts, and what may be worth a second thought; errors are raised instead. estimate: of the time of a run."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    estimate: Estimate = field(default_factory=Estimate)
