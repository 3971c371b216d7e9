"""AdamW, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..recipe.schema import Optimizer as OptimizerSection


def build_optimizer(
    model: nn.Module, section: OptimizerSection, parameter_groups: Iterable[dict[str, Any]] | None = None
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and normalisations (one dimension) are not decayed.

    parameter_groups: groups with their own `lr` or `weight_decay`, as torch takes them, in place of the default two.
    """
    if parameter_groups is None:
        trainable = [p for p in model.parameters() if p.requires_grad]
        parameter_groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": section.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
    groups = [{"lr": section.learning_rate, **group} for group in parameter_groups if group["params"]]
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, betas=section.betas, eps=section.epsilon, fused=True)


def learning_rate_factor(step: int, steps: int, section: OptimizerSection) -> float:
    """What the base learning rate is multiplied by at `step` (0-based) of `steps`: warm-up, then decay towards 0."""
    warmup_steps = int(section.warmup_fraction * steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    if section.decay == "linear":
        return 1.0 - progress
    if section.decay == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group to its base learning rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
