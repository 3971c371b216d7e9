"""`optimizer.embeddings`: what training does with the table of the student's word embeddings."""

from __future__ import annotations

from torch import nn

from ..errors import InputError
from ..recipe.schema import Optimizer as OptimizerSection

WORTHWHILE = 1_000_000
"""Parameters from which a CPU saves time so, with batches of a few hundred word pieces (BENCHMARKS.md)."""


def frozen_or_sparse(
    model: nn.Module, section: OptimizerSection, *, device: str, processes: int, compiled: bool, projected: bool
) -> nn.Embedding | None:
    """Freezes the table if the recipe says so; otherwise the table that is to be updated row by row, or None.

    auto: row by row where that saves time and is possible: a large table, AdamW, a CPU, one process, nothing compiled,
    no projected gradients. Raises InputError where "sparse" was asked for and is not possible, or there is no table to
    freeze.
    """
    if section.embeddings == "dense":
        return None
    student = getattr(model, "student", model)
    asked = getattr(student, "word_embedding", None)
    table: nn.Embedding | None = asked() if callable(asked) else None
    if section.embeddings == "auto":
        fits = table is not None and table.weight.requires_grad and table.weight.numel() >= WORTHWHILE
        return table if fits and device == "cpu" and not _obstacle(section, processes, compiled, projected) else None
    if table is None:
        raise InputError(
            "optimizer.embeddings", f"{type(student).__name__} has no table of word embeddings that it tells",
            "write optimizer.embeddings=dense, or give it a method word_embedding",
        )  # fmt: skip
    if section.embeddings == "frozen":
        table.weight.requires_grad_(False)
        return None
    if obstacle := _obstacle(section, processes, compiled, projected):
        raise InputError("optimizer.embeddings", f"'sparse' does not go with {obstacle}", "write 'auto' or 'dense'")
    return table if table.weight.requires_grad else None


def _obstacle(section: OptimizerSection, processes: int, compiled: bool, projected: bool) -> str | None:
    if section.name != "adamw":
        return f"optimizer.name={section.name}"
    if section.betas[0] > section.betas[1]:  # what a row has to make up for would then grow with every step
        return f"optimizer.betas={list(section.betas)}"
    if processes > 1:
        return f"{processes} processes"
    if compiled:
        return "train.compile"
    return "balance.gradients=pcgrad" if projected else None
