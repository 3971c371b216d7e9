"""`optimizer.embeddings`: what training does with the table of the student's word embeddings."""

from __future__ import annotations

from torch import nn

from ..errors import InputError
from ..recipe.checks.training import not_sparse
from ..recipe.schema import Optimizer as OptimizerSection

WORTHWHILE = 1_000_000
"""Parameters from which a CPU saves time so, with batches of a few hundred word pieces (BENCHMARKS.md)."""


def table_of(model: nn.Module, section: OptimizerSection) -> nn.Embedding | None:
    """The table of word embeddings of a model's student, or of a student.

    Raises InputError where something is asked of it and there is none.
    """
    student = getattr(model, "student", model)
    asked = getattr(student, "word_embedding", None)
    table: nn.Embedding | None = asked() if callable(asked) else None
    if table is None and section.embeddings in ("sparse", "frozen"):
        raise InputError(
            "optimizer.embeddings", f"{type(student).__name__} has no table of word embeddings that it tells",
            "write optimizer.embeddings=dense, or give it a method word_embedding",
        )  # fmt: skip
    return table


def frozen_or_sparse(
    model: nn.Module, section: OptimizerSection, *, device: str, compiled: bool, projected: bool, sharded: bool
) -> nn.Embedding | None:
    """Freezes the table if the recipe says so; otherwise the table that is to be updated row by row, or None.

    auto: where that saves time and is possible: a large table, AdamW, a CPU, nothing compiled, no projected gradients.
    What is sharded has dense gradients whatever is asked for: the weights are the same.
    Raises InputError where "sparse" was asked for and is not possible, or there is no table.
    """
    table = table_of(model, section)
    if section.embeddings == "frozen" and table is not None:
        table.weight.requires_grad_(False)
    if section.embeddings in ("dense", "frozen") or table is None or not table.weight.requires_grad:
        return None
    found = not_sparse(section, compiled=compiled, projected=projected)
    if section.embeddings == "sparse" and found is not None:
        raise InputError("optimizer.embeddings", f"'sparse' does not go with {found}", "write 'auto' or 'dense'")
    fits = section.embeddings == "sparse" or (device == "cpu" and table.weight.numel() >= WORTHWHILE)
    return table if fits and found is None and not sharded else None
