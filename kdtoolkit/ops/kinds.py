"""The kinds of soft loss, and the codes that stand for them in a tensor of one kind per row."""

from __future__ import annotations

KINDS: dict[str, int] = {
    "ce": 0,
    "kl": 1,
    "rkl": 2,
    "jsd": 3,
    "tvd": 4,
    "mse": 5,
    "mse_centered": 6,
    "bce": 7,
}
"""Name -> code. The codes are part of the interface of compiled backends: add at the end, never renumber."""

NAMES: dict[int, str] = {code: name for name, code in KINDS.items()}

DIVERGENCES = frozenset({"ce", "kl", "rkl", "jsd", "tvd"})
"""The kinds that compare two distributions over a row's columns; the others compare column by column."""
