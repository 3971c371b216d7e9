"""Clipping by the norm of the whole gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import compiled_updates


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients, sparse ones too, to a common 2-norm of at most `max_norm`, as torch does; the norm before."""
    if not any(p.grad is not None and p.grad.is_sparse for p in parameters):
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    values = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:  # entries of one row count together
                parameter.grad = coalesced(parameter.grad)
            values.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    if compiled_updates.can(values):
        pieces = compiled_updates.Pieces.of(values)
        return clip_pieces([pieces], pieces.squares() ** 0.5, max_norm, values[0].dtype)
    norm = nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def clip_pieces(
    gradients: Sequence[compiled_updates.Pieces], norm: float, max_norm: float, dtype: torch.dtype
) -> Tensor:
    """Scales gradients whose norm is known to at most `max_norm`; that norm, of this type."""
    if not norm + 1e-6 <= max_norm:  # or it is no number, and then nothing is
        for pieces in gradients:
            pieces.multiply(max_norm / (norm + 1e-6))
    return torch.tensor(norm, dtype=dtype)


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient of a table, with each row once, by number."""
    if gradient.is_coalesced():
        return gradient
    numbers, values = gradient._indices()[0], gradient._values()
    if not (compiled_updates.can([values]) and values.ndim == 2 and numbers.is_contiguous()):
        return gradient.coalesce()
    numbers, values = compiled_updates.merged([(numbers, values)])
    return torch.sparse_coo_tensor(
        numbers.unsqueeze(0), values, gradient.shape, check_invariants=False, is_coalesced=True
    )
