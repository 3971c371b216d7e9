"""PCGrad's projections, against two-dimensional gradients worked by hand and against the algorithm as it is written."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.balance import projected_sum, shuffled_orders


def total(gradients, orders):
    """The sum of the projected gradients, (values,)."""
    rows = torch.tensor(gradients, dtype=torch.float64)
    return projected_sum(rows @ rows.t(), orders) @ rows


def as_written(gradients, orders):
    """Algorithm 1 of Yu et al. 2020, gradient by gradient."""
    rows = torch.tensor(gradients, dtype=torch.float64)
    projected = rows.clone()
    for task, order in enumerate(orders):
        for other in order:
            product = projected[task] @ rows[other]
            if product < 0:
                projected[task] -= product / rows[other].square().sum() * rows[other]
    return projected.sum(0)


def test_two_gradients_that_conflict_each_lose_what_opposes_the_other():
    # g1 = (1, 0) and g2 = (-1, 1): g1 . g2 = -1. g1' = g1 + g2 / 2 = (0.5, 0.5); g2' = g2 + g1 = (0, 1).
    torch.testing.assert_close(
        total([[1.0, 0.0], [-1.0, 1.0]], [[1], [0]]), torch.tensor([0.5, 1.5], dtype=torch.float64)
    )


def test_opposite_gradients_leave_nothing():
    torch.testing.assert_close(
        total([[2.0, 0.0], [-1.0, 0.0]], [[1], [0]]), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15
    )


def test_the_order_matters_where_three_meet():
    gradients = [[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]]
    # g1 meets g2 first: (0.5, 0.5), whose product with g3 is -1: + g3 / 2 = (0, 0). g3 first gives (0.5, -0.5), then
    # (0, 0) too. g2 meets g1 first: (0, 1), then g3: + g3 / 2 = (-0.5, 0.5); g3 first: no conflict, then g1: (0, 1).
    first = total(gradients, [[1, 2], [0, 2], [0, 1]])
    second = total(gradients, [[1, 2], [2, 0], [0, 1]])
    torch.testing.assert_close(second - first, torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_without_a_conflict_the_weights_are_exactly_one():
    rows = torch.tensor([[1.0, 0.2, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 5.0]])
    assert projected_sum(rows @ rows.t(), shuffled_orders(3, 0)).tolist() == [1.0, 1.0, 1.0]
    assert projected_sum(torch.tensor([[4.0]]), [[]]).tolist() == [1.0]


VALUES = st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=5)


@given(VALUES, st.integers(0, 10**6))
def test_the_weights_give_what_the_algorithm_gives(gradients, seed):
    orders = shuffled_orders(len(gradients), seed)
    torch.testing.assert_close(total(gradients, orders), as_written(gradients, orders), rtol=0, atol=1e-6)


@given(VALUES, st.integers(0, 10**6))
def test_a_task_without_gradient_changes_nothing(gradients, seed):
    orders = shuffled_orders(len(gradients) + 1, seed)
    idle = len(gradients)
    without = [[other for other in order if other != idle] for order in orders[:idle]]
    torch.testing.assert_close(total([*gradients, [0.0] * 4], orders), total(gradients, without))


@given(VALUES.filter(lambda g: len(g) == 2))
def test_two_projected_gradients_never_oppose_the_other_task(gradients):
    rows = torch.tensor(gradients, dtype=torch.float64)
    summed = total(gradients, [[1], [0]])
    # Each of the two is orthogonal to the other task's gradient, or was no conflict; so the sum descends for both.
    assert bool((rows @ summed >= -1e-9).all())


def test_orders_are_permutations_of_the_others_and_follow_the_seed():
    orders = shuffled_orders(5, 7)
    assert orders == shuffled_orders(5, 7)
    assert [sorted(order) for order in orders] == [[j for j in range(5) if j != i] for i in range(5)]
    assert len({str(shuffled_orders(5, seed)) for seed in range(20)}) > 15
