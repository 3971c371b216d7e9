"""Which rows of train serve for what; decided by (seed, id), so that one text is never on two sides."""

from __future__ import annotations

import enum
from hashlib import blake2b

import numpy as np

LEAST_CALIBRATION_ROWS = 50
"""Fewer rows than this say too little to fit a temperature to."""


class Role(enum.IntEnum):
    """What a row of the train file is used for."""

    GOLD = 0
    """Trained on with its label, if it has one."""
    TRANSFER = 1
    """Trained on without its label."""
    DEV = 2
    CALIBRATION = 3
    OUT = 4


def held_out(ids: np.ndarray, rows: int, seed: int, purpose: str) -> np.ndarray:
    """Ids, (n,) 'S16' sorted, whose rows are at most `rows` of those in `ids` (rows,) 'S16': the first by hash.

    All rows of an id go together. Another purpose or seed is another choice.
    """
    unique, counts = np.unique(ids, return_counts=True)
    salt = f"{seed} {purpose}".encode()
    # Rebuilt from the array's bytes, because numpy drops trailing zero bytes of single elements.
    data = unique.tobytes()
    keys = [blake2b(salt + data[16 * n : 16 * n + 16], digest_size=8).digest() for n in range(len(unique))]
    chosen, left = [], rows
    for place in sorted(range(len(unique)), key=keys.__getitem__):
        if left <= 0:
            break
        if counts[place] <= left:
            chosen.append(place)
            left -= int(counts[place])
    return unique[np.sort(np.array(chosen, dtype=np.int64))]


def assign_roles(
    ids: np.ndarray,
    labelled: np.ndarray,
    *,
    seed: int,
    hold_out_dev: bool,
    gold_rows: int | None,
    transfer_rows: int | None,
    calibration_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The role of each row of train, (rows,) uint8, and the ids held out of it, (n,) 'S16'.

    ids: (rows,) 'S16'; labelled: (rows,) bool, whether the file has a gold label.
    In this order: a tenth of the labelled rows becomes dev (`hold_out_dev`); of the rest, the first `gold_rows` stay
    gold, the next `transfer_rows` become transfer text, what follows is left out; at most `calibration_rows` and a
    tenth of the labelled gold rows become calibration (none if that is less than 50). Other rows of a held-out text are
    left out, so that no text is on two sides.
    """
    roles = np.full(len(ids), Role.GOLD, dtype=np.uint8)
    held = np.empty(0, dtype="S16")
    if hold_out_dev:
        held = held_out(ids[labelled], int(labelled.sum()) // 10, seed, "dev")
        same_text = np.isin(ids, held)
        roles[same_text] = np.where(labelled[same_text], Role.DEV, Role.OUT)
    if gold_rows is not None:
        rest = np.flatnonzero(roles == Role.GOLD)
        roles[rest[gold_rows:]] = Role.TRANSFER
        if transfer_rows is not None:
            roles[rest[gold_rows + transfer_rows :]] = Role.OUT
    gold = (roles == Role.GOLD) & labelled
    limit = min(calibration_rows, int(gold.sum()) // 10)
    if limit >= LEAST_CALIBRATION_ROWS:
        chosen = held_out(ids[gold], limit, seed, "calibration")
        kept_apart = gold & np.isin(ids, chosen)
        if kept_apart.sum() >= LEAST_CALIBRATION_ROWS:
            used = (roles == Role.GOLD) | (roles == Role.TRANSFER)
            roles[used & np.isin(ids, chosen)] = Role.OUT
            roles[kept_apart] = Role.CALIBRATION
            held = np.union1d(held, chosen)
    return roles, held
