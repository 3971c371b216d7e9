"""Optimizers against loops written by hand, their state in a checkpoint, and learning rates that follow depth."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from kdtoolkit.errors import InputError
from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.pipeline.refusals import refuse
from kdtoolkit.plugins import plugin
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.recipe.schema import Optimizer
from kdtoolkit.student import Student
from kdtoolkit.tasks import Task
from kdtoolkit.training import StudentModel, checkpoint, eager
from kdtoolkit.training.optimizer import build_optimizer, learning_rates, set_learning_rate

NAMES = ("adamw", "adamax", "adadelta", "sgd")


class Two(nn.Module):
    """A matrix and a vector, of float64 values that are no round numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).exp())
        self.vector = nn.Parameter(torch.linspace(0.1, 0.9, 3, dtype=torch.float64).log())


def gradients(step, idle):
    """Gradients of the two parameters at a step; the vector has none at the steps of `idle`."""
    generator = torch.Generator().manual_seed(step)
    matrix = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    vector = torch.randn(3, generator=generator, dtype=torch.float64)
    return {"matrix": matrix, "vector": None if step in idle else vector}


def section_of(name, **more):
    own = {"adadelta": {"rho": 0.8}, "sgd": {"momentum": 0.7}}.get(name, {"betas": (0.8, 0.95)})
    return Optimizer(name=name, learning_rate=0.1, weight_decay=0.05, **own, **more)


def trained(section, steps, idle=(), model=None, optimizer=None, start=0):
    model = model or Two()
    optimizer = optimizer or build_optimizer(model, section)
    for step in range(start, steps):
        set_learning_rate(optimizer, 1 / (step + 1))
        for name, gradient in gradients(step, idle).items():
            getattr(model, name).grad = gradient
        optimizer.step()
    return model, optimizer


def by_hand(section, steps, idle=()):
    """The same updates, formula by formula, in float64; returns the parameters by name."""
    values = {name: parameter.detach().clone() for name, parameter in Two().named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in values.items()}
    second = {name: torch.zeros_like(value) for name, value in values.items()}
    counts = dict.fromkeys(values, 0)
    for step in range(steps):
        rate = section.learning_rate / (step + 1)
        for name, gradient in gradients(step, idle).items():
            if gradient is None:
                continue
            counts[name] += 1
            value, decay = values[name], section.weight_decay if name == "matrix" else 0.0
            (b1, b2), eps, m, v = section.betas, section.epsilon, first[name], second[name]
            if section.name == "adamw":
                m = b1 * m + (1 - b1) * gradient
                v = b2 * v + (1 - b2) * gradient.square()
                c1, c2 = (1 - b ** counts[name] if section.bias_correction else 1.0 for b in (b1, b2))
                change = (m / c1) / ((v / c2).sqrt() + eps) + decay * value
            if section.name == "adamax":
                m = b1 * m + (1 - b1) * gradient
                v = torch.maximum(b2 * v, gradient.abs() + eps)
                change = m / (1 - b1 ** counts[name] if section.bias_correction else 1.0) / v + decay * value
            if section.name in ("adadelta", "sgd"):
                gradient = gradient + decay * value
            if section.name == "adadelta":
                m = section.rho * m + (1 - section.rho) * gradient.square()
                change = gradient * ((v + eps) / (m + eps)).sqrt()
                v = section.rho * v + (1 - section.rho) * change.square()
            if section.name == "sgd":
                m = section.momentum * m + gradient
                change = m
            first[name], second[name] = m, v
            values[name] = value - rate * change
    return values


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_does_what_its_formula_says(name):
    section = section_of(name)
    model, _ = trained(section, 6, idle=(0, 3))
    for key, value in by_hand(section, 6, idle=(0, 3)).items():
        torch.testing.assert_close(getattr(model, key).detach(), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["adamw", "adamax"])
def test_moments_are_not_corrected_where_they_should_not_be_whichever_steps_a_parameter_sits_out(name):
    section = section_of(name, bias_correction=False)
    model, _ = trained(section, 6, idle=(0, 3))
    for key, value in by_hand(section, 6, idle=(0, 3)).items():
        torch.testing.assert_close(getattr(model, key).detach(), value, rtol=1e-12, atol=1e-14)
    corrected, _ = trained(section_of(name), 6, idle=(0, 3))
    assert not torch.allclose(corrected.matrix, model.matrix)


UNCORRECTED = [section_of(name, bias_correction=False) for name in ("adamw", "adamax")]


@pytest.mark.parametrize("section", [*map(section_of, NAMES), *UNCORRECTED])
def test_a_restored_optimizer_goes_on_to_the_same_bits(tmp_path, section):
    model, optimizer = trained(section, 3, idle=(1,))
    checkpoint.save(tmp_path, 3, model, optimizer, {})
    straight, _ = trained(section, 6, model=model, optimizer=optimizer, start=3)
    fresh = Two()
    restored = build_optimizer(fresh, section)
    assert checkpoint.restore(tmp_path, fresh, restored)["step"] == 3
    resumed, _ = trained(section, 6, model=fresh, optimizer=restored, start=3)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters()))


@pytest.mark.parametrize("kind", ["AdamW", "Adamax", "Adadelta", "SGD"])
def test_an_optimizer_without_the_compiler_is_torchs_own(kind):
    ours, theirs, called = Two(), Two(), []
    optimizers = [getattr(module, kind)(list(model.parameters()), lr=0.1) for module, model in
                  ((eager, ours), (torch.optim, theirs))]  # fmt: skip
    optimizers[0].register_step_pre_hook(lambda *_: called.append(torch.is_grad_enabled()))
    for step in range(4):
        if step == 2:  # either goes on from the other's state
            states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
            for optimizer, state in zip(optimizers, reversed(states)):
                optimizer.load_state_dict(state)
        for model, optimizer in zip((ours, theirs), optimizers):
            for name, gradient in gradients(step, ()).items():
                getattr(model, name).grad = gradient
            optimizer.step()
            optimizer.zero_grad()
            assert model.matrix.grad is None
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))
    assert called == [True] * 4 and torch.is_grad_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_without_layer_decay_there_is_a_group_of_matrices_and_one_of_the_rest(name):
    groups = build_optimizer(Two(), section_of(name)).param_groups
    decay = "decay" if name == "adamax" else "weight_decay"
    assert [(len(group["params"]), group[decay], group["lr"]) for group in groups] == [
        (1, 0.05, 0.1),
        (1, 0.0, 0.1),
    ]


def student_model(student):
    task = Task("toy", labels=("a", "b"), pair=False)
    return StudentModel(student, MultiTaskHeads([task], student.width, pairs=student.pairs, mixed=False))


def rates(model, **options):
    """Learning rates by parameter name."""
    optimizer = build_optimizer(model, Optimizer(learning_rate=1.0, **options))
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_layers_of_a_transformer_learn_slower_the_deeper_they_lie():
    found = rates(student_model(plugin("student", "transformer")(16, layers=2, width=8, heads=2)), layer_decay=0.9)
    # Two layers: embeddings are 4 below the heads, the first layer 3, the second 2; a pooler would be 1.
    expected = {"student.layers.0.": 0.9**3, "student.layers.1.": 0.9**2, "heads.": 1.0, "student.": 0.9**4}
    for name, rate in found.items():
        assert rate == pytest.approx(next(r for prefix, r in expected.items() if name.startswith(prefix))), name
    assert set(found.values()) == set(expected.values())


def test_layer_decay_of_a_bilstm_counts_what_follows_its_layers():
    built = plugin("student", "bilstm")(16, layers=2, width=3, embedding=4, pooling="attention")
    found = rates(student_model(built), layer_decay=0.5)
    assert found["student.embed.weight"] == 0.5**4
    assert found["student.lstm.weight_ih_l0_reverse"] == 0.5**3
    assert found["student.lstm.bias_hh_l1"] == 0.5**2
    assert found["student.attend.weight"] == 0.5
    assert {rate for name, rate in found.items() if name.startswith("heads.")} == {1.0}


def test_layer_decay_of_one_changes_no_bit():
    model = student_model(plugin("student", "bilstm")(16, width=3, embedding=4))
    assert set(rates(model).values()) == {1.0}


def test_rates_are_logged_by_depth():
    model = student_model(plugin("student", "bilstm")(16, width=3, embedding=4))
    optimizer = build_optimizer(model, Optimizer(learning_rate=2.0, layer_decay=0.5))
    set_learning_rate(optimizer, 0.25)
    assert learning_rates(optimizer, 0.5) == {
        "learning_rate": 0.5,
        "learning_rate/depth_0": 0.5**4,
        "learning_rate/depth_1": 0.5**3,
        "learning_rate/depth_3": 0.5,
    }


class Silent(Student):
    """A student that says nothing of layers; with `told`, depths of just these parameters."""

    def __init__(self, vocab_size, told=()):
        super().__init__(width=4)
        self.embed, self.out = nn.Embedding(vocab_size, 4), nn.Linear(4, 4)
        self.told = dict(told)

    def encode(self, batch):
        return self.out(self.embed(batch.ids).mean(1))

    def depths(self):
        return self.told


def test_a_student_without_depths_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"optimizer.layer_decay: the student Silent .*; set it to 1, or choose"):
        rates(student_model(Silent(8)), layer_decay=0.9)
    with pytest.raises(InputError, match=r"optimizer.layer_decay: Two does not say"):
        rates(Two(), layer_decay=0.9)


def test_depths_that_do_not_know_every_parameter_are_an_error_for_their_author():
    with pytest.raises(InputError, match=r"Silent.depths: leaves out 'out.bias'"):
        rates(student_model(Silent(8, {"embed.weight": 0, "out.weight": 1})), layer_decay=0.9)
    depths = {"embed.weight": 0, "out.weight": 1, "out.bias": 1}
    with pytest.raises(InputError, match=r"Silent.depths: has no parameter 'gone'"):
        rates(student_model(Silent(8, {**depths, "gone": 1})), layer_decay=0.9)
    assert rates(student_model(Silent(8, depths)), layer_decay=0.5)["student.embed.weight"] == 0.25


def test_infinite_step_counters_are_what_takes_the_correction_away():
    optimizer = build_optimizer(Two(), Optimizer(bias_correction=False))
    assert all(math.isinf(state["step"]) for state in optimizer.state.values())


def test_check_refuses_layer_decay_of_a_student_without_depths(tmp_path):
    recipe = recipe_from_dict(
        {"tasks": ["sst2"], "objective": {"alpha": 1.0}, "student": f"{__file__}:Shallow", "tokenizer": "words",
         "optimizer": {"layer_decay": 0.9}}
    )  # fmt: skip
    with pytest.raises(InputError, match=r"optimizer.layer_decay: the student Shallow .*; set it to 1, or choose"):
        refuse(recipe, recipe.task_list(), tmp_path, teacher_source=None)


class Shallow(Silent):
    """`Silent` as a recipe can name it."""

    def __init__(self, vocab_size):
        super().__init__(vocab_size)
