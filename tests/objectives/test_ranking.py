"""The loss over the candidates of a query: values by hand, what it falls back to, and what must not change it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kdtoolkit import Task
from kdtoolkit.heads import HeadOutputs
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.objectives.ranking import mean_odds
from kdtoolkit.recipe.schema import Objective

QNLI = Task("qnli", labels=("yes", "no"), text=("a", "b"))
SST2 = Task("sst2", labels=("bad", "good"), text=("s",))


def batch_of(groups, labels, teacher=None, tasks=None):
    """A batch of ranked rows; teacher: (members, rows, 2)."""
    rows = len(groups)
    return SimpleNamespace(
        tasks=torch.zeros(rows, dtype=torch.int64) if tasks is None else torch.as_tensor(tasks),
        labels=torch.as_tensor(labels, dtype=torch.float32),
        targets=None,
        teacher=teacher,
        groups=torch.as_tensor(groups),
        features=None,
        featured=None,
    )


def heads_of(outputs):
    rows = len(outputs)
    return HeadOutputs(outputs, torch.zeros(rows, dtype=torch.int64), torch.full((rows,), 2))


def objective(tasks=(QNLI,), ranking=None, steps=10, **options):
    ranking = {0: 0} if ranking is None else ranking
    return DistillationObjective(tasks, Objective(**options), steps=steps, ranking=ranking)


def relevances(values):
    """Logits of a ranked head whose relevant label is the first."""
    values = torch.as_tensor(values, dtype=torch.float32)
    return torch.stack([values, torch.zeros_like(values)], 1).requires_grad_()


def odds(values):
    """A teacher of one member with these log-odds, on a level of its own a row."""
    values = torch.as_tensor(values, dtype=torch.float32)
    level = torch.linspace(-3, 3, len(values))
    return torch.stack([values + level, level], 1).unsqueeze(0)


def test_gold_is_the_negative_log_share_of_the_positive_by_hand():
    # Two queries; in the first the second candidate is relevant, in the second the first.
    outputs = relevances([1.0, 2.0, 0.0, 0.5, -0.5])
    result = objective(alpha=1.0)(heads_of(outputs), batch_of([7, 7, 7, 3, 3], [1, 0, 1, 0, 1]), 0)
    one = -math.log(math.exp(2) / (math.exp(1) + math.exp(2) + 1))
    two = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(-0.5)))
    assert result.loss.item() == pytest.approx(one + two, rel=1e-6)
    assert result.hard.tolist() == pytest.approx([one + two], rel=1e-6)
    assert (result.rows.item(), result.hard_rows.item(), result.soft_rows.item()) == (5, 5, 0)
    result.loss.backward()
    shares = torch.tensor([1.0, 2.0, 0.0]).softmax(0) - torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(outputs.grad[:3, 0], shares)
    torch.testing.assert_close(outputs.grad[:, 0], -outputs.grad[:, 1])


def test_several_positives_share_the_target():
    result = objective(alpha=1.0)(heads_of(relevances([1.0, 3.0, 0.0])), batch_of([1, 1, 1], [0, 0, 1]), 0)
    log_shares = torch.tensor([1.0, 3.0, 0.0]).log_softmax(0)
    assert result.loss.item() == pytest.approx(-(log_shares[0] + log_shares[1]).item() / 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["ce", "kl"])
@pytest.mark.parametrize("scale", [True, False])
def test_soft_is_the_cross_entropy_of_the_two_softmaxes_over_the_group(kind, scale):
    student, teacher = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.5, -2.0])
    made = objective(alpha=0.0, temperature=2.0, kind=kind, scale_T2=scale)
    result = made(heads_of(relevances(student)), batch_of([0, 0, 0], [math.nan] * 3, odds(teacher)), 0)
    target = (teacher / 2).softmax(0)
    expected = -(target * (student / 2).log_softmax(0)).sum()
    if kind == "kl":
        expected = expected + (target * target.log()).sum()
    torch.testing.assert_close(result.loss, expected * (4 if scale else 1))
    assert result.soft_rows.item() == 3


def test_alpha_and_the_weight_of_the_task_mix_the_parts():
    batch = batch_of([0, 0, 0], [1, 0, 1], odds([1.0, 0.5, -2.0]))
    outputs = relevances([0.3, -1.0, 2.0])
    soft = objective(alpha=0.0)(heads_of(outputs), batch, 0).loss
    gold = objective(alpha=1.0)(heads_of(outputs), batch, 0).loss
    mixed = objective(alpha=0.3, weight=2.0)(heads_of(outputs), batch, 0)
    torch.testing.assert_close(mixed.loss, 2 * (0.3 * gold + 0.7 * soft))
    torch.testing.assert_close(mixed.soft, soft.detach().unsqueeze(0))
    torch.testing.assert_close(mixed.hard, gold.detach().unsqueeze(0))


@given(st.floats(0.3, 30), st.integers(0, 99))
@settings(max_examples=15)
def test_a_student_that_ranks_as_its_teacher_has_no_divergence_whatever_the_level(temperature, seed):
    teacher = 3 * torch.randn(4, generator=torch.Generator().manual_seed(seed))
    outputs = relevances(teacher + 5.0)
    made = objective(alpha=0.0, temperature=temperature, kind="kl")
    result = made(heads_of(outputs), batch_of([2] * 4, [math.nan] * 4, odds(teacher)), 0)
    assert abs(result.loss.item()) < 1e-5 * temperature**2
    result.loss.backward()
    assert outputs.grad.abs().max() < 1e-5 * max(temperature, 1)


@pytest.mark.parametrize(
    ("groups", "labels"),
    [([1, 2, 3], [0, 1, 0]), ([1, 1, 1], [1, 1, 1]), ([1, 1, 1], [0, 0, 0]), ([1, 1, 2], [math.nan, 0, 1])],
    ids=["of one row", "without a positive", "without a negative", "of one labelled row"],
)
def test_groups_without_a_comparison_pay_for_each_row(groups, labels):
    outputs = relevances([0.3, -1.0, 2.0])
    ranked = objective(alpha=1.0)(heads_of(outputs), batch_of(groups, labels), 0)
    known = ~torch.tensor(labels).isnan()
    gold = torch.tensor(labels)[known].long()
    torch.testing.assert_close(ranked.loss, functional.cross_entropy(outputs[known], gold, reduction="sum"))


def test_the_soft_part_of_a_lone_candidate_is_its_own():
    outputs, teacher = relevances([0.3, -1.0, 2.0]), odds([1.0, 0.5, -2.0])
    batch = batch_of([1, 2, 3], [math.nan] * 3, teacher)
    torch.testing.assert_close(
        objective(alpha=0.0)(heads_of(outputs), batch, 0).loss,
        objective(ranking={}, alpha=0.0)(heads_of(outputs), batch, 0).loss,
    )


def test_soft_and_gold_part_of_a_group_fall_back_apart():
    # Both candidates are irrelevant: gold row by row, soft by group.
    outputs, teacher = relevances([0.3, -1.0]), odds([1.0, 0.5])
    result = objective(alpha=0.25, temperature=1.0)(heads_of(outputs), batch_of([1, 1], [1, 1], teacher), 0)
    gold = functional.cross_entropy(outputs, torch.tensor([1, 1]), reduction="sum")
    soft = -(torch.tensor([1.0, 0.5]).softmax(0) * outputs[:, 0].log_softmax(0)).sum()
    torch.testing.assert_close(result.loss, 0.25 * gold + 0.75 * soft)
    torch.testing.assert_close(result.hard.squeeze(), gold.detach())
    # The teacher says nothing about one candidate: soft row by row, gold by group; that row has gold alone.
    silent = teacher.clone()
    silent[:, 0] = math.nan
    result = objective(alpha=0.25, temperature=1.0)(heads_of(outputs), batch_of([1, 1], [0, 1], silent), 0)
    shared = -outputs[:, 0].log_softmax(0)[0] / 2
    own = functional.cross_entropy(outputs[1:], torch.sigmoid(torch.tensor([[0.5, -0.5]])))
    torch.testing.assert_close(result.loss, shared + 0.25 * shared + 0.75 * own)


def random_batch(seed, ensemble=2):
    """24 rows: ranked ones in groups of 1 to 4, some without label or teacher, and rows of another task."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(24) // torch.randint(1, 5, (1,), generator=generator)
    tasks = (torch.rand(24, generator=generator) < 0.2).long()
    groups = torch.where(tasks == 1, 100 + torch.arange(24), groups)
    labels = torch.randint(0, 2, (24,), generator=generator).float()
    labels[torch.rand(24, generator=generator) < 0.2] = math.nan
    teacher = 2 * torch.randn(ensemble, 24, 2, generator=generator)
    teacher[torch.rand(ensemble, 24, generator=generator) < 0.2] = math.nan
    outputs = 2 * torch.randn(24, 2, generator=generator)
    return outputs, batch_of(groups, labels, teacher, tasks)


def part(batch, rows):
    teacher = batch.teacher[:, rows]
    return batch_of(batch.groups[rows], batch.labels[rows], teacher, batch.tasks[rows])


@given(st.integers(0, 999), st.sampled_from(["probabilities", "logits"]))
@settings(max_examples=25)
def test_cutting_a_batch_between_groups_or_permuting_it_changes_nothing(seed, ensemble):
    outputs, batch = random_batch(seed)
    made = objective((QNLI, SST2), alpha=0.4, ensemble=ensemble)

    def of(*parts):
        leaf = outputs.clone().requires_grad_()
        results = [made(heads_of(leaf[rows]), part(batch, rows), 0) for rows in parts]
        total = sum(result.loss for result in results)
        total.backward()
        sums = [sum(values) for values in zip(*(result[1:6] for result in results))]
        return [total.detach(), leaf.grad, *sums]

    every = torch.arange(24)
    whole = of(every)
    some = set(batch.groups.unique()[::2].tolist())
    inside = torch.tensor([number in some for number in batch.groups.tolist()])
    for parts in ([every[inside], every[~inside]], [torch.randperm(24)]):
        for received, expected in zip(of(*parts), whole, strict=True):
            torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 999))
@settings(max_examples=15)
def test_permuting_the_two_labels_with_their_columns_changes_nothing(seed):
    outputs, batch = random_batch(seed)
    flipped = part(batch, torch.arange(24))
    flipped.labels, flipped.teacher = 1 - batch.labels, batch.teacher.flip(2)
    one = objective((QNLI, SST2), alpha=0.4)(heads_of(outputs), batch, 0)
    other = objective((QNLI, SST2), ranking={0: 1}, alpha=0.4)(heads_of(outputs.flip(1)), flipped, 0)
    torch.testing.assert_close(other.loss, one.loss)


def test_other_tasks_of_the_batch_are_not_touched():
    outputs, batch = random_batch(3)
    chosen = (batch.tasks == 1).nonzero().squeeze(1)
    assert len(chosen)
    leaf = outputs.clone().requires_grad_()
    objective((QNLI, SST2))(heads_of(leaf), batch, 0).loss.backward()
    alone = outputs[chosen].requires_grad_()
    objective((QNLI, SST2), ranking={})(heads_of(alone), part(batch, chosen), 0).loss.backward()
    torch.testing.assert_close(leaf.grad[chosen], alone.grad)


def test_the_mean_odds_of_an_ensemble_are_those_of_its_mean_probability():
    members = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, math.nan]])
    weights = torch.tensor([[1.0, 1.0, 2.0], [3.0, 1.0, 0.0]])
    chances = torch.sigmoid(members).nan_to_num()
    mean = (chances * weights).sum(0) / weights.sum(0)
    torch.testing.assert_close(mean_odds(members, weights), torch.logit(mean))
    torch.testing.assert_close(mean_odds(members[:1], weights[:1]), members[0])


def test_a_teacher_that_is_certain_ranks_its_candidate_first_and_stays_finite():
    teacher = odds([0.0, 0.0])
    teacher[0] = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    outputs = relevances([0.3, -1.0])
    result = objective(alpha=0.0, temperature=1.0)(heads_of(outputs), batch_of([1, 1], [math.nan] * 2, teacher), 0)
    torch.testing.assert_close(result.loss, -outputs[:, 0].log_softmax(0)[0])
    result.loss.backward()
    assert bool(outputs.grad.isfinite().all())


def test_huge_relevances_stay_finite():
    outputs = relevances([3e4, -3e4, 0.0])
    result = objective(alpha=0.5)(heads_of(outputs), batch_of([1, 1, 1], [1, 0, 1], odds([1.0, 2.0, 3.0])), 0)
    result.loss.backward()
    assert math.isfinite(result.loss.item()) and bool(outputs.grad.isfinite().all())
