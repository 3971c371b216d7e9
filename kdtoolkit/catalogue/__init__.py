"""What each objective, balance, sampler, head, schedule and augmentation rule is: formula, source, options, limits.

For `kdtool explain`; nothing here imports torch.
"""

from __future__ import annotations

from .augmentation import AUGMENTATION
from .balances import BALANCES
from .entry import Entry, OptionLine
from .heads import HEADS
from .losses import LOSSES
from .samplers import SAMPLERS
from .schedules import SCHEDULES
from .terms import TERM_ENTRIES


def _by_name(entries: tuple[Entry, ...]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


CATALOGUE: dict[str, dict[str, Entry]] = {
    "objective": _by_name(LOSSES + TERM_ENTRIES),
    "balance": _by_name(BALANCES),
    "sampler": _by_name(SAMPLERS),
    "head": _by_name(HEADS),
    "schedule": _by_name(SCHEDULES),
    "augment": _by_name(AUGMENTATION),
}
"""Kind -> name -> entry."""

__all__ = ["CATALOGUE", "Entry", "OptionLine"]
