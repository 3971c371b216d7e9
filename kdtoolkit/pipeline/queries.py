"""The candidates of a query: rows of a ranked task with the same first text."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from ..data.prepare import TaskRows
from ..data.rows import Rows
from ..errors import InputError
from ..heads import ranking_columns
from ..recipe import Recipe

LEVEL_IS_OPEN = (
    "the head 'ranking' learns which candidate of a query is the best, and not what a single row is called: compare "
    "the probabilities of a query's candidates; the metrics, which judge row by row, say little"
)


def note_ranked_tasks(recipe: Recipe, data: Mapping[str, TaskRows]) -> None:
    """Adds to the notes of each ranked task what its metrics do not tell (`objectives.ranking.rank` says why)."""
    tasks = [rows.task for rows in data.values()]
    for position in ranking_columns(tasks, recipe.heads):
        data[tasks[position].name].notes.append(LEVEL_IS_OPEN)


def query_groups(rows: Rows, chunk: int = 4096) -> np.ndarray:
    """For each row the number of the first one with the same first text, (rows,) int64."""
    digests = np.empty(len(rows), "S32")
    for start in range(0, len(rows), chunk):
        first, _ = rows.texts(start, min(start + chunk, len(rows)))
        # Hexadecimal, for numpy drops zero bytes at the end.
        found = [blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest() for text in first]
        digests[start : start + len(first)] = found
    _, index, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return index[inverse].astype(np.int64)


def refuse_lone_candidates(recipe: Recipe, data: Mapping[str, TaskRows]) -> None:
    """Raises InputError for a ranked task in which no query has two candidates in train."""
    tasks = [rows.task for rows in data.values()]
    for position in ranking_columns(tasks, recipe.heads):
        name = tasks[position].name
        groups = query_groups(data[name].splits["train"])
        if len(np.unique(groups)) == len(groups):
            raise InputError(
                f"heads.tasks.{name}.name",
                f"'ranking' compares second texts of one first text, and no first text of '{name}' has two in train",
                f"set heads.tasks.{name}.name: auto, or give rows that share their first text",
            )
