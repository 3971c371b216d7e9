"""Pretrained word vectors into the student's embedding: copied, or projected to its width."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..student import Student
from ..tokenizers import Tokenizer


def copy_vectors(student: Student, tokenizer: Tokenizer, how: str) -> None:
    """Fills the student's word embedding with the tokenizer's vectors; pieces without a vector (NaN rows) stay random.

    A width that differs needs how="project": the vectors' principal components at the student's width.
    Raises InputError if the student has no word embedding, or the widths differ and nothing was said of it.
    """
    vectors = tokenizer.vectors()
    if vectors is None:
        return
    table = table_for(student, vectors.shape[1], how)
    if vectors.shape[1] != table.weight.shape[1]:
        vectors = project(vectors, table.weight.shape[1])
    known = np.isfinite(vectors).all(1)
    known[0] = False  # padding stays zero
    with torch.no_grad():
        table.weight[torch.from_numpy(known)] = torch.from_numpy(vectors[known].astype(np.float32)).to(table.weight)


def table_for(student: Student, width: int, how: str) -> nn.Embedding:
    """The student's word embedding, into which vectors of `width` may be put; InputError if they may not."""
    table = student.word_embedding()
    if table is None:
        raise InputError(
            "tokenizer.vectors", f"the student {type(student).__name__} has no word embedding to copy them into"
        )
    own = table.weight.shape[1]
    if own != width and how != "project":
        # For the tokenizer `words` the key is the path of a file, which leaves no place for "project".
        projected = "tokenizer.vectors to project, or " if how == "copy" else ""
        raise InputError(
            "tokenizer.vectors",
            f"the vectors have width {width}, the student's embedding {own}",
            f"set {projected}the student's embedding width to {width}",
        )
    return table


def project(vectors: np.ndarray, width: int) -> np.ndarray:
    """The vectors' first `width` principal components, (rows, width); NaN rows stay NaN; zeros if there are fewer."""
    known = np.isfinite(vectors).all(1)
    centred = vectors[known].astype(np.float64)
    centred -= centred.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    # The sign of a principal axis is arbitrary; fixing it makes the projection the same on every machine.
    axes = axes[:width] * np.where(axes[:width].sum(1, keepdims=True) < 0, -1.0, 1.0)
    projected = np.full((len(vectors), width), np.nan)
    projected[known] = 0.0
    projected[np.ix_(known, np.arange(len(axes)))] = centred @ axes.T
    return projected
