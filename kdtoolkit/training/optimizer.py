"""The optimizers of the recipe, and the learning rate as a pure function of step and layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..recipe.schema import Optimizer as OptimizerSection
from . import eager
from .depths import depths_of
from .lazy_adamw import LazyAdamW


def build_optimizer(
    model: nn.Module, section: OptimizerSection, table: nn.Embedding | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable parameters of `model`, on the device where they are.

    adamw: Loshchilov and Hutter 2019 (arXiv:1711.05101), fused; without `bias_correction` it is BERT's (see
    `without_bias_correction`). adamax: Kingma and Ba 2015 (arXiv:1412.6980), section 7.1; without `bias_correction` it
    is MT-DNN's (arXiv:1901.11504). adadelta: Zeiler 2012 (arXiv:1212.5701). sgd: with `momentum`, without dampening.
    weight_decay: of matrices only, not of what has one dimension (biases, normalisations). Of adamw and adamax it is
    decoupled from the gradient; the others add weight_decay * parameter to the gradient, as torch does (an L2 penalty).
    table: adamw alone; the embeddings that are updated row by row (see `LazyAdamW`).
    Raises InputError if `layer_decay` is asked for and the model does not tell the depth of its parameters.
    """
    groups = parameter_groups(model, section)
    if section.name == "adamax":
        groups = [{**group, "decay": group["weight_decay"], "weight_decay": 0.0} for group in groups]
        adamax = eager.Adamax(groups, betas=section.betas, eps=section.epsilon)
        adamax.register_step_pre_hook(decay)
        return adamax if section.bias_correction else without_bias_correction(adamax, "exp_avg", "exp_inf")
    if section.name == "adadelta":
        return eager.Adadelta(groups, rho=section.rho, eps=section.epsilon)
    if section.name == "sgd":
        return eager.SGD(groups, momentum=section.momentum)
    options: dict[str, Any] = {"betas": section.betas, "eps": section.epsilon, "fused": True}
    optimizer = eager.AdamW(groups, **options) if table is None else LazyAdamW(groups, table, **options)
    return optimizer if section.bias_correction else without_bias_correction(optimizer, "exp_avg", "exp_avg_sq")


def parameter_groups(model: nn.Module, section: OptimizerSection) -> list[dict[str, Any]]:
    """torch's groups: one that is decayed and one that is not; with `layer_decay`, two a depth, which carry "depth".

    The learning rate at depth d is learning_rate * layer_decay ** (greatest depth - d) (Clark et al. 2019, BAM,
    arXiv:1907.04829; depths as its released code counts them, see `student_depths`).
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if section.layer_decay == 1.0:
        groups = _by_decay([parameter for _, parameter in trainable], section)
    else:
        depths = depths_of(model)
        top = max(depths.values())
        groups = []
        for depth in sorted({depths[name] for name, _ in trainable}):
            rate = section.learning_rate * section.layer_decay ** (top - depth)
            own = [parameter for name, parameter in trainable if depths[name] == depth]
            groups += [{**group, "lr": rate, "depth": depth} for group in _by_decay(own, section)]
    groups = [{"lr": section.learning_rate, **group} for group in groups if group["params"]]
    return [{**group, "base_lr": group["lr"]} for group in groups]


def _by_decay(parameters: list[nn.Parameter], section: OptimizerSection) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def decay(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Before a step: what will be stepped loses the share rate * `decay` of its group, whatever its gradient is."""
    for group in optimizer.param_groups:
        stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
        if group["decay"] and stepped:
            torch._foreach_mul_(stepped, 1 - group["lr"] * group["decay"])


def without_bias_correction(optimizer: torch.optim.Optimizer, *moments: str) -> torch.optim.Optimizer:
    """Makes a fresh Adam or Adamax the one of BERT's or MT-DNN's code: moments are not corrected for their start at 0.

    torch divides the moments by 1 - beta ** step. The step counters are set to infinity, which stays infinity when 1 is
    added to it, so that the divisors are exactly 1 from the first update on, whichever steps a parameter sits out.
    moments: what torch calls them.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            step = torch.full((), math.inf, dtype=torch.float32, device=parameter.device)
            optimizer.state[parameter] = {"step": step, **{name: torch.zeros_like(parameter) for name in moments}}
    return optimizer


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


def learning_rates(optimizer: torch.optim.Optimizer, highest: float) -> dict[str, float]:
    """By TensorBoard tag: "learning_rate", the heads', and with `layer_decay` "learning_rate/depth_D" of each depth."""
    by_depth = {f"learning_rate/depth_{g['depth']}": g["lr"] for g in optimizer.param_groups if "depth" in g}
    return {"learning_rate": highest, **by_depth}
