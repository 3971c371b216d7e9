"""Uncertainty weights: values by hand, the best log-variance in closed form, and that a loss is a sum over rows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.balance import LogVariances, precision, uncertainty_losses

REGRESSION = torch.tensor([False, True])


def test_values_by_hand():
    s = torch.tensor([math.log(2.0), math.log(4.0)])
    losses = uncertainty_losses(torch.tensor([6.0, 8.0]), torch.tensor([3.0, 2.0]), s, REGRESSION)
    # classification: 6 / 2 + 3 * log(2) / 2; regression: 8 / (2 * 4) + 2 * log(4) / 2.
    torch.testing.assert_close(losses, torch.tensor([3 + 1.5 * math.log(2), 1 + math.log(4)]))
    torch.testing.assert_close(precision(s, REGRESSION), torch.tensor([0.5, 0.125]))


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.booleans())
def test_the_best_log_variance_is_the_mean_loss(loss, rows, regression):
    """d/ds (L e^-s + w s / 2) = 0 at e^s = 2 L / w; the regression form has half the loss: e^s = L / w."""
    s = torch.tensor([math.log(loss / rows * (1 if regression else 2))], dtype=torch.float64, requires_grad=True)
    args = torch.tensor([loss]).double(), torch.tensor([rows]).double()
    uncertainty_losses(*args, s, torch.tensor([regression])).sum().backward()
    assert s.grad.item() == pytest.approx(0.0, abs=1e-5 * rows)


def test_it_is_a_sum_over_rows():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(7, 2, generator=generator)
    weights = torch.rand(7, 2, generator=generator)
    s = torch.tensor([0.3, -0.7])
    whole = uncertainty_losses(rows.sum(0), weights.sum(0), s, REGRESSION)
    parts = sum(uncertainty_losses(row, weight, s, REGRESSION) for row, weight in zip(rows, weights))
    torch.testing.assert_close(parts, whole)


def test_an_idle_task_s_log_variance_gets_no_gradient():
    values = LogVariances(3)
    said = values(torch.tensor([2, 0, 2]))
    assert said.shape == (3,)
    said.square().sum().backward()
    assert [value.grad is None for value in values.values] == [False, True, False]
