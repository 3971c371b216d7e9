"""What the recipe alone tells about balance and optimizer that cannot be right."""

from __future__ import annotations

import re

import pytest

from kdtoolkit.errors import InputErrors
from kdtoolkit.recipe.checks.training import warnings
from kdtoolkit.recipe.load import recipe_from_dict

GOOD = {"tasks": ["sst2", "mrpc"], "teachers": ["bert-large"]}
MIXED = {"sampler": {"batch": "mixed"}}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"balance": {"gradients": "pcgrad"}}, "balance.gradients: .*set sampler.batch: mixed"),
        ({"balance": {"gradients": "pcgrad"}, "train": {"joint": False}}, "balance.gradients: .*train.joint: true"),
        ({"balance": {"weights": "dwa"}, "train": {"joint": False}}, "balance.weights: 'dwa' has nothing to balance"),
        ({"balance": {"weights": "uncertainty", "temperature": 1.0}}, "balance.temperature: .*option of dwa"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer.momentum: adamw has no such option.*sgd"),
        ({"optimizer": {"name": "sgd", "rho": 0.9}}, "optimizer.rho: sgd has no such option.*adadelta"),
        ({"optimizer": {"name": "sgd", "bias_correction": False}}, "optimizer.bias_correction: sgd .*adamw, adamax"),
        ({"optimizer": {"name": "adadelta", "betas": [0.8, 0.9]}}, "optimizer.betas: adadelta .*adamw, adamax"),
        ({"optimizer": {"name": "sgd", "epsilon": 1e-6}}, "optimizer.epsilon: sgd "),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas: 1 is not between 0 and 1"),
        (
            {"balance": {"gradients": "pcgrad"}, **MIXED, "train": {"sharding": "fsdp"}},
            "train.sharding: .*gradients: sum",
        ),
        ({"optimizer": {"layer_decay": 0.0}}, "optimizer.layer_decay: "),
        ({"optimizer": {"embeddings": "sparse", "name": "sgd"}}, "optimizer.embeddings: .*optimizer.name=sgd"),
        ({"optimizer": {"embeddings": "sparse", "betas": [0.9, 0.5]}}, "optimizer.embeddings: .*betas"),
        ({"optimizer": {"embeddings": "sparse"}, "train": {"compile": "default"}}, "embeddings: .*train.compile"),
        ({"train": {"sharding": "fsdp", "compile": "default"}}, "train.compile: .*not compiled under fsdp"),
        (
            {"train": {"sharding": "fsdp", "parallel": "trainings"}},
            "train.parallel: .*by one process each, and train.sharding shares each out over all; leave out one of",
        ),
        ({"train": {"teacher_sharding": "fsdp"}}, "train.teacher_sharding: .*terms is empty; leave it out"),
        (
            {"train": {"teacher_sharding": "fsdp"}, "objective": {"terms": [{"name": "hidden"}]}},
            "train.teacher_sharding: the steps ask no teacher, .*; leave it out, or set objective.hidden_states: live",
        ),
        ({"refine": {"alpha": 1.5}}, "refine.alpha: 1.5 is not between 0 .* and 1"),
        ({"refine": {"alpha": {"from": -0.5, "to": 1.0}}}, "refine.alpha: -0.5 is not between 0 .* and 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_way_out(sections, expected):
    with pytest.raises(InputErrors, match=expected) as caught:
        recipe_from_dict({**GOOD, **sections})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "sections",
    [
        {"balance": {"gradients": "pcgrad", "weights": "uncertainty"}, **MIXED},
        {"balance": {"weights": "dwa", "temperature": 1.0}},
        {"optimizer": {"name": "sgd", "momentum": 0.9}},
        {"optimizer": {"name": "adadelta", "rho": 0.9, "epsilon": 1e-6}},
        {"optimizer": {"name": "adamax", "betas": [0.8, 0.9], "bias_correction": False}},
        {"optimizer": {"bias_correction": False, "layer_decay": 0.9}},
        {"optimizer": {"embeddings": "sparse", "bias_correction": False}},
        {"optimizer": {"embeddings": "frozen", "name": "sgd"}, "train": {"compile": "reduce-overhead"}},
        {
            "objective": {"terms": [{"name": "hidden"}], "hidden_states": "live"},
            "train": {"teacher_sharding": "fsdp", "parallel": "rows"},
        },
        {"train": {"parallel": "trainings"}},
    ],
)
def test_options_that_fit_are_taken(sections):
    recipe_from_dict({**GOOD, **sections})


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"balance": {"weights": "dwa"}, "train": {"epochs": 2}}, "nothing before the third epoch, and .*epochs is 2"),
        ({"balance": {"weights": "dwa"}, "tasks": ["sst2"]}, "balance.weights: dwa balances tasks, and there is one"),
        ({"balance": {"gradients": "pcgrad"}, "tasks": ["sst2"], **MIXED}, "balance.gradients: pcgrad balances tasks"),
        ({"sampler": {"exponent": {"from": 1.0, "to": 0.2}}, "train": {"epochs": 1}}, "with one epoch it stays"),
    ],
)
def test_what_changes_nothing_is_said(sections, expected):
    (said,) = warnings(recipe_from_dict({**GOOD, **sections}))
    assert re.search(expected, said)


def test_what_does_its_work_is_not_warned_of():
    asked = {"balance": {"weights": "dwa", "gradients": "pcgrad"}, "train": {"epochs": 3}}
    sampler = {"batch": "mixed", "exponent": {"from": 1.0, "to": 0.2}}
    assert warnings(recipe_from_dict({**GOOD, **asked, "sampler": sampler})) == []
