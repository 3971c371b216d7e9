"""DKD and DIST: by hand, their limits, and where they are degenerate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.objectives.terms import Seen
from kdtoolkit.objectives.terms.dist import DIST, column_loss, correlation, row_loss
from kdtoolkit.objectives.terms.dkd import DKD, dkd
from kdtoolkit.ops import soft_cross_entropy

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4)


def test_dkd_by_hand():
    teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
    student = torch.tensor([[0.2, 0.4, 0.4]]).log()
    labels = torch.tensor([0])
    target = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    rest = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 8.0)):
        value = dkd(student, teacher, labels, target=weights[0], non_target=weights[1], temperature=1.0)
        torch.testing.assert_close(value, torch.tensor([weights[0] * target + weights[1] * rest]))


@settings(max_examples=40, deadline=None)
@given(LOGITS, LOGITS, st.integers(0, 3), st.floats(0.5, 8))
def test_kl_is_the_target_part_and_the_rest_times_what_the_teacher_leaves_to_it(student, teacher, gold, temperature):
    student, teacher = torch.tensor([student]), torch.tensor([teacher])
    labels = torch.tensor([gold])
    parts = [
        dkd(student, teacher, labels, target=a, non_target=b, temperature=temperature) for a, b in ((1, 0), (0, 1))
    ]
    left = 1 - (teacher / temperature).softmax(1)[:, gold]
    plain = soft_cross_entropy(student, teacher, kind="kl", temperature=temperature, reduction="none")
    torch.testing.assert_close(parts[0] + left * parts[1], plain, rtol=1e-4, atol=1e-4)


def test_for_two_classes_dkd_is_plain_distillation():
    student, teacher, labels = torch.randn(6, 2, requires_grad=True), torch.randn(6, 2), torch.randint(2, (6,))
    value = dkd(student, teacher, labels, target=1.5, non_target=8.0, temperature=3.0)
    plain = 1.5 * soft_cross_entropy(student, teacher, kind="kl", temperature=3.0, reduction="none")
    torch.testing.assert_close(value, plain)
    gradients = [torch.autograd.grad(loss.sum(), student)[0] for loss in (value, plain)]
    torch.testing.assert_close(*gradients)


def test_one_class_has_nothing_to_learn():
    student = torch.randn(3, 1, requires_grad=True)
    labels = torch.zeros(3, dtype=torch.int64)
    value = dkd(student, torch.randn(3, 1), labels, target=1.0, non_target=8.0, temperature=2.0)
    value.sum().backward()
    assert torch.equal(value, torch.zeros(3)) and torch.equal(student.grad, torch.zeros(3, 1))


def test_rows_without_a_gold_class_are_left_out():
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    labels = torch.tensor([2, -100, 0, -100])
    value = dkd(student, teacher, labels, target=1.0, non_target=8.0, temperature=4.0)
    value.sum().backward()
    assert (value == 0).tolist() == [False, True, False, True]
    assert student.grad.abs().sum(1).eq(0).tolist() == [False, True, False, True]


def test_at_a_high_temperature_dkd_tends_to_squared_differences_of_logits():
    student, teacher, labels = torch.randn(5, 4), torch.randn(5, 4), torch.randint(4, (5,))

    def at(temperature, target, non_target):
        sides = student.double(), teacher.double()
        return dkd(*sides, labels, target=target, non_target=non_target, temperature=temperature)

    # The rest among themselves: T^2 KL tends to half the variance of the difference over those classes.
    difference = torch.stack([torch.cat([d[:g], d[g + 1 :]]) for d, g in zip(student - teacher, labels.tolist())])
    torch.testing.assert_close(at(100.0, 0.0, 1.0), difference.var(1, correction=0) / 2, rtol=0.05, atol=2e-2)


def test_huge_logits_stay_finite():
    student = torch.tensor([[300.0, -300.0, 0.0], [0.0, 0.0, 500.0]], requires_grad=True)
    teacher = torch.tensor([[-300.0, 300.0, 0.0], [500.0, -500.0, 0.0]])
    value = dkd(student, teacher, torch.tensor([0, 0]), target=1.0, non_target=8.0, temperature=1.0)
    value.sum().backward()
    assert bool(value.isfinite().all()) and bool(student.grad.isfinite().all())


@pytest.mark.parametrize("term", [DKD(None, None), DIST(None, None), DIST(None, None, columns=0.0)])
def test_classes_may_come_in_any_order(term):
    student, teacher, labels = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -100, 0])
    order = torch.tensor([2, 0, 3, 1])
    moved = torch.where(labels < 0, labels, order.argsort()[labels.clamp(min=0)])
    none = torch.ones(6, 1, dtype=torch.bool)
    value = term.loss(Seen({}, {}, none, student, teacher, labels, 2.0))
    other = term.loss(Seen({}, {}, none, student[:, order], teacher[:, order], moved, 2.0))
    torch.testing.assert_close(other, value)


@pytest.mark.parametrize("cls", [DKD, DIST])
def test_the_temperature_is_the_objectives_unless_the_term_has_its_own(cls):
    student, teacher, labels = torch.randn(6, 4), torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    none = torch.ones(6, 1, dtype=torch.bool)
    seen = [Seen({}, {}, none, student, teacher, labels, temperature) for temperature in (4.0, 1.0)]
    torch.testing.assert_close(cls(None, None).loss(seen[0]), cls(None, None, temperature=4.0).loss(seen[1]))
    assert not torch.allclose(cls(None, None).loss(seen[0]), cls(None, None).loss(seen[1]))
    with pytest.raises(ValueError, match="temperature: 0 is not positive"):
        cls(None, None, temperature=0.0)


def test_dkd_weights_are_not_negative():
    with pytest.raises(ValueError, match="non_target: a weight of -1 is negative"):
        DKD(None, None, non_target=-1.0)
    with pytest.raises(ValueError, match="rows: a weight of -2 is negative"):
        DIST(None, None, rows=-2.0)
    with pytest.raises(ValueError, match="target and non_target both weigh 0"):
        DKD(None, None, target=0.0, non_target=0.0)
    with pytest.raises(ValueError, match="rows and columns both weigh 0"):
        DIST(None, None, rows=0.0, columns=0.0)


def test_correlation_by_hand():
    a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    b = torch.tensor([[2.0, 4.0, 6.0], [1.0, 0.0, 2.0], [1.0, 2.0, 3.0]])
    torch.testing.assert_close(correlation(a, b, 1), torch.tensor([1.0, 0.5, 0.0]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5))
def test_correlation_does_not_see_scale_nor_shift(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(4, 5, generator=generator), torch.randn(4, 5, generator=generator)
    for dim in (0, 1):
        torch.testing.assert_close(correlation(scale * a + shift, b, dim), correlation(a, b, dim), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(correlation(b, a, dim), correlation(a, b, dim))


def test_dist_by_hand():
    student = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    teacher = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
    # First row: centred (1/6, -1/30, -2/15) against its mirror image; of two rows each column's correlation is 1 or -1.
    first = (2 * (1 / 6) * (-2 / 15) + (1 / 30) ** 2) / ((1 / 6) ** 2 + (1 / 30) ** 2 + (2 / 15) ** 2)
    torch.testing.assert_close(row_loss(student, teacher), torch.tensor([1 - first, 0.0]))
    # Columns: 0.5 > 0.1 and 0.2 > 0.1: 1; 0.3 < 0.6 both: 1; 0.2 < 0.3 and 0.5 > 0.3: -1.
    torch.testing.assert_close(column_loss(student, teacher), torch.tensor(1 - (1 + 1 - 1) / 3))


def test_for_two_classes_the_rows_of_dist_teach_nothing_and_its_columns_do():
    logits = torch.randn(8, 2, requires_grad=True)
    teacher = torch.randn(8, 2).softmax(1)
    rows = row_loss(logits.softmax(1), teacher)
    assert torch.allclose(rows * (2 - rows), torch.zeros(8), atol=1e-5)
    (gradient,) = torch.autograd.grad(rows.sum(), logits)
    assert float(gradient.abs().max()) < 1e-5
    (gradient,) = torch.autograd.grad(column_loss(logits.softmax(1), teacher), logits)
    assert float(gradient.abs().max()) > 1e-3


def test_what_does_not_vary_has_no_correlation_and_no_gradient():
    student = torch.zeros(4, 3, requires_grad=True)
    teacher = torch.randn(4, 3).softmax(1)
    value = row_loss(student.softmax(1), teacher).sum() + column_loss(student.softmax(1), teacher)
    value.backward()
    assert float(value.detach()) == 5.0 and torch.equal(student.grad, torch.zeros(4, 3))
    single = torch.randn(1, 3, requires_grad=True)
    column_loss(single.softmax(1), teacher[:1]).backward()
    assert torch.equal(single.grad, torch.zeros(1, 3))
