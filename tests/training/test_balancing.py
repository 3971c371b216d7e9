"""Balances of tasks in the loop: what a step's gradient is, cutting windows, stopping and resuming."""

from __future__ import annotations

import json

import numpy as np
import pytest
import three_tasks
import torch
from three_tasks import BALANCES, ROWS, TASKS, Mean, collate, run

from kdtoolkit.balance import projected_sum, shuffled_orders
from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.recipe.schema import Balance, HeadOptions, Heads, Objective, Optimizer, Train
from kdtoolkit.student import Encoded
from kdtoolkit.training import StudentModel, fit
from kdtoolkit.training.checkpoint import read_tensors
from kdtoolkit.training.randomness import derived_seed

every_balance = pytest.mark.parametrize("balance", BALANCES.values(), ids=BALANCES.keys())


class Seen:
    """A board that keeps what it is told."""

    def __init__(self):
        self.values = []

    def resume_at(self, step):
        pass

    def scalars(self, values, step):
        self.values.append(values)

    def flush(self):
        pass


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def close(one, other, **tolerance):
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@every_balance
def test_cutting_a_window_into_micro_batches_does_not_change_the_weights(balance):
    whole = run(balance)
    for rows, accumulate in ((4, 2), (1, 8)):
        close(run(balance, rows=rows, accumulate=accumulate), whole, atol=1e-6)


@every_balance
@pytest.mark.parametrize("stop", [2, 7, 11])
def test_a_run_that_was_stopped_resumes_to_the_same_bits(tmp_path, balance, stop):
    options = {"dropout": 0.4, "checkpoint_every_steps": 3, "epochs": 4.0, "optimizer": Optimizer(learning_rate=0.05)}
    straight = run(balance, tmp_path / "straight", **options)
    with pytest.raises(KeyboardInterrupt):
        run(balance, tmp_path / "stopped", stop=stop, **options)
    assert same(run(balance, tmp_path / "stopped", **options), straight)


def test_the_fixed_sum_is_what_training_is_without_a_balance():
    assert same(run(Balance()), run(None))


@every_balance
def test_every_balance_is_a_balance_of_its_own(balance):
    others = [run(other, epochs=4.0) for other in BALANCES.values() if other != balance]
    model = run(balance, epochs=4.0)
    assert not any(same(model, other) for other in others)


@every_balance
def test_what_a_balance_learns_is_no_part_of_the_model(balance):
    assert run(balance, epochs=0.5).state_dict().keys() == three_tasks.new_model().state_dict().keys()


@every_balance
def test_a_parameter_that_takes_no_part_does_not_move(balance):
    model = run(balance, epochs=1.0, optimizer=Optimizer(learning_rate=0.1, weight_decay=0.1))
    assert torch.equal(model.student.idle.weight, three_tasks.new_model().student.idle.weight)


@pytest.mark.parametrize("name", ["dwa", "pcgrad"])
def test_with_one_task_a_balance_changes_nothing(name):
    options = {"tasks": TASKS[:1], "sizes": ROWS[:1], "epochs": 5.0}
    close(run(BALANCES[name], **options), run(None, **options), atol=1e-6)


def one_step(balance, **train):
    """The step that one window of all rows makes: minus the gradient, by name."""
    optimizer = Optimizer(name="sgd", learning_rate=1.0, warmup_fraction=0.0, max_norm=None)
    before, after = three_tasks.new_model(), run(balance, rows=sum(ROWS), epochs=1.0, optimizer=optimizer, **train)
    return {name: after.state_dict()[name] - tensor for name, tensor in before.state_dict().items()}


def task_gradients():
    """Per task, the gradient of its share of the loss of all rows, by name (None: it has none), for the fixed sum."""
    model = three_tasks.new_model()
    objective = DistillationObjective(TASKS, Objective(alpha=0.4, tasks={"moods": {"weight": 0.5}}), steps=1)
    found = []
    for task, size in enumerate(ROWS):
        batch = collate(np.arange(size) + sum(ROWS[:task]))
        loss = objective(model(batch), batch, 0).loss / sum(ROWS)
        names, parameters = zip(*model.named_parameters())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append({n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, gradients)})
    return found


def test_a_pcgrad_step_projects_each_task_s_gradient_of_the_whole_window_on_the_student_s_parameters():
    by_task = task_gradients()
    shared = [name for name in by_task[0] if name.startswith("student.")]
    flat = torch.stack([torch.cat([gradients[name].flatten() for name in shared]) for gradients in by_task]).double()
    assert (flat @ flat.t() < 0).any()
    projected = flat.clone()
    for i, order in enumerate(shuffled_orders(3, derived_seed(5, 0, "pcgrad"))):
        for j in order:
            if (product := projected[i] @ flat[j]) < 0:
                projected[i] -= product / flat[j].square().sum() * flat[j]
    step = one_step(BALANCES["pcgrad"])
    received = torch.cat([step[name].flatten() for name in shared])
    torch.testing.assert_close(-received.double(), projected.sum(0), rtol=1e-4, atol=1e-6)
    assert (projected.sum(0) - flat.sum(0)).abs().max() > 1e-4
    for name in by_task[0].keys() - set(shared):
        torch.testing.assert_close(-step[name], sum(gradients[name] for gradients in by_task), atol=1e-6, rtol=1e-4)


class States(Mean):
    """Gives token states as well, which some heads read."""

    def encode(self, batch):
        states = self.layer(self.embed(batch.ids)).tanh()
        return Encoded(states.mean(1), states)


@pytest.mark.parametrize("sharing", [("topics", "score"), ("topics", "score", "moods"), ("moods",)])
def test_pcgrad_projects_what_several_heads_share_like_the_student_they_share(monkeypatch, sharing):
    attention = HeadOptions(name="biattention", width=3, shared=True)

    def of_pairs():
        torch.manual_seed(3)
        heads = Heads(tasks=dict.fromkeys(sharing, attention))
        return StudentModel(States(), MultiTaskHeads(TASKS, 5, pairs="separate", mixed=True, heads=heads))

    monkeypatch.setattr(three_tasks, "new_model", lambda *options: of_pairs())
    by_task = task_gradients()
    several = ("student.", "heads.shared_biattention.") if len(sharing) > 1 else ("student.",)
    shared = [name for name in by_task[0] if name.startswith(several)]
    flat = torch.stack([torch.cat([gradients[name].flatten() for name in shared]) for gradients in by_task]).double()
    assert (flat @ flat.t() < 0).any()
    orders = shuffled_orders(3, derived_seed(5, 0, "pcgrad"))
    weights = projected_sum(flat @ flat.t(), orders)
    assert (weights - 1).abs().max() > 1e-3
    step = one_step(BALANCES["pcgrad"])
    for name in by_task[0]:
        of_tasks = torch.stack([gradients[name] for gradients in by_task])
        factors = weights.float() if name in shared else torch.ones(3)
        torch.testing.assert_close(-step[name], torch.tensordot(factors, of_tasks, 1), atol=1e-6, rtol=1e-3)


def test_uncertainty_weights_a_row_by_its_task_s_precision():
    by_task = task_gradients()
    step = one_step(BALANCES["uncertainty"])
    for name in by_task[0]:
        # At the beginning s = 0: classification weighs 1, regression 1/2.
        expected = by_task[0][name] + by_task[1][name] / 2 + by_task[2][name]
        torch.testing.assert_close(-step[name], expected, atol=1e-6, rtol=1e-4)


def test_learned_log_variances_are_in_the_checkpoint_and_on_the_board(tmp_path):
    board = Seen()
    run(BALANCES["uncertainty"], tmp_path, board=board, log_every_steps=1)
    saved = read_tensors(max(tmp_path.glob("step-*")) / "model.safetensors")
    values = torch.stack([saved[f"log_variances.values.{task}"] for task in range(3)])
    assert (values != 0).all()
    expected = (-values).exp() * torch.tensor([1.0, 0.5, 1.0])
    logged = [board.values[-1][f"balance/{task.name}"] for task in TASKS]
    torch.testing.assert_close(torch.tensor(logged), expected)


def test_a_task_that_is_not_in_a_step_keeps_its_log_variance(tmp_path):
    # One step of one task: the other two have neither gradient nor update.
    run(BALANCES["uncertainty"], tmp_path, batch="one_task", epochs=0.2, optimizer=Optimizer(learning_rate=0.1))
    saved = read_tensors(max(tmp_path.glob("step-*")) / "model.safetensors")
    assert sum(float(saved[f"log_variances.values.{task}"]) != 0 for task in range(3)) == 1


def test_dwa_weighs_from_the_third_epoch_on(tmp_path):
    board = Seen()
    run(BALANCES["dwa"], tmp_path, board=board, log_every_steps=1, epochs=4.0)
    weights = [[values[f"balance/{task.name}"] for task in TASKS] for values in board.values]
    assert len(weights) == 16
    assert all(of_step == [1.0, 1.0, 1.0] for of_step in weights[:8])
    assert len({tuple(of_step) for of_step in weights[8:12]}) == 1
    assert weights[8] != [1.0, 1.0, 1.0] != weights[12] != weights[8]
    assert sum(weights[8]) == pytest.approx(3.0)
    state = json.loads((max(tmp_path.glob("step-*")) / "state.json").read_text())
    assert state["balance"]["epoch"] == 3


def test_layer_decay_is_the_step_of_each_depth():
    class Layered(Mean):
        def depths(self):
            return {name: 0 if name.startswith("embed") else 1 for name, _ in self.named_parameters()}

    def step(**options):
        torch.manual_seed(3)
        model = StudentModel(Layered(), MultiTaskHeads(TASKS, 5, pairs="separate", mixed=True))
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        plan = BatchPlan(ROWS, [np.full(n, 4, np.int32) for n in ROWS], batch_rows=32, epochs=1, seed=1, batch="mixed")
        fit(
            model, collate, plan, DistillationObjective(TASKS, Objective(), steps=plan.steps),
            optimizer=Optimizer(name="sgd", learning_rate=1.0, warmup_fraction=0.0, max_norm=None, **options),
            train=Train(), seed=5, checkpoints=None,
        )  # fmt: skip
        return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}

    plain, decayed = step(), step(layer_decay=0.5)
    for name, change in decayed.items():
        factor = 0.25 if "embed" in name else 0.5 if name.startswith("student.") else 1.0
        torch.testing.assert_close(change, factor * plain[name], atol=1e-6, rtol=1e-4)
