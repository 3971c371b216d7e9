"""`sampler:`, `balance:`, `optimizer:`, `train:` and `refine:`."""

from __future__ import annotations

from collections.abc import Iterator

from ...schedule import Schedule, extremes
from ..document import Problem
from ..schema import Balance, Optimizer, Recipe

OPTIMIZERS_OF = {
    "betas": ("adamw", "adamax"),
    "epsilon": ("adamw", "adamax", "adadelta"),
    "rho": ("adadelta",),
    "momentum": ("sgd",),
    "bias_correction": ("adamw", "adamax"),
}
"""The optimizers that have an option, by its name; the options that are not here are everyone's."""


def problems(recipe: Recipe, names: list[str]) -> Iterator[Problem]:
    """What is wrong with sampler, balance, optimizer and refinement."""
    low, _ = extremes(recipe.sampler.exponent)
    if low < 0:
        yield Problem(("sampler", "exponent"), f"{low:g} is negative; 0 is uniform, 1 is by size")
    yield from _balance(recipe)
    yield from _optimizer(recipe.optimizer)
    projected, compiled = recipe.balance.gradients == "pcgrad", recipe.train.compile != "none"
    cause = not_sparse(recipe.optimizer, compiled=compiled, projected=projected)
    if recipe.optimizer.embeddings == "sparse" and cause is not None:
        yield Problem(("optimizer", "embeddings"), f"'sparse' does not go with {cause}; write 'auto' or 'dense'")
    if recipe.train.sharding == "fsdp" and recipe.train.compile != "none":
        yield Problem(("train", "compile"), "a student is not compiled under fsdp; leave out one of the two")
    if recipe.train.sharding == "fsdp" and recipe.balance.gradients == "pcgrad":
        message = "fsdp leaves each process a part of the gradients, and pcgrad compares whole ones"
        yield Problem(("train", "sharding"), f"{message}; leave it out, or set balance.gradients: sum")
    for key in ("sharding", "teacher_sharding"):
        if recipe.train.parallel == "trainings" and getattr(recipe.train, key) == "fsdp":
            message = f"'trainings' are carried out by one process each, and train.{key} shares each out over all"
            yield Problem(("train", "parallel"), f"{message}; leave out one of the two")
    if recipe.train.teacher_sharding == "fsdp" and not (
        recipe.objective.terms and recipe.objective.hidden_states == "live"
    ):
        message = "the steps ask no teacher, for its hidden states are read from the store"
        remedy = "leave it out, or set objective.hidden_states: live"
        if not recipe.objective.terms:
            message, remedy = "the steps ask no teacher, for objective.terms is empty", "leave it out"
        yield Problem(("train", "teacher_sharding"), f"{message}; {remedy}")
    if recipe.refine is not None:
        low, high = extremes(recipe.refine.alpha)
        if not 0 <= low <= high <= 1:
            message = f"{high if low >= 0 else low:g} is not between 0 (teacher only) and 1 (gold rows alone)"
            yield Problem(("refine", "alpha"), message)


def warnings(recipe: Recipe) -> list[str]:
    """What sampler and balance are asked for and cannot do. For `kdtool check`; what is impossible is a Problem."""
    said, balance = [], recipe.balance
    if recipe.train.joint and len(recipe.tasks) == 1:
        asked = {"weights": balance.weights == "dwa", "gradients": balance.gradients == "pcgrad"}
        said += [
            f"balance.{key}: {getattr(balance, key)} balances tasks, and there is one, so it changes nothing"
            for key, it_is in asked.items()
            if it_is
        ]
    elif balance.weights == "dwa" and recipe.train.epochs <= 2:
        said.append(
            f"balance.weights: dwa changes nothing before the third epoch, and train.epochs is {recipe.train.epochs:g}"
        )
    if isinstance(recipe.sampler.exponent, Schedule) and recipe.train.epochs <= 1:
        said.append("sampler.exponent: the schedule is read once an epoch, so with one epoch it stays where it begins")
    return said


def _balance(recipe: Recipe) -> Iterator[Problem]:
    balance = recipe.balance
    if balance.gradients == "pcgrad" and recipe.sampler.batch == "one_task" and recipe.train.joint:
        message = "pcgrad compares the gradients of a step's tasks, and a step has one; set sampler.batch: mixed"
        yield Problem(("balance", "gradients"), message)
    if not recipe.train.joint:
        for key in ("weights", "gradients"):
            if (value := getattr(balance, key)) != Balance.model_fields[key].default:
                message = f"'{value}' has nothing to balance where every task has a student of its own"
                yield Problem(("balance", key), f"{message}; leave it out, or set train.joint: true")
    if balance.weights != "dwa" and balance.temperature != Balance.model_fields["temperature"].default:
        yield Problem(("balance", "temperature"), f"'{balance.weights}' weights have none; it is an option of dwa")


def _optimizer(section: Optimizer) -> Iterator[Problem]:
    for option, optimizers in OPTIMIZERS_OF.items():
        if section.name not in optimizers and getattr(section, option) != Optimizer.model_fields[option].default:
            message = f"{section.name} has no such option; leave it out (it is one of {', '.join(optimizers)})"
            yield Problem(("optimizer", option), message)
    for beta in section.betas:
        if not 0 <= beta < 1:
            yield Problem(("optimizer", "betas"), f"{beta:g} is not between 0 and 1")


def not_sparse(section: Optimizer, *, compiled: bool, projected: bool) -> str | None:
    """What keeps word embeddings from being updated row by row; None: nothing."""
    if section.name != "adamw":
        return f"optimizer.name={section.name}"
    if section.betas[0] > section.betas[1]:  # what a row has to make up for would then grow with every step
        return f"optimizer.betas={list(section.betas)}"
    if compiled:
        return "train.compile"
    return "balance.gradients=pcgrad" if projected else None
