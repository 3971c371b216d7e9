"""The loss of a batch of any tasks: what each row is trained on, and that rows and tasks do not see each other."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.errors import InputError
from kdtoolkit.heads import HeadOutputs
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.objectives.mixture import mean_logits, present_weights, weight_table
from kdtoolkit.recipe.schema import Objective
from kdtoolkit.tasks import Task

NAN = math.nan
TASKS = [
    Task("sentiment", labels=("no", "yes")),
    Task("similarity", kind="regression"),
    Task("topics", kind="multilabel", labels=("a", "b", "c", "d")),
    Task("inference", labels=("entailment", "neutral", "contradiction")),
]
STARTS = torch.tensor([0, 2, 3, 7])
COUNTS = torch.tensor([2, 1, 4, 3])
SCALING = [(0.0, 1.0), (2.5, 1.5), (0.0, 1.0), (0.0, 1.0)]


def batch_of(tasks, *, seed=0, members=2, labelled=True, taught=True, dtype=torch.float32):
    """A batch with labels and teacher values of every row, and the heads' outputs."""
    draw = torch.Generator().manual_seed(seed)
    tasks = torch.as_tensor(tasks)
    rows = len(tasks)
    outputs = torch.randn(rows, 10, generator=draw, dtype=dtype)
    teacher = 2 * torch.randn(members, rows, 4, generator=draw)
    teacher = teacher.masked_fill(torch.arange(4) >= COUNTS[tasks][:, None], 0.0)
    labels = (torch.rand(rows, generator=draw) * COUNTS[tasks]).floor()
    labels = torch.where(tasks == 1, 5 * torch.rand(rows, generator=draw), labels).masked_fill(tasks == 2, NAN)
    targets = (torch.rand(rows, 4, generator=draw) < 0.4).float().masked_fill((tasks != 2)[:, None], NAN)
    if not labelled:
        labels, targets = torch.full_like(labels, NAN), torch.full_like(targets, NAN)
    batch = SimpleNamespace(tasks=tasks, labels=labels, targets=targets, teacher=teacher if taught else None)
    return batch, outputs


def part(batch, rows):
    """Some rows of a batch."""
    return SimpleNamespace(
        tasks=batch.tasks[rows],
        labels=batch.labels[rows],
        targets=None if batch.targets is None else batch.targets[rows],
        teacher=None if batch.teacher is None else batch.teacher[:, rows],
    )


def objective_of(options=None, *, tasks=TASKS, steps=10, **more):
    scaling = more.pop("scaling", SCALING if tasks is TASKS else None)
    return DistillationObjective(tasks, Objective(**(options or {})), steps=steps, scaling=scaling, **more)


def run(objective, batch, outputs, step=0, starts=STARTS, counts=COUNTS):
    """The result and the gradient of the outputs."""
    leaf = outputs.detach().clone().requires_grad_()
    result = objective(HeadOutputs(leaf, starts[batch.tasks], counts[batch.tasks]), batch, step, by_task=True)
    (gradient,) = torch.autograd.grad(result.loss, leaf, retain_graph=True)
    (by_task,) = torch.autograd.grad(result.task_losses.sum(), leaf)
    torch.testing.assert_close(by_task, gradient)
    return result._replace(task_losses=result.task_losses.detach()), gradient


MIXED = [0, 1, 2, 3, 3, 0, 1, 2]
OPTIONS = {
    "kind": "kl", "temperature": 2.0, "alpha": 0.3,
    "tasks": {"inference": {"kind": "jsd", "beta": 0.2, "temperature": 1.0, "weight": 0.5}, "topics": {"alpha": 0.6}},
}  # fmt: skip


def expected_row(batch, outputs, r, alpha, temperature):
    """The definition, row by row and without the op: members' mean distribution (or value), then soft and hard."""
    task = int(batch.tasks[r])
    z = outputs[r, STARTS[task] : STARTS[task] + COUNTS[task]]
    v = batch.teacher[:, r, : COUNTS[task]]
    if task == 1:
        mean, deviation = SCALING[1]
        target = alpha * batch.labels[r] + (1 - alpha) * v.mean()
        return (z[0] - (target - mean) / deviation) ** 2
    if task == 2:
        soft = F.binary_cross_entropy_with_logits(z / temperature, (v / temperature).sigmoid().mean(0))
        hard = F.binary_cross_entropy_with_logits(z, batch.targets[r])
    else:
        p = (v / temperature).softmax(-1).mean(0)
        soft = -(p * (z / temperature).log_softmax(-1)).sum()
        hard = F.cross_entropy(z, batch.labels[r].long())
    return alpha * hard + (1 - alpha) * soft * temperature**2


def test_a_mixed_batch_is_what_its_definition_says_row_by_row():
    batch, outputs = batch_of(MIXED)
    leaf = outputs.clone().requires_grad_()
    expected = sum(expected_row(batch, leaf, r, 0.3, 2.0) for r in range(len(MIXED)))
    result, gradient = run(objective_of({"temperature": 2.0, "alpha": 0.3}), batch, outputs)
    torch.testing.assert_close(result.loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
    assert result.loss.dtype == torch.float32 and result.loss.dim() == 0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.permutations(range(9)), st.integers(0, 10**6))
def test_cutting_or_permuting_a_batch_changes_nothing(tasks, order, seed):
    batch, outputs = batch_of(tasks, seed=seed)
    hidden = torch.rand(2, len(tasks), generator=torch.Generator().manual_seed(seed)) < 0.3
    batch.labels[hidden[0]], batch.teacher[0, hidden[1]] = NAN, NAN
    objective = objective_of(OPTIONS, member_weights=[[1.0, 3.0]] * 4)
    whole, gradient = run(objective, batch, outputs)
    order = torch.tensor([i for i in order if i < len(tasks)])
    cut = len(tasks) // 2
    for rows in ([order], [order[:cut], order[cut:]], list(order.split(1))):
        runs = [run(objective, part(batch, chosen), outputs[chosen]) for chosen in rows if len(chosen)]
        for name in set(whole._fields) - {"terms", "term_rows"}:  # there are none
            torch.testing.assert_close(sum(getattr(r, name) for r, _ in runs), getattr(whole, name))
        torch.testing.assert_close(torch.cat([g for _, g in runs]), gradient[order])


@pytest.mark.parametrize("kind", ["ce", "kl", "rkl", "jsd", "tvd", "mse", "mse_centered"])
def test_a_mixed_batch_equals_the_loop_over_its_tasks(kind):
    batch, outputs = batch_of(MIXED)
    whole, gradient = run(objective_of({**OPTIONS, "kind": kind}), batch, outputs)
    total = 0.0
    for position, task in enumerate(TASKS):
        rows = (batch.tasks == position).nonzero().squeeze(1)
        own = part(batch, rows)
        own.tasks = torch.zeros_like(own.tasks)
        width = slice(int(STARTS[position]), int(STARTS[position] + COUNTS[position]))
        alone = objective_of({**OPTIONS, "kind": kind}, tasks=[task], scaling=[SCALING[position]])
        result, own_gradient = run(alone, own, outputs[rows, width], 0, torch.zeros(1).long(), COUNTS[position, None])
        total = total + result.loss.detach()
        torch.testing.assert_close(gradient[rows][:, width], own_gradient)
        for name in ("soft", "hard", "rows", "soft_rows", "hard_rows", "task_losses", "task_weights"):
            torch.testing.assert_close(getattr(whole, name)[position], getattr(result, name)[0])
    torch.testing.assert_close(whole.loss.detach(), total)


def test_unused_columns_get_no_gradient_and_are_not_read():
    batch, outputs = batch_of(MIXED)
    position = torch.arange(10)
    start, count = STARTS[batch.tasks][:, None], COUNTS[batch.tasks][:, None]
    own = (position >= start) & (position < start + count)
    result, gradient = run(objective_of(OPTIONS), batch, outputs)
    spoiled, spoiled_gradient = run(objective_of(OPTIONS), batch, outputs.where(own, NAN))
    torch.testing.assert_close(spoiled.loss, result.loss)
    torch.testing.assert_close(spoiled_gradient, gradient)
    assert (gradient[~own] == 0).all() and (gradient[own] != 0).all()


def test_rows_without_a_label_learn_from_the_teacher_alone_and_the_others_are_not_touched():
    batch, outputs = batch_of(MIXED)
    unlabelled, _ = batch_of(MIXED, labelled=False)
    soft_only, gradient = run(objective_of({**OPTIONS, "alpha": 0.0, "tasks": {}}), batch, outputs)
    result, without = run(objective_of({**OPTIONS, "alpha": 0.7, "tasks": {}}), unlabelled, outputs)
    torch.testing.assert_close(result.loss, soft_only.loss)
    torch.testing.assert_close(without, gradient)
    assert (result.hard_rows == 0).all() and (result.hard == 0).all()
    assert result.soft_rows.tolist() == result.rows.tolist() == [2, 2, 2, 2]


def test_rows_without_a_teacher_learn_from_gold_alone():
    batch, outputs = batch_of(MIXED)
    gold_only, gradient = run(objective_of(OPTIONS, gold_only=True), batch, outputs)
    absent = part(batch, slice(None))
    absent.teacher = None
    silent = part(batch, slice(None))
    silent.teacher = torch.full_like(batch.teacher, NAN)
    for other in (absent, silent):
        result, without = run(objective_of(OPTIONS), other, outputs)
        torch.testing.assert_close(result.loss, gold_only.loss)
        torch.testing.assert_close(without, gradient)
        assert (result.soft == 0).all() and (result.soft_rows == 0).all()
    result, _ = run(objective_of({"alpha": 1.0, "tasks": {"inference": {"weight": 0.5}}}), batch, outputs)
    torch.testing.assert_close(result.loss, gold_only.loss)


def test_gold_only_is_plain_cross_entropy_whatever_the_teacher_says():
    tasks = [TASKS[3]]
    batch, outputs = batch_of([3] * 5)
    batch.tasks = torch.zeros(5, dtype=torch.long)
    batch.teacher = torch.full_like(batch.teacher, math.inf)
    batch.labels[4] = NAN
    result, gradient = run(
        objective_of(tasks=tasks, gold_only=True), batch, outputs, 0, torch.tensor([0]), torch.tensor([3])
    )
    leaf = outputs.clone().requires_grad_()
    expected = F.cross_entropy(leaf[:4, :3], batch.labels[:4].long(), reduction="sum")
    torch.testing.assert_close(result.loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])


def test_rows_with_neither_label_nor_teacher_have_no_loss_and_no_gradient():
    batch, outputs = batch_of(MIXED, labelled=False, taught=False)
    result, gradient = run(objective_of(OPTIONS), batch, outputs * NAN)
    assert result.loss == 0 and (gradient == 0).all()
    assert result.rows.sum() == len(MIXED) and result.soft_rows.sum() == result.hard_rows.sum() == 0


def test_one_row_of_each_sort_in_one_batch():
    batch, outputs = batch_of([0, 0, 0, 0])
    batch.labels[1] = batch.labels[3] = NAN
    batch.teacher[:, 2:] = NAN
    result, gradient = run(objective_of({"temperature": 1.0, "alpha": 0.25}), batch, outputs)
    leaf = outputs.clone().requires_grad_()
    log_q = leaf[:, :2].log_softmax(-1)
    soft = -(batch.teacher[:, :, :2].nan_to_num().softmax(-1).mean(0) * log_q).sum(-1)
    hard = [F.nll_loss(log_q[r], batch.labels[r].long()) for r in (0, 2)]
    expected = 0.25 * hard[0] + 0.75 * soft[0] + soft[1] + hard[1]
    torch.testing.assert_close(result.loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
    assert (result.soft_rows[0], result.hard_rows[0], result.rows[0]) == (2, 2, 4)
    torch.testing.assert_close(result.soft[0], (soft[0] + soft[1]).detach())
    torch.testing.assert_close(result.hard[0], (hard[0] + hard[1]).detach())


def test_annealing_goes_from_the_teacher_to_gold():
    batch, outputs = batch_of([0, 1, 3, 3])
    schedule = {"alpha": {"from": 0.0, "to": 1.0}, "temperature": 1.0}
    annealed = objective_of(schedule, steps=5)
    for step, alpha in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        constant = objective_of({"alpha": alpha, "temperature": 1.0})
        one, other = run(annealed, batch, outputs, step), run(constant, batch, outputs)
        torch.testing.assert_close(one[0].loss, other[0].loss)
        torch.testing.assert_close(one[1], other[1])
        assert annealed.values(step) == {
            f"{name}/{task.name}": value
            for task in TASKS
            for name, value in (("alpha", alpha), ("temperature", 1.0), ("weight", 1.0))
        }


def test_the_parts_mix_to_the_loss_of_classification_and_multilabel_rows():
    batch, outputs = batch_of([0, 2, 3, 2, 0])
    result, _ = run(objective_of({"alpha": 0.3, "tasks": {"inference": {"weight": 0.5}}}), batch, outputs)
    by_task = 0.3 * result.hard + 0.7 * result.soft
    torch.testing.assert_close((by_task * torch.tensor([1.0, 1.0, 1.0, 0.5])).sum(), result.loss.detach())


def test_regression_is_logged_as_squared_errors_on_the_standard_scale():
    batch, outputs = batch_of([1, 1])
    result, _ = run(objective_of({"alpha": 0.3}), batch, outputs)
    z, (mean, deviation) = outputs[:, 2], SCALING[1]
    torch.testing.assert_close(result.hard[1], (z - (batch.labels - mean) / deviation).square().sum())
    value = batch.teacher[:, :, 0].mean(0)
    torch.testing.assert_close(result.soft[1], (z - (value - mean) / deviation).square().sum())


def test_tasks_may_have_ensembles_of_different_sizes_and_weights():
    batch, outputs = batch_of([0, 0, 3], members=3)
    batch.teacher[2, :2] = NAN
    weights = [[1.0, 3.0], [], [], [1.0, 1.0, 2.0]]
    options = {"alpha": 0.0, "temperature": 1.0}
    for ensemble in ("probabilities", "logits"):
        objective = objective_of({**options, "ensemble": ensemble}, member_weights=weights)
        result, _ = run(objective, batch, outputs)
        expected = 0.0
        for r, task in enumerate((0, 0, 3)):
            w = torch.tensor(weights[task])
            w = (w / w.sum())[:, None]
            v = batch.teacher[: len(w), r, : COUNTS[task]]
            p = (w * v.softmax(-1)).sum(0) if ensemble == "probabilities" else (w * v).sum(0).softmax(-1)
            z = outputs[r, STARTS[task] : STARTS[task] + COUNTS[task]]
            expected = expected - (p * z.log_softmax(-1)).sum()
        torch.testing.assert_close(result.loss.detach(), expected)


def test_one_member_is_the_same_in_either_space():
    batch, outputs = batch_of(MIXED, members=1)
    one, other = (run(objective_of({**OPTIONS, "ensemble": e}), batch, outputs) for e in ("probabilities", "logits"))
    torch.testing.assert_close(one[0].loss, other[0].loss)
    torch.testing.assert_close(one[1], other[1])


def test_a_teacher_narrower_than_the_widest_task_will_do():
    batch, outputs = batch_of([0, 1, 0])
    wide, gradient = run(objective_of(OPTIONS), batch, outputs)
    batch.teacher, batch.targets = batch.teacher[:, :, :2], None
    narrow, same = run(objective_of(OPTIONS), batch, outputs)
    torch.testing.assert_close(narrow.loss, wide.loss)
    torch.testing.assert_close(same, gradient)


def test_a_teacher_row_with_a_hole_shows_in_the_loss():
    batch, outputs = batch_of([3, 3])
    batch.teacher[0, 1, 1] = NAN
    result, _ = run(objective_of(OPTIONS), batch, outputs)
    assert result.loss.isnan()


def test_a_task_of_weight_zero_is_not_computed():
    batch, outputs = batch_of([0, 3, 0])
    outputs[1] = NAN
    result, gradient = run(objective_of({"tasks": {"inference": {"weight": 0.0}}}), batch, outputs)
    assert result.loss.isfinite() and (gradient[1] == 0).all() and result.soft_rows[3] == 0


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"alpha": 1.2}, "objective.alpha"),
        ({"alpha": {"from": -0.1, "to": 1.0}}, "objective.alpha"),
        ({"temperature": 0.0}, "objective.temperature"),
        ({"tasks": {"topics": {"weight": -1.0}}}, "objective.weight of task 'topics'"),
    ],
)
def test_values_out_of_range_are_refused_with_their_place(options, place):
    with pytest.raises(InputError, match=place):
        objective_of(options)


def test_member_weights_must_be_positive():
    with pytest.raises(InputError, match=r"teachers\.weight"):
        objective_of(member_weights=[[1.0, 0.0]] * 4)


def test_a_mean_of_members_leaves_out_silent_and_weightless_ones():
    teacher = torch.tensor([[[1.0, 2.0], [NAN, NAN]], [[3.0, -math.inf], [5.0, 6.0]]])
    weights = present_weights(teacher, torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    assert weights.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert mean_logits(teacher, weights).tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert weight_table([[1.0], [], [2.0, 3.0]]).tolist() == [[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 9), st.booleans(), st.booleans())
@settings(deadline=None)
def test_what_is_known_of_the_rows_may_be_asked_for_ahead(tasks, step, labelled, taught):
    """Also of several steps before any of them: schedules are those of the step that each is for."""
    options = OPTIONS | {"alpha": {"from": 0.0, "to": 1.0}, "temperature": {"from": 1.0, "to": 4.0}}
    objective = objective_of(options, member_weights=[[1.0, 2.0]] * 4)
    batch, outputs = batch_of(tasks, labelled=labelled, taught=taught)
    asked = [objective.facts(batch, other) for other in range(10)]
    heads = HeadOutputs(outputs, STARTS[batch.tasks], COUNTS[batch.tasks])
    expected = objective(heads, batch, step)
    found = objective(heads, batch, step, facts=asked[step])
    assert all(torch.equal(a, b) for a, b in zip(found, expected) if a is not None)
    assert asked[step].counts[0].tolist() == [tasks.count(task) for task in range(4)]
